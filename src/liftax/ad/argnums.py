"""Which arguments to differentiate with respect to: `argnums`, checked.

indices   : int | Sequence[int] -> int | tuple[int, ...]
positions : int | tuple[int, ...], number of arguments -> list of positions from the left
"""

import operator
from collections.abc import Sequence

from liftax.errors import ArityError


def indices(argnums: int | Sequence[int], what: str) -> int | tuple[int, ...]:
    """Return `argnums` as an integer or a tuple of integers.

    Raises:
        ArityError: it is neither an integer nor a sequence of integers.
    """
    try:
        return operator.index(argnums)  # type: ignore[arg-type]
    except TypeError:
        pass
    try:
        return tuple(operator.index(i) for i in argnums)  # type: ignore[union-attr]
    except TypeError:
        raise ArityError(f"{what} got argnums={argnums!r}, expected an integer or a sequence of integers.") from None


def positions(argnums: int | tuple[int, ...], n: int, what: str) -> list[int]:
    """Return `argnums` as positions from the left.

    Raises:
        ArityError: one is not below `n`, or two name the same argument.
    """
    asked = argnums if isinstance(argnums, tuple) else (argnums,)
    for i in asked:
        if not -n <= i < n:
            raise ArityError(
                f"{what} differentiates with respect to positional argument {i} (argnums={argnums}), and the call has "
                f"{n} positional argument{'s' * (n != 1)}. Pass it by position, or change argnums."
            )
    where = [i % n for i in asked]
    if len(set(where)) < len(where):
        raise ArityError(f"{what} got argnums={argnums}, which names an argument twice. Name each once.")
    return where
