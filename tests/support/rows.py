"""Cells of the transform matrix for any transform: a function on the module's side, and one on explicit parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from tests.support.cells import (
    FEATURES,
    WRITTEN,
    Cell,
    Noisy,
    Normed,
    Plain,
    Program,
    Shared,
    Sown,
    Tree,
    block,
    dense,
    initial,
)

from liftax import nn

KINDS = ("plain", "batch_stats", "dropout", "shared")
WEIGHTS = jnp.asarray([0.7, -1.3])


class Host(nn.Module):
    """Makes the block of a kind and hands it to `lifted(fn, block, x)`, inside its own call."""

    lifted: Callable[..., Tree]
    kind: str

    @nn.compact
    def __call__(self, x):
        if self.kind == "shared":
            layer = nn.Dense(FEATURES, name="dense")
            x = x + jnp.sin(layer(x))
            mdl = Shared(layer, name="block")
        else:
            mdl = {"plain": Plain, "batch_stats": Normed, "dropout": Noisy, "sown": Sown}[self.kind](name="block")
        return self.lifted(lambda mdl, x: mdl(x), mdl, x)


def sides(cell: Cell, lifted: Callable[..., Tree], plain: Callable[..., Tree]) -> tuple[Program, Program]:
    """Return both sides of a cell, with one signature.

    Args:
        cell: its kind and phase count.
        lifted: `(fn, mdl, x) -> result`, with the lifted transform.
        plain: `(pure, p, x) -> (result, new state)`, with JAX, where `pure(p, x)` returns `(y, new state)`.
    """

    def program(params, state, x, key):
        host = Host(lifted, cell.kind)
        if cell.init:
            return host.init_with_output({"params": key, "dropout": jax.random.fold_in(key, 7)}, x)
        rngs = {"dropout": key} if cell.kind == "dropout" else None
        if cell.kind not in WRITTEN:
            return host.apply({"params": params, **state}, x, rngs=rngs), {}
        return host.apply({"params": params, **state}, x, rngs=rngs, mutable=[WRITTEN[cell.kind]])

    def reference(params, state, x, key):
        if cell.init:
            params, state = initial(cell.kind, key)
            key = jax.random.fold_in(key, 7)
        inner_params = params["block"]
        if cell.kind == "shared":
            x = x + jnp.sin(dense(params["dense"], x))
            inner_params = {"inner": params["dense"], "out": params["block"]["out"]}
        inner_state = {collection: tree["block"] for collection, tree in state.items()}
        out, new = plain(lambda p, x: block(cell.kind, cell.init, p, inner_state, x, key), inner_params, x)
        if cell.init:
            return out, {"params": params, **state}
        return out, {collection: {"block": tree} for collection, tree in new.items()}

    return program, reference
