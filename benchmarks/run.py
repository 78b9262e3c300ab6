"""Measure liftax beside the same arithmetic written by hand, and beside its peers; README.md says what is measured."""

import argparse
import importlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

import models_hand as hand
import models_linen
import models_tuned
from cases import CASES, Bench, Row
from measure import Spread
from models_linen import NAMESPACES

PEERS = ("nnx", "equinox", "haiku")


def implementations() -> tuple[dict[str, Any], list[str]]:
    """Everything that can be imported here, the hand-written version first, and a remark on everything that can't."""
    found: dict[str, Any] = {hand.NAME: hand.implementation(hand.NAME, hand.block)}
    notes = []
    for name in (*NAMESPACES, *PEERS):
        try:
            if name in NAMESPACES:
                found[name] = models_linen.implementation(name, importlib.import_module(NAMESPACES[name]))
            else:
                found[name] = importlib.import_module(f"models_{name}")
        except Exception as error:  # a library that is absent, or older or newer than JAX, costs its column
            notes.append(f"{name} skipped: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return found | {"tuned": models_tuned.implementation()}, notes


def figure(value: float) -> str:
    """A number with three digits worth reading."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(spread: Spread | None) -> str:
    """`median [quartile-quartile]`, or the median alone where there is no spread."""
    if spread is None:
        return ""
    if spread.low == spread.high:
        return figure(spread.median)
    return f"{figure(spread.median)} [{figure(spread.low)}-{figure(spread.high)}]"


def goal(row: Row) -> str:
    """The goal, and whether liftax meets it."""
    if row.goal is None:
        return ""
    reached = row.cells.get("liftax")
    verdict = "" if reached is None else " met" if reached.median <= row.goal + 0.005 else " MISSED"
    return f"{row.goal:g}{verdict}"


def table(rows: list[Row]) -> str:
    """Lay out rows as aligned text."""
    names = [name for name in ("liftax", "tuned", "linen", *PEERS) if any(name in row.cells for row in rows)]
    lines = [["case", "", hand.NAME, *(f"{name}/hand" for name in names), "goal"]]
    for row in rows:
        own = f"{figure(row.hand) if row.unit else f'{row.hand:.10g}'} {row.unit}".strip()
        lines.append([row.case, row.what, own, *(cell(row.cells.get(name)) for name in names), goal(row)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def versions(names: list[str]) -> str:
    """What ran where."""
    modules = {"liftax": "liftax", "linen": "flax", "equinox": "equinox", "haiku": "haiku"}
    parts = [f"{m} {getattr(importlib.import_module(m), '__version__', '')}" for n, m in modules.items() if n in names]
    machine = f"{jax.default_backend()}, {os.cpu_count()} cores"
    return ", ".join([f"Python {platform.python_version()}", f"jax {jax.__version__}", *parts, machine])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=CASES, metavar="CASE", help=f"one of {', '.join(CASES)}; may repeat"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a claim")
    parser.add_argument("--depth", type=int, default=48, help="blocks of the networks (default: 48)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases, print the table; 1 if liftax could not run or values disagreed."""
    options = parse(arguments)
    found, notes = implementations()
    rounds, budget, depths = (5, 2.0, (4, 16, 64)) if options.quick else (11, 3.5, (4, 16, 64, 256))
    bench = Bench(found, options.depth, depths, rounds, budget, notes, failed="liftax" not in found)
    heading = versions(list(found))
    print(heading)
    rows: list[Row] = []
    for name in options.only or CASES:
        start = time.perf_counter()
        rows += CASES[name](bench)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(table(rows))
    print("Ratios are medians [quartiles] over interleaved rounds, each round divided by its own hand-written sample.")
    for note in bench.notes:
        print(f"- {note}")
    if options.json:
        results = {"versions": heading, "notes": bench.notes, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(bench.failed)


if __name__ == "__main__":
    sys.exit(main())
