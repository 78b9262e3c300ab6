"""The arrays of a tree, apart from what stays static in it.

    split : tree -> (arrays, rebuild), where rebuild(arrays) is the tree

JAX maps, saves and transposes arrays; anything else that a user returns or passes goes around it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_pytree_node_class
class _Rebuild:
    """Put arrays back between the static leaves of a tree. A pytree without children: it may be a residual."""

    def __init__(self, treedef: Any, static: tuple[Any, ...]):
        self.treedef = treedef
        self.static = static

    def __call__(self, arrays: Sequence[Any]) -> Any:
        rest = iter(arrays)
        return self.treedef.unflatten([next(rest) if s is _ARRAY else s for s in self.static])

    def tree_flatten(self) -> tuple[tuple[()], "_Rebuild"]:
        return (), self

    @classmethod
    def tree_unflatten(cls, self: "_Rebuild", _: tuple[()]) -> "_Rebuild":
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Rebuild) or self.treedef != other.treedef or len(self.static) != len(other.static):
            return False
        return all(
            a is b or (type(a) is type(b) and bool(a == b)) for a, b in zip(self.static, other.static, strict=True)
        )

    def __hash__(self) -> int:
        return hash((self.treedef, len(self.static)))


_ARRAY = object()
ARRAYS = (jax.Array, np.ndarray, np.generic)


def split(tree: Any) -> tuple[list[Any], _Rebuild]:
    """Return the arrays in `tree`, and what puts them back between the other leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    static = tuple([_ARRAY if isinstance(x, ARRAYS) else x for x in leaves])
    return [x for x in leaves if isinstance(x, ARRAYS)], _Rebuild(treedef, static)
