"""Which shapes an initializer gives, found without running it and, where possible, found once.

Checking a parameter against its initializer on every `apply` costs an abstract evaluation. A function's shapes depend
only on its code, its defaults, what it closes over and its arguments; where all of these are plain static values the
answer is remembered.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_Static = (int, float, complex, bool, str, bytes, type(None), np.dtype, type)


def initialized_shapes(init_fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the shapes of the leaves of `init_fn(key, *args, **kwargs)`."""
    key = fingerprint((init_fn, args, tuple(sorted(kwargs.items()))))
    if key is None:
        return _evaluate(init_fn, args, kwargs)
    return _remembered(_ByKey(key, init_fn, args, kwargs))


def _evaluate(init_fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    out = jax.eval_shape(lambda: init_fn(jax.random.key(0), *args, **kwargs))
    return [x.shape for x in jax.tree.leaves(out)]


class _ByKey:
    """A call that is equal to another when their fingerprints are."""

    __slots__ = ("args", "init_fn", "key", "kwargs")

    def __init__(self, key: Any, init_fn: Any, args: Any, kwargs: Any):
        self.key, self.init_fn, self.args, self.kwargs = key, init_fn, args, kwargs

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByKey) and self.key == other.key


@functools.lru_cache(maxsize=4096)
def _remembered(call: _ByKey) -> list[Any]:
    return _evaluate(call.init_fn, call.args, call.kwargs)


class _Identity:
    """An object, equal to itself alone, and kept alive, so that no other one can take its place in memory."""

    __slots__ = ("it",)

    def __init__(self, x: Any):
        self.it = x

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.it is other.it


def fingerprint(x: Any, inside: tuple[Any, ...] = ()) -> Any:
    """Return a hashable that determines what `x` does, or None if there is none.

    Args:
        x: a value that an initializer is made of.
        inside: the functions and containers that `x` was found in.
    """
    if isinstance(x, float | complex):
        return (type(x), x, str(x))  # -0.0 equals 0.0
    if isinstance(x, _Static):
        return (type(x), x)
    if any(x is outer for outer in inside):  # it closes over itself
        return None
    inside = (*inside, x)
    if isinstance(x, tuple | list):
        parts = [fingerprint(e, inside) for e in x]
        return None if None in parts else (type(x), *parts)
    if isinstance(x, functools.partial):
        return fingerprint((x.func, x.args, tuple(sorted(x.keywords.items()))), inside)
    if isinstance(x, types.FunctionType):
        try:
            cells = tuple(c.cell_contents for c in x.__closure__ or ())
        except ValueError:  # a cell that is not filled yet
            return None
        parts = fingerprint((*cells, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()), inside)
        named = _globals_read(x.__code__, x.__globals__, inside)
        return None if parts is None or named is None else (x.__code__, parts, named)
    return None


def _globals_read(code: types.CodeType, namespace: dict[str, Any], inside: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return what determines the values that `code` reads by name: functions, classes and modules by identity."""
    found: list[Any] = []
    for name in code.co_names:
        value = namespace.get(name)
        if callable(value) or isinstance(value, types.ModuleType):
            found.append(_Identity(value))
        else:
            part = fingerprint(value, inside)
            if part is None:
                return None
            found.append(part)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            inner = _globals_read(const, namespace, inside)
            if inner is None:
                return None
            found.append(inner)
    return tuple(found)
