"""Scopes, variables, rng streams, and the lift: everything below modules."""

from liftax.core.filters import DenyList, group, in_filter, intersect, is_empty, subtract, union
from liftax.core.functional import apply, bind, init, lazy_init
from liftax.core.meta import AxisMetadata, is_box, replace_boxed, unbox
from liftax.core.pack import Liftable, Packed, State, View, unbind
from liftax.core.scope import Scope
from liftax.core.store import Store
from liftax.core.variable import Variable

__all__ = [
    "AxisMetadata", "DenyList", "Liftable", "Packed", "Scope", "State", "Store", "Variable", "View", "apply", "bind",
    "group", "in_filter", "init", "intersect", "is_box", "is_empty", "lazy_init", "replace_boxed", "subtract", "unbind",
    "unbox", "union",
]  # fmt: skip
