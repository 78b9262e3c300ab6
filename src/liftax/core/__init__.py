"""Scopes, variables, rng streams, and the lift: everything below modules.

Linen's `core` has the lifted transforms too. They are found here on demand: they are built on this package.
"""

import importlib
from typing import Any

from liftax.core import meta, spmd, tracers
from liftax.core.filters import DenyList, group, in_filter, intersect, is_empty, subtract, union
from liftax.core.frozen_dict import FrozenDict, copy, freeze, pop, pretty_repr, unfreeze
from liftax.core.functional import apply, bind, init, lazy_init
from liftax.core.meta import AxisMetadata, is_box, map_axis_meta, replace_boxed, unbox
from liftax.core.packing.packed import Liftable, Packed, unbind
from liftax.core.packing.run import Effects, Run, State
from liftax.core.packing.view import View
from liftax.core.scope import Scope
from liftax.core.store import Store
from liftax.core.tracers import check_trace_level, current_trace
from liftax.core.variable import Variable
from liftax.typing import Array

__all__ = [
    "Array", "AxisMetadata", "DenyList", "Effects", "FrozenDict", "Liftable", "Packed", "Run", "Scope", "State",
    "Store", "Variable", "View", "apply", "bind", "check_trace_level", "copy", "current_trace", "freeze", "group",
    "in_filter", "init", "intersect", "is_box", "is_empty", "lazy_init", "map_axis_meta", "meta", "pop",
    "pretty_repr", "replace_boxed", "spmd", "subtract", "tracers", "unbind", "unbox", "unfreeze", "union",
]  # fmt: skip

_LIFTED = frozenset({
    "broadcast", "custom_vjp", "jit", "jvp", "remat", "remat_scan", "scan", "vjp", "vmap", "while_loop",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "lift" or name in _LIFTED:
        lift = importlib.import_module("liftax.core.lift")
        return lift if name == "lift" else getattr(lift, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
