"""The networks of `networks_hand` in Flax NNX, split into graph definition and states so that they are functions.

Layers of dropout are called with the keys of the version by hand. The cell of the LSTM has the kernels of all gates
joined.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.peers.hand import networks as networks_hand
from benchmarks.peers.hand.models import names
from benchmarks.peers.hand.networks import BLOCKS, CHANNELS, GATES, HEADS, HIDDEN, MOMENTUM, RATE, WIDTH, dropout_key

NAME = "nnx"
KINDS = networks_hand.KINDS
derived = networks_hand.training_step


class TransformerBlock(nnx.Module):
    """Attention and a gelu MLP."""

    def __init__(self, name: str, rngs: nnx.Rngs) -> None:
        self.name = name
        self.norm_attention = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.drop_attention = nnx.Dropout(RATE)
        self.norm_mlp = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.drop_mlp = nnx.Dropout(RATE)

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        h = self.attention(self.norm_attention(x))
        x = x + self.drop_attention(h, rngs=dropout_key(key, (self.name, "drop_attention")))
        h = self.down(nnx.gelu(self.up(self.norm_mlp(x))))
        return x + self.drop_mlp(h, rngs=dropout_key(key, (self.name, "drop_mlp")))


class Transformer(nnx.Module):
    """Blocks and a last LayerNorm."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        for name in names(BLOCKS):
            setattr(self, name, TransformerBlock(name, rngs))
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, x: tuple[jax.Array, jax.Array]) -> jax.Array:
        y, key = x
        for name in names(BLOCKS):
            y = getattr(self, name)(y, key)
        return self.norm(y)


class ResNetBlock(nnx.Module):
    """Two convolutions with batch statistics."""

    def __init__(self, old: int, new: int, rngs: nnx.Rngs) -> None:
        conv = functools.partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = functools.partial(nnx.BatchNorm, new, use_running_average=False, momentum=MOMENTUM, rngs=rngs)
        self.grows = old != new
        stride = 2 if self.grows else 1
        self.conv_a, self.norm_a = conv(old, new, (3, 3), strides=stride), norm()
        self.conv_b, self.norm_b = conv(new, new, (3, 3)), norm()
        if self.grows:
            self.skip, self.norm_skip = conv(old, new, (1, 1), strides=stride), norm()

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm_a(self.conv_a(x))
        y = self.norm_b(self.conv_b(nnx.relu(y)))
        if self.grows:
            x = self.norm_skip(self.skip(x))
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    """Blocks one after the other."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        for name, old, new in zip(names(BLOCKS), (CHANNELS[0], *CHANNELS), CHANNELS, strict=False):
            setattr(self, name, ResNetBlock(old, new, rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        for name in names(BLOCKS):
            x = getattr(self, name)(x)
        return x


class LSTM(nnx.Module):
    """Layers one after the other, each from a state of zeros."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        for name in names(BLOCKS):
            setattr(self, name, nnx.RNN(nnx.OptimizedLSTMCell(WIDTH, WIDTH, rngs=rngs), rngs=False))

    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros((x.shape[0], WIDTH))
        for name in names(BLOCKS):
            x = getattr(self, name)(x, initial_carry=(zeros, zeros))
        return x


MODELS: dict[str, Callable[[nnx.Rngs], Any]] = {"transformer": Transformer, "resnet": ResNet, "lstm": LSTM}


def split(model: Any) -> tuple[Any, dict[str, Any]]:
    """The graph definition of a model, and its variables by collection."""
    definition, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    return definition, {"params": params, "batch_stats": statistics}


@functools.cache
def made(kind: str) -> tuple[Any, dict[str, Any]]:
    """The graph definition of a network, and variables that hold the values of the version by hand."""
    definition, variables = split(MODELS[kind](nnx.Rngs(0)))
    for collection, values in networks_hand.variables_of(kind).items():
        pure = {name: joined(p) for name, p in values.items()} if kind == "lstm" else values
        nnx.replace_by_pure_dict(variables[collection], pure)
    return definition, variables


def joined(layer: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a layer of the LSTM, the gates side by side."""

    def join(part: str, leaf: str) -> jax.Array:
        return jnp.concatenate([layer["cell"][part + gate][leaf] for gate in GATES], -1)

    on_state = {"kernel": join("h", "kernel"), "bias": join("h", "bias")}
    return {"cell": {"dense_i": {"kernel": join("i", "kernel")}, "dense_h": on_state}}


def arguments(kind: str) -> tuple[Any, Any]:
    """Variables (for `init_…`, a key) and input."""
    base = kind.removeprefix("init_")
    return (jax.random.key(0) if base != kind else made(kind)[1]), networks_hand.inputs(base)


def program(kind: str, depth: int) -> Callable[..., Any]:
    """See `networks_hand.program`."""
    if kind.startswith("init_"):
        return lambda key, x: split(MODELS[kind.removeprefix("init_")](nnx.Rngs(key)))[1]
    definition = made(kind)[0]

    def apply(variables: dict[str, Any], x: Any) -> tuple[jax.Array, dict[str, Any]]:
        # statistics are moved in place: in a copy, as the function must leave its arguments alone
        model = nnx.merge(definition, variables["params"], variables["batch_stats"], copy=kind == "resnet")
        return model(x), {"batch_stats": nnx.state(model, nnx.BatchStat)}

    return apply


def exported(kind: str, variables: dict[str, Any]) -> list[jax.Array]:
    """The leaves that the version by hand has, in whatever order."""
    leaves = jax.tree.leaves(variables)
    return [gate for leaf in leaves for gate in jnp.split(leaf, 4, -1)] if kind.endswith("lstm") else leaves
