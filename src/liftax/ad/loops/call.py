"""From a call of a loop to its program: checks, flat values, and the types of what is carried.

What JAX's own loop raises for, in the types of the carry or in what a function returns, is raised by JAX's own loop.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from liftax import _compat
from liftax.errors import ArityError
from liftax.explain.values import describe

SMALL = 256
"""Up to so many steps all states are kept, unless a number is given."""
DEFAULT = 128
"""How many states are kept of a loop that may be longer, unless a number is given."""


def check_number(value: Any, name: str, what: str, least: int) -> None:
    """Raise `ArityError` unless `value` is None, or an integer that is not less than `least`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least):
        raise ArityError(
            f"{what} got {name}={describe(value)}, expected None or a Python integer from {least} on: memory is laid "
            "out for it before anything is computed."
        )


def chosen(checkpoints: int | None, limit: int | None) -> int:
    """Return how many states to keep of a loop that has `limit` steps at most, if that is known."""
    if checkpoints is None:
        checkpoints = limit if limit is not None and limit <= SMALL else DEFAULT
    return max(int(checkpoints if limit is None else min(checkpoints, limit)), 1)


def staged_body(
    body: Callable[..., tuple[Any, Any]], init: Any, complain: Callable[[Any], Any], *args: Any
) -> tuple[Any, _compat.Staged]:
    """Trace `body : carry -> args -> (carry, rest)`, and give `init` the types that it returns, as JAX's loops do.

    Args:
        body: The function. It returns its carry flat, as a list.
        init: The carry to start with, flat.
        complain: Runs JAX's loop on a carry, which raises for one that does not fit.
        *args: What else it is called with.

    Returns:
        The initial carry, a list of arrays, and the function.
    """
    for _ in range(3):  # each time an array of weak type takes on the type of what replaces it
        traced = _compat.staged(body, init, *args)
        outs = [v.aval for v in traced.jaxpr.outvars[: len(init)]]
        same = [a.shape == b.shape and a.dtype == b.dtype for a, b in zip(init, outs, strict=True)]
        if all(same):
            return init, traced
        if any(
            not s and (a.shape != b.shape or not jax.typeof(a).weak_type)
            for s, a, b in zip(same, init, outs, strict=True)
        ):
            break
        init = [
            a if s else a.astype(jnp.promote_types(a.dtype, b.dtype)) for s, a, b in zip(same, init, outs, strict=True)
        ]
    raised(complain, init)


def raised(complain: Callable[..., Any], *args: Any) -> NoReturn:
    """Let JAX's own loop raise."""
    jax.eval_shape(complain, *args)
    raise AssertionError("JAX takes a loop that liftax does not")


def arrays(tree: Any) -> list[Any]:
    """Return the leaves of `tree` as arrays, of weak type if they are Python numbers."""
    return [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in jax.tree.leaves(tree)]
