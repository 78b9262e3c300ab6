"""Modules inside attributes: in lists, tuples, mappings, nested, named by where they stand.

`self.layers = [Dense(3), {'a': Dense(4)}]` holds the submodules `layers_0` and `layers_1_a`.
"""

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from liftax.core.frozen_dict import FrozenDict

# No module can be inside a value of one of these types. They are most of all attributes.
ATOMIC = frozenset(
    {bool, int, float, complex, str, bytes, type(None), type}
    | {types.FunctionType, types.BuiltinFunctionType, types.MethodType}
    | {type(jnp.float32), type(jax.jit(lambda x: x))}  # dtypes as jax.numpy names them, and functions under jit
)


def modules_in(value: Any, is_module: Callable[[Any], bool], suffix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every module in `value`, with the suffix that its place gives to the attribute's name."""
    if type(value) in ATOMIC:
        return
    if is_module(value):
        yield suffix, value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from modules_in(value[key], is_module, f"{suffix}_{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from modules_in(item, is_module, f"{suffix}_{_label(value, i)}")


def map_modules(value: Any, is_module: Callable[[Any], bool], fn: Callable[[str, Any], Any], suffix: str = "") -> Any:
    """Return `value` with `fn(suffix, module)` for every module in it, lists as tuples and mappings frozen."""
    if type(value) in ATOMIC:
        return value
    if is_module(value):
        return fn(suffix, value)
    if isinstance(value, Mapping):
        new = {k: map_modules(value[k], is_module, fn, f"{suffix}_{k}") for k in sorted(value, key=str)}
        return FrozenDict({k: new[k] for k in value})
    if isinstance(value, PartitionSpec):
        return value
    if isinstance(value, list | tuple):
        new_items = [map_modules(v, is_module, fn, f"{suffix}_{_label(value, i)}") for i, v in enumerate(value)]
        return type(value)(*new_items) if hasattr(value, "_fields") else tuple(new_items)
    return value


def _label(sequence: Any, i: int) -> str:
    return sequence._fields[i] if hasattr(sequence, "_fields") else str(i)
