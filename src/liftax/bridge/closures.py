"""Arrays that a function closes over, which no pytree shows.

closed_over : function -> name of such an array, or None
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def closed_over(fn: Any) -> str | None:
    """Return the name of an inexact array of JAX that `fn`, or a function that it closes over, closes over.

    NumPy's arrays are left out: they are constants to JAX too.
    """
    return _found(fn, set())


def _found(fn: Any, seen: set[int]) -> str | None:
    if id(fn) in seen:
        return None
    seen.add(id(fn))
    held: list[tuple[str, Any]] = []
    if isinstance(fn, functools.partial):
        held += [("func", fn.func), *((f"argument {i}", x) for i, x in enumerate(fn.args)), *fn.keywords.items()]
    held += [("__wrapped__", getattr(fn, "__wrapped__", None)), ("__self__", getattr(fn, "__self__", None))]
    code, cells = getattr(fn, "__code__", None), getattr(fn, "__closure__", None)
    for name, cell in zip(code.co_freevars if code else (), cells or (), strict=False):
        try:
            held.append((name, cell.cell_contents))
        except ValueError:  # not filled yet
            continue
    for name, value in held:
        if value is None:
            continue
        if any(isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(value)):
            return name
        if callable(value) and (inner := _found(value, seen)):
            return inner
    return None
