"""Budgets as people write them: bytes, `"2 GiB"`, or a share such as `"40%"`."""

import re
from typing import Any

from liftax.errors import MemoryPlanError

UNITS = {
    "b": 1,
    **{f"{p}b": 1000**k for k, p in enumerate("kmgt", 1)},
    **{f"{p}ib": 1024**k for k, p in enumerate("kmgt", 1)},
}


def parse_budget(budget: Any) -> tuple[int | None, float | None]:
    """Return `(bytes, None)`, or `(None, share)` of what plain differentiation keeps.

    Raises:
        MemoryPlanError: `budget` is neither.
    """
    if isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0:
        return budget, None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-zA-Z]+|%)\s*", budget) if isinstance(budget, str) else None
    if found and found[2] == "%":
        return None, float(found[1]) / 100
    if found and found[2].lower() in UNITS:
        return int(float(found[1]) * UNITS[found[2].lower()]), None
    raise MemoryPlanError(
        f"checkpoint: budget={budget!r} is not a number of bytes. Write bytes as an integer, with a unit as in "
        "'500 MB' or '2 GiB', or as a share of what plain differentiation keeps, as in '40%'."
    )


def parse_recompute(recompute: Any) -> float:
    """Return `recompute` as a number.

    Raises:
        MemoryPlanError: it is not a number, or negative.
    """
    if isinstance(recompute, bool) or not isinstance(recompute, int | float) or not recompute >= 0:
        raise MemoryPlanError(
            f"checkpoint: recompute={recompute!r} is not a share of FLOPs. Write 0.05 for at most 5 % more than the "
            "plain derivative, and 0 for what costs next to nothing."
        )
    return float(recompute)


def in_words(count: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    raise AssertionError
