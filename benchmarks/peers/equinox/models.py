"""The residual MLP in Equinox, where a model is its own tree of parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from benchmarks.peers.hand.models import HIDDEN, WIDTH, names

NAME = "equinox"
KINDS = frozenset({"mlp"})


class Block(eqx.Module):
    """`x + down(gelu(up(norm(x))))` for one example."""

    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self) -> None:
        key = jax.random.key(0)
        self.norm = eqx.nn.LayerNorm(WIDTH, eps=1e-6)
        self.up = eqx.nn.Linear(WIDTH, HIDDEN, key=key)
        self.down = eqx.nn.Linear(HIDDEN, WIDTH, key=key)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(jax.nn.gelu(self.up(self.norm(x))))


class Network(eqx.Module):
    """Blocks one after the other, over a batch."""

    blocks: list[Block]

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = jax.vmap(block)(x)
        return x


def variables(parameters: dict[str, Any]) -> Network:
    """A network that holds the given parameters."""

    treedef = jax.tree.structure(Block())  # leaves in the order of the fields

    def fill(p: dict[str, Any]) -> Block:
        linear = [leaf for layer in ("up", "down") for leaf in (p[layer]["kernel"].T, p[layer]["bias"])]
        return treedef.unflatten([p["norm"]["scale"], p["norm"]["bias"], *linear])

    return Network([fill(parameters[name]) for name in names(len(parameters))])


def program(kind: str, depth: int) -> Callable[..., Any]:
    """A fresh function `(network, x) -> y`."""
    return lambda network, x: network(x)
