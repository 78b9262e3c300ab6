"""A report of what is kept as text, as HTML, as a picture. rich and matplotlib are imported where they are used."""

import html as html_
import importlib.util
import io
from typing import Any

from liftax.ad.memory.budget import in_words
from liftax.ad.memory.report import Report, Row

MOST = 25  # rows of a table; the rest is summed up in the last one
COLUMNS = ("module", "source", "operation", "array", "bytes", "times", "FLOPs to compute again")


def summary(report: Report) -> str:
    """Return what is kept in all, in a line, and beside it what would be without the plan."""
    line = f"kept for the backward pass: {in_words(report.computed_bytes)} computed"
    line += f", {in_words(report.bytes - report.computed_bytes)} of arguments and constants"
    plain = report.plain
    if plain is not None:
        more = 100 * (report.flops / max(1, plain.flops) - 1)
        line += f"; without the plan {in_words(plain.computed_bytes)} computed. FLOPs of the plan: {more:+.1f} %"
    return line


def cells(report: Report) -> list[tuple[str, ...]]:
    """Return the rows of the table as text."""
    shown = [_cells(row) for row in report.rows[:MOST]]
    rest = report.rows[MOST:]
    if rest:
        shown.append((f"{len(rest)} more", "", "", "", in_words(sum(row.bytes for row in rest)), "", ""))
    return shown


def _cells(row: Row) -> tuple[str, ...]:
    source = "/".join(row.source.rsplit("/", 2)[-2:])
    array = f"{row.dtype}[{','.join(map(str, row.shape))}]"
    times = str(row.times) if row.times > 1 else ""
    return row.path, source, row.primitive, array, in_words(row.bytes), times, f"{row.flops:.2g}" if row.flops else ""


def text(report: Report) -> str:
    """Return the report as a table, drawn by rich if it is installed."""
    rows = cells(report)
    if importlib.util.find_spec("rich") is None:
        table = [COLUMNS, *rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
        lines = ["  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, summary(report)])
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if i >= 4 else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=140, force_jupyter=False)
    console.print(table)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return "\n".join([*lines, summary(report)])


def html(report: Report) -> str:
    """Return the report as an HTML table."""
    line = lambda tag, row: "<tr>" + "".join(f"<{tag}>{html_.escape(x)}</{tag}>" for x in row) + "</tr>"  # noqa: E731
    body = "".join(line("td", row) for row in cells(report))
    return f"<p>{html_.escape(summary(report))}</p><table>{line('th', COLUMNS)}{body}</table>"


def plot(report: Report, ax: Any = None, depth: int | None = None) -> Any:
    """Draw bars of the bytes by module, without the plan and with it."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(7, 4), layout="constrained").add_subplot()
    series = [("planned" if report.plain else "kept", report)]
    if report.plain is not None:
        series.insert(0, ("plain", report.plain))
    totals = [r.by_module(depth) for _, r in series]
    names = sorted({n for t in totals for n in t}, key=lambda n: -max(t.get(n, 0) for t in totals))[:20]
    height = 0.8 / len(series)
    for k, ((label, shown), total) in enumerate(zip(series, totals, strict=True)):
        places = [i + (k - (len(series) - 1) / 2) * height for i in range(len(names))]
        label = f"{label}: {in_words(shown.computed_bytes)}"
        ax.barh(places, [total.get(n, 0) / 2**20 for n in names], height, label=label)
    ax.set_yticks(range(len(names)), [n or "(no name)" for n in names])
    ax.invert_yaxis()
    ax.set_xlabel("kept for the backward pass, MiB")
    ax.legend()
    return ax
