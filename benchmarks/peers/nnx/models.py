"""The residual MLP in Flax NNX, split into graph definition and state so that it is a function of its parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from benchmarks.peers.hand.models import HIDDEN, WIDTH, names

NAME = "nnx"
KINDS = frozenset({"mlp"})


class Block(nnx.Module):
    """`x + down(gelu(up(norm(x))))`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


class Network(nnx.Module):
    """Blocks one after the other."""

    def __init__(self, depth: int, rngs: nnx.Rngs) -> None:
        self.depth = depth
        for name in names(depth):
            setattr(self, name, Block(rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        for name in names(self.depth):
            x = getattr(self, name)(x)
        return x


def variables(parameters: dict[str, Any]) -> nnx.State:
    """The state of a network that holds the given parameters."""
    state = nnx.state(network(len(parameters)))
    nnx.replace_by_pure_dict(state, parameters)
    return state


def program(kind: str, depth: int) -> Callable[..., Any]:
    """A fresh function `(state, x) -> y`."""
    definition = graphdef(depth)
    return lambda state, x: nnx.merge(definition, state)(x)


@functools.cache
def graphdef(depth: int) -> Any:
    """What a network of this depth is, less its arrays."""
    return nnx.graphdef(network(depth))


@functools.cache
def network(depth: int) -> Network:
    """A network with arrays of its own: `nnx.eval_shape` takes minutes at 256 blocks."""
    return Network(depth, nnx.Rngs(0))
