"""Draw how tracing grows with depth, from the JSON of a run: `python -m benchmarks.plot RESULTS.json FIGURE.svg`."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

STYLES = {
    "by hand": ("black", "o"),
    "liftax": ("tab:red", "D"),
    "tuned": ("tab:gray", "x"),
    "linen": ("tab:blue", "s"),
    "nnx": ("tab:cyan", "v"),
    "equinox": ("tab:green", "^"),
    "haiku": ("tab:orange", "P"),
}


def growth(results: dict[str, Any]) -> Figure:
    """Seconds to trace over the number of blocks, one line an implementation, bars from quartile to quartile."""
    rows = [row for row in results["rows"] if row["case"] == "depth" and row["depth"] is not None]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, (color, marker) in STYLES.items():
        points = [(row["depth"], *row["seconds"][name]) for row in rows if name in row["seconds"]]
        if points:
            x, median, low, high = zip(*points, strict=True)
            below = [m - a for m, a in zip(median, low, strict=True)]
            above = [b - m for m, b in zip(median, high, strict=True)]
            style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1, "capsize": 2}
            axes.errorbar(x, median, [below, above], label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="blocks", ylabel="seconds to trace", title="A residual MLP, traced")
    depths = [row["depth"] for row in rows]
    axes.set_xticks(depths, [str(n) for n in depths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.supxlabel(results["versions"], fontsize=6)
    return figure


def digest(results: dict[str, Any]) -> str:
    """What tells one run from another: the figure carries it."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the figure: the same bytes for the same results."""
    with matplotlib.rc_context({"svg.hashsalt": "liftax"}):
        metadata = {"Date": None, "Description": f"results {digest(results)}"} if path.suffix == ".svg" else None
        growth(results).savefig(path, metadata=metadata)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
