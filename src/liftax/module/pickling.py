"""Modules in pickles and deep copies: functions in their fields go by name.

    reduced : the attributes of a module -> the same, with a `ByName` for each function that has a name

An activation such as `jnp.tanh` is an object that `pickle` finds no name for, since it is compiled or has a rule; an
initializer such as `normal(0.1)` is a function made by another one. The former goes as its name, the latter as the
name of what made it, with the arguments.
"""

import contextlib
import dataclasses
import importlib
import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any

from liftax.core.frozen_dict import FrozenDict

_PUBLIC = ("jax.nn", "jax.numpy", "jax.nn.initializers")
"""Where to look for a function first: the module that defines it may be another one in another version of JAX."""

_made: dict[Any, Any] = {}  # recipe -> the function that was pickled first, or made first


@dataclasses.dataclass(frozen=True, eq=False)
class ByName:
    """A function, as the place where it is found.

    Args:
        module: the module's name.
        name: its name there.
        arguments: None if it is found there; the arguments, by name, with which it is made by what is found there.
    """

    module: str
    name: str
    arguments: tuple[tuple[str, Any], ...] | None = None

    @property
    def key(self) -> Any:
        """What tells it from others; it can be hashed if the arguments can."""
        return self.module, self.name, self.arguments, repr(self.arguments)  # 0.0 equals -0.0

    def __call__(self) -> Any:
        """Return the function."""
        found = getattr(importlib.import_module(self.module), self.name)
        if self.arguments is None:
            return found
        try:
            return _made.get(self.key) or _made.setdefault(self.key, found(**dict(self.arguments)))
        except TypeError:  # an argument that can't be hashed, such as an array
            return found(**dict(self.arguments))


def by_name(fn: Any) -> ByName | None:
    """Return what stands for `fn` in a pickle, or None if it has no name that leads to it."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    if name.isidentifier():
        places = (*_PUBLIC, module) if module.startswith("jax.") else (module,)
        for place in places:
            if getattr(sys.modules.get(place), name, None) is fn:
                return ByName(place, name)
        return None
    maker, _, rest = name.partition(".<locals>.")
    if type(fn) is not types.FunctionType or rest != "init" or not module.startswith(("jax.", "liftax.")):
        return None
    factory = getattr(sys.modules.get(module), maker, None)
    if factory is None:
        return None
    known = {**inspect.getclosurevars(fn).nonlocals, **_defaults(fn)}
    wanted = inspect.signature(factory).parameters
    if not set(wanted) <= set(known):
        return None
    place = next((p for p in _PUBLIC if getattr(sys.modules.get(p), maker, None) is factory), module)
    found = ByName(place, maker, tuple((k, known[k]) for k in wanted))
    with contextlib.suppress(TypeError):  # an argument that can't be hashed, such as an array
        _made.setdefault(found.key, fn)
    return found


def _defaults(fn: Any) -> dict[str, Any]:
    return {k: p.default for k, p in inspect.signature(fn).parameters.items() if p.default is not p.empty}


def reduced(value: Any) -> Any:
    """Return `value` with a `ByName` for each function that has a name, in lists, tuples and mappings too."""
    return _mapped(value, lambda x: (by_name(x) or x) if callable(x) and not isinstance(x, type) else x)


def restored(value: Any, default: Any = None) -> Any:
    """Return what `reduced` was given; `default`, the field's default, where that is the same."""
    if isinstance(value, ByName) and value.arguments is not None and (same := by_name(default)) is not None:
        with contextlib.suppress(TypeError):  # an argument that can't be hashed, such as an array
            if {same.key} == {value.key}:
                return default
    return _mapped(value, lambda x: x() if isinstance(x, ByName) else x)


def _mapped(value: Any, fn: Any) -> Any:
    """Return `value` with `fn` of every function in it; containers of which nothing changes are kept."""
    if type(value) in (list, tuple):
        new = type(value)(_mapped(x, fn) for x in value)
    elif type(value) in (dict, FrozenDict):
        new = type(value)({k: _mapped(x, fn) for k, x in value.items()})
    else:
        return fn(value)
    return new if any(a is not b for a, b in zip(_items(value), _items(new), strict=True)) else value


def _items(value: Any) -> Any:
    return value.values() if isinstance(value, Mapping) else value
