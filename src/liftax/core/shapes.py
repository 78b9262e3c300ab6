"""Which shapes an initializer gives, found without running it and, where possible, found once.

Checking a parameter against its initializer on every `apply` costs an abstract evaluation. A function's shapes depend
on its code, its defaults, what it closes over, the globals it reads and its arguments, and so do those of functions it
calls. Where all of these are plain static values or parts of JAX and NumPy, the answer is remembered. A class or a
module of the user's is neither: its attributes may change.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_Static = (int, float, complex, bool, str, bytes, type(None), np.dtype)
_CONSTANT = frozenset({"jax", "numpy", "ml_dtypes", "liftax", "math", "functools", "operator", "builtins"})
"""Packages whose functions, classes and modules do not change."""


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
    if _is_constant(x):
        return _Identity(x)
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


def _is_constant(x: Any) -> bool:
    """Tell whether `x` is a function, a class or a module of a package that does not change."""
    name = x.__name__ if isinstance(x, types.ModuleType) else getattr(x, "__module__", None) if callable(x) else None
    # A partial of the user's, say, is an instance of a class of functools, and holds whatever it was given.
    instance = not isinstance(x, type | types.ModuleType) and getattr(x, "__name__", None) is None
    closure = getattr(x, "__closure__", None)
    return isinstance(name, str) and name.partition(".")[0] in _CONSTANT and not instance and not closure


def _globals_read(code: types.CodeType, namespace: dict[str, Any], inside: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return what determines the values that `code` reads by name, or None."""
    found: list[Any] = []
    for name in code.co_names:
        part = fingerprint(namespace.get(name), inside)
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
