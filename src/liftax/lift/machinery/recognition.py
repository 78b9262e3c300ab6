"""Recognizing a target again: what `jit` finds a trace by.

    fingerprint : one call of a lifted function -> hashable, equal to another one where the trace would be the same

Types, fields and the kind of state count; where the module is does not, unless a trace looked at that, or at what is
around the target (`liftax.core.outside`).
"""

import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from liftax import _compat, errors
from liftax.core.filters import DenyList
from liftax.core.outside import Seen, note_names
from liftax.core.packing.run import frozen_draws
from liftax.core.packing.targets import is_target
from liftax.core.scope import Scope
from liftax.core.sharding.logical import get_logical_axis_rules
from liftax.core.variable import Variable
from liftax.lift.machinery.forms import Call


class _ById:
    """An array in a field: equal to itself alone, and kept alive so that its id stays its own."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and self.value is other.value


def _moved(root: Any) -> tuple[Any, ...]:
    """Where draws below `root` fold other names than those of their path, relative to `root`."""
    n, base = len(root.names), len(root.rng_path)
    return tuple((at[n:], names[base:]) for at, names in root.store.moved.items() if at[:n] == root.names)


def fingerprint(call: Call) -> Any:
    """Return what tells the target of a call, and what rides along with it, from others."""
    packed = call.packed
    scopes = []
    for root, mutable, counters, replay in zip(
        packed.roots, packed.mutable, packed.counters, packed.replay, strict=True
    ):
        flags, moved = root.store.flags, root.store.moved
        drawn = sorted([(path[len(root.names) :], *sorted(n.items())) for path, n in counters.items() if n])
        scopes.append((static(flags, "flags", {}) if flags else None, _moved(root) if moved else None,
                       _frozen_filter(mutable), frozen_draws(replay), *drawn))  # fmt: skip
    seen: dict[int, int] = {}
    parts = []
    for row in packed.parts:
        for module, _, index, below in row:
            parts.append((index, below, None if module is None else static(module, type(module).__name__, seen)))
    taken = tuple([(i, _taken(x, seen)) for i, x in call.taken.items()])
    frame = packed.frame
    rules = static(get_logical_axis_rules(), "logical axis rules", {})
    return packed.view, packed.handed, tuple(scopes), tuple(parts), taken, frame.capture, frame.interceptors, rules


def looked_at(call: Call, seen: Seen) -> Any:
    """Return what earlier traces of such a target looked at, as it is now; None if it can't be told from others."""
    modules = [module for row in call.packed.parts for module, *_ in row if module is not None]
    found: list[Any] = [seen]
    if seen.names:
        note_names()  # of a trace around this call, too
        found.append(tuple(module.name for module in modules))
        found.append(tuple(root.names for root in call.packed.roots))
    if seen.around:
        numbers = {id(module): i for i, module in enumerate(modules)}
        for module in modules:
            for name, other, made in module.lift_around():
                if id(other) in numbers:
                    continue
                try:
                    fields = static(other, type(other).__name__, numbers)
                    found.append((name, fields, static(made, type(other).__name__, numbers)))
                except errors.StaticValueError:
                    return None
                if any(isinstance(x, jax.Array) for x in jax.tree.leaves(made)):  # another one in each call
                    return None
    return tuple(found)


def _taken(x: Any, seen: dict[int, int]) -> Any:
    return (x.collection, x.name, x.unbox) if isinstance(x, Variable) else static(x, "argument", seen)


def _frozen_filter(filter_: Any) -> Any:
    if isinstance(filter_, DenyList):
        return DenyList(_frozen_filter(filter_.deny))
    return filter_ if isinstance(filter_, bool | str) else frozenset(filter_)


_PLAIN = frozenset({type(None), bool, int, str, bytes, type, types.FunctionType, types.BuiltinFunctionType})


def static(x: Any, where: str, seen: dict[int, int]) -> Any:
    """Return a hashable value that is equal for values to which a trace is the same."""
    if type(x) in _PLAIN:
        return type(x), x
    if isinstance(x, float | complex):
        return type(x), repr(x)  # 0.0 equals -0.0
    if isinstance(x, str | int | bytes | type):
        return type(x), x
    if isinstance(x, np.generic):
        return "number", x.dtype.str, x.tobytes()
    if isinstance(x, Scope):
        return "scope"
    if is_target(x):
        if id(x) in seen:
            return type(x), seen[id(x)]
        seen[id(x)] = len(seen)
        return type(x), tuple([(name, static(value, f"{where}.{name}", seen)) for name, value in x.lift_static()])
    if isinstance(x, Mapping):
        return type(x), tuple((k, static(v, f"{where}[{k!r}]", seen)) for k, v in x.items())
    if isinstance(x, list | tuple):
        return type(x), tuple(static(v, f"{where}[{i}]", seen) for i, v in enumerate(x))
    if isinstance(x, set | frozenset):
        return type(x), frozenset(static(v, where, seen) for v in x)
    if isinstance(x, np.ndarray):
        return "array", _ById(x), x.dtype.str, x.tobytes()  # its content may change, also in a trace that holds it
    if _compat.is_tracer(x):
        raise errors.StaticValueError(
            f"jit: {where} is a tracer: the module was made inside a JAX transform with a traced value as a field. "
            "Hand the value to the method as an argument, so that it can be traced."
        )
    if isinstance(x, jax.Array):
        return _ById(x)
    if isinstance(x, Variable):
        if id(x) in seen:
            return type(x), seen[id(x)]
        seen[id(x)] = len(seen)
        return x.collection, x.name, x.unbox
    try:
        hash(x)
    except TypeError as error:
        raise errors.StaticValueError(
            f"jit: {where} holds a {type(x).__name__}, which can't be hashed, so the compiled function can't be found "
            "again. Use an immutable value (a tuple, a frozen dataclass) in the field."
        ) from error
    return type(x), x
