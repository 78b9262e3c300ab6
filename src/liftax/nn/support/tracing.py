"""The arithmetic of a layer, traced once.

    traced_once : ((arrays, *, static) -> arrays) -> the same

A model applies the same few layers dozens of times. Tracing a `jax.numpy` operation takes JAX long, and differentiating
it longer. What is under `jax.jit`, JAX traces and differentiates once for all calls that agree in shapes, dtypes and
static arguments; and `inline=True` leaves nothing of that in the program, which is the one that plain calls make (JAX
docs, `jax.jit`). Without an outer `jit`, a layer runs as one compiled function instead of one for each operation.
"""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

__all__: list[str] = []

P = ParamSpec("P")
R = TypeVar("R")


def traced_once(f: Callable[P, R]) -> Callable[P, R]:
    """Return `f` under an inlined `jit`; its keyword-only arguments are static.

    A static argument that can't be hashed, such as a traced `momentum`, makes the call a plain one of `f`. Where a
    static argument is a function of a user's, call `untraced(f)`: theirs may close over traced values, or be a module.
    """
    static = [p.name for p in inspect.signature(f).parameters.values() if p.kind is p.KEYWORD_ONLY]
    jitted = jax.jit(f, inline=True, static_argnames=static)

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            hash(tuple(kwargs.values()))
        except TypeError:
            return f(*args, **kwargs)
        return jitted(*args, **kwargs)

    return call


def untraced(f: Callable[P, R]) -> Callable[P, R]:
    """Return the function from which `traced_once` made `f`."""
    return f.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
