"""The lifted transforms under the address that they have in Linen, `core.lift`: those of `liftax.lift`, over scopes.

Only an address: nothing in liftax is built on it. `map_variables` has other names for its arguments here than in
`liftax.nn`, as it has in Linen.
"""

from collections.abc import Callable
from typing import Any

import jax

from liftax import lift
from liftax.lift import (
    In,
    Out,
    broadcast,
    checkpoint,
    cond,
    custom_vjp,
    fold_rngs,
    grad,
    jit,
    jvp,
    pack,
    remat,
    remat_scan,
    scan,
    switch,
    value_and_grad,
    vjp,
    vmap,
    while_loop,
)
from liftax.typing import Filter

__all__ = [
    "In", "Out", "broadcast", "checkpoint", "cond", "custom_vjp", "fold_rngs", "grad", "jit", "jvp", "map_variables",
    "pack", "remat", "remat_scan", "scan", "swap_collection", "switch", "tree_map_rngs", "value_and_grad", "vjp",
    "vmap", "while_loop",
]  # fmt: skip


def map_variables(
    fn: Callable[..., Any],
    mapped_collections: Filter,
    map_in_fn: Callable[[Any], Any] = lambda variables: variables,
    map_out_fn: Callable[[Any], Any] = lambda variables: variables,
    init: bool = False,
    mutable: bool = False,
    rngs: Filter = True,
    variables: Filter = True,
) -> Callable[..., Any]:
    """Let a function of a scope see its variables through another function. See `liftax.nn.map_variables`.

    Args:
        fn: called as `fn(scope, *args, **kwargs)`.
        mapped_collections: see `liftax.nn.map_variables`.
        map_in_fn: `trans_in_fn` there.
        map_out_fn: `trans_out_fn` there.
        init: see `liftax.nn.map_variables`.
        mutable: see `liftax.nn.map_variables`.
        rngs: see `liftax.nn.map_variables`.
        variables: see `liftax.nn.map_variables`.
    """
    return lift.map_variables(fn, mapped_collections, map_in_fn, map_out_fn, init, mutable, rngs, variables)


def swap_collection(fn: Callable[..., Any], col_a: str, col_b: str) -> Callable[..., Any]:
    """Let a function of a scope see each of two collections in the place of the other.

    Args:
        fn: called as `fn(scope, *args, **kwargs)`.
        col_a: a collection.
        col_b: another one.
    """

    def swapped(variables: Any) -> Any:
        pair = ((col_a, variables.get(col_b)), (col_b, variables.get(col_a)))
        return {**variables, **{col: tree if tree is not None else {} for col, tree in pair}}

    return lift.map_variables(fn, (col_a, col_b), swapped, swapped, mutable=True)


def tree_map_rngs(fn: Callable[[Any], Any], tree: Any) -> Any:
    """Replace every key in `tree` by `fn(key)`."""
    return jax.tree.map(fn, tree)
