"""Which arguments to differentiate with respect to: `argnums`, checked.

indices   : int | Sequence[int] -> int | tuple[int, ...]
positions : int | tuple[int, ...], number of arguments -> list of positions from the left
"""

import operator
from collections.abc import Sequence
from typing import Any

from liftax.errors import ArityError
from liftax.explain.transform import Transform
from liftax.explain.values import describe


def indices(argnums: int | Sequence[int], transform: Transform, hint: str = "") -> int | tuple[int, ...]:
    """Return `argnums` as an integer or a tuple of integers.

    Args:
        argnums: What the user gave.
        transform: For the error text.
        hint: What else may be wrong.

    Raises:
        ArityError: it is neither an integer nor a sequence of integers.
    """
    try:
        return _index(argnums)
    except TypeError:
        pass
    try:
        return tuple(_index(i) for i in argnums)  # type: ignore[union-attr]
    except TypeError:
        entries = argnums if isinstance(argnums, tuple | list) else (argnums,)
        plain = all(isinstance(x, str | int | float | None) for x in entries)
        got = repr(argnums) if plain else describe(argnums)  # an array would be printed whole
        raise ArityError(
            f"{transform} got argnums={got}, expected an integer or a sequence of integers.{hint}"
        ) from None


def positions(argnums: int | tuple[int, ...], n: int, transform: Transform) -> list[int]:
    """Return `argnums` as positions from the left.

    Raises:
        ArityError: one is not below `n`, or two name the same argument.
    """
    asked = argnums if isinstance(argnums, tuple) else (argnums,)
    for i in asked:
        if not -n <= i < n:
            raise ArityError(
                f"{transform} differentiates with respect to positional argument {i} (argnums={argnums}), and the "
                "call has "
                f"{n} positional argument{'s' * (n != 1)}. Pass it by position, or change argnums."
            )
    where = [i % n for i in asked]
    if len(set(where)) < len(where):
        raise ArityError(f"{transform} got argnums={argnums}, which names an argument twice. Name each once.")
    return where


def _index(i: Any) -> int:
    if isinstance(i, bool):  # an option that slipped into the place of argnums
        raise TypeError
    return operator.index(i)
