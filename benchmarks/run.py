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

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.peers.hand import models as hand
from benchmarks.peers.hand import networks as networks_hand
from benchmarks.peers.hand import tuned as models_tuned
from benchmarks.peers.linen import models as models_linen
from benchmarks.peers.linen import networks as networks_linen
from benchmarks.peers.linen.models import NAMESPACES

PEERS = ("nnx", "equinox", "haiku")
RESULTS = Path(__file__).parent / "results" / "latest.json"
PUBLISHED = Path(__file__).parents[1] / "docs" / "_static" / "benchmarks.json"


def implementations() -> tuple[dict[str, Any], list[str]]:
    """Everything that can be imported here, the hand-written version first, and a remark on everything that can't."""
    found: dict[str, Any] = {hand.NAME: hand.implementation(hand.NAME, hand.block)}
    notes = []
    for name in (*NAMESPACES, *PEERS):
        try:
            if name in NAMESPACES:
                found[name] = models_linen.implementation(name, importlib.import_module(NAMESPACES[name]))
            else:
                found[name] = importlib.import_module(f"benchmarks.peers.{name}.models")
        except Exception as error:  # a library that is absent, or older or newer than JAX, costs its column
            notes.append(f"{name} skipped: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return found | {"tuned": models_tuned.implementation()}, notes


def networks(found: list[str]) -> dict[str, Any]:
    """The networks of the libraries that were found, those by hand first."""
    made = {hand.NAME: networks_hand.implementation(hand.NAME, networks_hand.program)}
    for name in (name for name in NAMESPACES if name in found):
        program = networks_linen.networks(importlib.import_module(NAMESPACES[name]))
        made[name] = networks_hand.implementation(name, program)
    return made | {
        name: importlib.import_module(f"benchmarks.peers.{name}.networks") for name in PEERS if name in found
    }


def versions(names: list[str]) -> str:
    """What ran where."""
    modules = {"liftax": "liftax", "linen": "flax", "equinox": "equinox", "haiku": "haiku"}
    parts = [f"{m} {getattr(importlib.import_module(m), '__version__', '')}" for n, m in modules.items() if n in names]
    machine = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    return ", ".join([f"Python {platform.python_version()}", f"jax {jax.__version__}", *parts, machine])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=CASES, metavar="CASE", help=f"one of {', '.join(CASES)}; may repeat"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, small networks: for a look, not for a claim")
    parser.add_argument("--depth", type=int, help="blocks of the networks (default: 48; with --quick 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", default=RESULTS, help=f"where figures go ({RESULTS.name})")
    parser.add_argument("--publish", action="store_true", help="write figures and plot to where the documentation is")
    return parser.parse_args(arguments)


def write(results: dict[str, Any], path: Path) -> None:
    """Write the figures, the run before them beside them (git keeps those published), and the plot if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path != PUBLISHED:
        path.replace(path.with_name(f"{path.stem}-before.json"))
    path.write_text(json.dumps(results, indent=1) + "\n")
    if any(row["depth"] for row in results["rows"]):
        try:
            from benchmarks import plot
        except ImportError as error:
            print(f"no plot: {error}", file=sys.stderr)
        else:
            plot.draw(results, path.with_suffix(".svg"))


def main(arguments: list[str] | None = None) -> int:
    """Run the cases, print the table; 1 if liftax could not run or values disagreed."""
    options = parse(arguments)
    found, notes = implementations()
    rounds, budget, depths = (3, 0.5, (4, 16, 64)) if options.quick else (11, 2.0, (4, 16, 64, 256, 1024))
    depth = options.depth or (8 if options.quick else 48)
    own = networks(list(found))
    bench = Bench(found, own, depth, depths, rounds, budget, notes, options.quick, failed="liftax" not in found)
    heading = versions(list(found))
    print(heading)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    for name in options.only or CASES:
        start = time.perf_counter()
        try:
            rows += [asdict(row) for row in CASES[name](bench)]
        except Exception as error:  # what the other cases found is not lost
            bench.note(f"the case {name} ended early: {type(error).__name__}: {str(error).partition(chr(10))[0]:.200}")
            bench.failed = True
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if rows:
        print(report.table(rows))
    print("Ratios are medians [quartiles] over interleaved rounds, each round divided by its own hand-written sample.")
    for note in bench.notes:
        print(f"- {note}")
    seconds = round(time.perf_counter() - began)
    print(f"The run took {seconds} s.")
    results = {"versions": heading, "seconds": seconds, "notes": bench.notes, "rows": rows}
    for path in (options.json, *([PUBLISHED] if options.publish else [])):
        write(json.loads(json.dumps(results)), path)
    return int(bench.failed)


if __name__ == "__main__":
    sys.exit(main())
