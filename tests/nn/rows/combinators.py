"""Modules made of other modules."""

from typing import Any

from ..table import Mistake, Row


def chain(lib: Any) -> list[Any]:
    """Return layers that hand on an array, a dict and a tuple."""
    return [
        lib.Dense(5),
        lib.relu,
        lambda x: {"inputs": x, "deterministic": False},
        lib.Dropout(0.5),
        lambda x: (x, x),
        lambda x, y: x * y,
        lib.LayerNorm(),
    ]


ROWS = [
    Row(
        "Sequential",
        "default",
        lambda lib, dtype: lib.Sequential(chain(lib)),
        dtypes=("float32",),
        rngs=("dropout",),
        mistakes=(
            Mistake("function", ValueError, r"right: nn\.Sequential\(\[", make=lambda lib, _: lib.Sequential(lib.relu)),
            Mistake(
                "empty", ValueError, r"/inner \(Sequential\) has no layers", make=lambda lib, _: lib.Sequential([])
            ),
        ),
    ),
]
