"""The table of a run, as text for the terminal and as Markdown for the documentation, from what is in the JSON."""

from collections.abc import Sequence
from typing import Any

COLUMNS = ("liftax", "liftax while", "tuned", "linen", "nnx", "equinox", "haiku", "nested")
"""Implementations beside the one by hand, in the order of the table."""


def figure(value: float) -> str:
    """A number with three digits worth reading."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(spread: Sequence[float] | None) -> str:
    """`median [quartile-quartile]`, or the median alone where there is no spread."""
    if spread is None:
        return ""
    median, low, high = spread
    return figure(median) if low == high else f"{figure(median)} [{figure(low)}-{figure(high)}]"


def goal(row: dict[str, Any]) -> str:
    """The goal, and whether liftax meets it."""
    if row["goal"] is None:
        return ""
    reached = row["cells"].get("liftax")
    verdict = "" if reached is None else " met" if reached[0] <= row["goal"] + 0.005 else " MISSED"
    return f"{row['goal']:g}{verdict}"


def lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The table's cells, the heading first."""
    names = [name for name in COLUMNS if any(name in row["cells"] for row in rows)]
    found = [["case", "", "by hand", *(f"{name}/hand" for name in names), "goal"]]
    for row in rows:
        own = f"{figure(row['hand']) if row['unit'] else format(row['hand'], '.10g')} {row['unit']}".strip()
        found.append([row["case"], row["what"], own, *(cell(row["cells"].get(name)) for name in names), goal(row)])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out rows as aligned text."""
    found = lines(rows)
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    found.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in found
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay out rows as a table in Markdown."""
    heading, *rest = [f"| {' | '.join(line)} |" for line in lines(rows)]
    return "\n".join([heading, "|" + " --- |" * heading.count(" | ") + " --- |", *rest])
