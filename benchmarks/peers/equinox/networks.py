"""The networks of `networks_hand` in Equinox. Images have their channels first, as its layers take them.

What is no array is static and left out of the variables. The layer of dropout takes a batch and the key of the version
by hand; all others take one example, and are mapped.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.peers.hand import networks as networks_hand
from benchmarks.peers.hand.models import names
from benchmarks.peers.hand.networks import (
    BLOCKS,
    CHANNELS,
    GATES,
    HEADS,
    HIDDEN,
    MOMENTUM,
    PROGRAMS,
    RATE,
    WIDTH,
    dropout_key,
)

NAME = "equinox"
KINDS = frozenset(PROGRAMS)
derived = networks_hand.training_step


class TransformerBlock(eqx.Module):
    """Attention and a gelu MLP over a batch."""

    norm_attention: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm_mlp: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    drop: eqx.nn.Dropout
    name: str = eqx.field(static=True)

    def __init__(self, name: str, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        bias = {f"use_{which}_bias": True for which in ("query", "key", "value", "output")}
        self.norm_attention = eqx.nn.LayerNorm(WIDTH, eps=1e-6)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, **bias, key=keys[0])
        self.norm_mlp = eqx.nn.LayerNorm(WIDTH, eps=1e-6)
        self.up = eqx.nn.Linear(WIDTH, HIDDEN, key=keys[1])
        self.down = eqx.nn.Linear(HIDDEN, WIDTH, key=keys[2])
        self.drop = eqx.nn.Dropout(RATE)
        self.name = name

    def attend(self, x: jax.Array) -> jax.Array:
        """One sequence."""
        h = jax.vmap(self.norm_attention)(x)
        return self.attention(h, h, h)

    def mlp(self, x: jax.Array) -> jax.Array:
        """One position."""
        return self.down(jax.nn.gelu(self.up(self.norm_mlp(x))))

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        x = x + self.drop(jax.vmap(self.attend)(x), key=dropout_key(key, (self.name, "drop_attention")))
        return x + self.drop(jax.vmap(jax.vmap(self.mlp))(x), key=dropout_key(key, (self.name, "drop_mlp")))


class Transformer(eqx.Module):
    """Blocks and a last LayerNorm, over a batch."""

    blocks: list[TransformerBlock]
    norm: eqx.nn.LayerNorm

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, BLOCKS)
        self.blocks = [TransformerBlock(name, key) for name, key in zip(names(BLOCKS), keys, strict=True)]
        self.norm = eqx.nn.LayerNorm(WIDTH, eps=1e-6)

    def __call__(self, x: tuple[jax.Array, jax.Array], state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, key = x
        for block in self.blocks:
            y = block(y, key)
        return jax.vmap(jax.vmap(self.norm))(y), state


class ResNetBlock(eqx.Module):
    """Two convolutions with batch statistics, over one image of a mapped batch."""

    conv_a: eqx.nn.Conv2d
    norm_a: eqx.nn.BatchNorm
    conv_b: eqx.nn.Conv2d
    norm_b: eqx.nn.BatchNorm
    skip: eqx.nn.Conv2d | None
    norm_skip: eqx.nn.BatchNorm | None

    def __init__(self, old: int, new: int, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        conv = functools.partial(eqx.nn.Conv2d, padding="SAME", use_bias=False)
        norm = functools.partial(eqx.nn.BatchNorm, new, axis_name="batch", momentum=MOMENTUM, mode="batch")
        stride = 1 if old == new else 2
        self.conv_a, self.norm_a = conv(old, new, 3, stride, key=keys[0]), norm()
        self.conv_b, self.norm_b = conv(new, new, 3, key=keys[1]), norm()
        self.skip = None if old == new else conv(old, new, 1, stride, key=keys[2])
        self.norm_skip = None if old == new else norm()

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, state = self.norm_a(self.conv_a(x), state)
        y, state = self.norm_b(self.conv_b(jax.nn.relu(y)), state)
        if self.skip is not None and self.norm_skip is not None:
            x, state = self.norm_skip(self.skip(x), state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    """Blocks one after the other, over a batch."""

    blocks: list[ResNetBlock]

    def __init__(self, key: jax.Array) -> None:
        each = zip((CHANNELS[0], *CHANNELS), CHANNELS, jax.random.split(key, BLOCKS), strict=False)
        self.blocks = [ResNetBlock(old, new, key) for old, new, key in each]

    def image(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        """One image."""
        for block in self.blocks:
            x, state = block(x, state)
        return x, state

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        return jax.vmap(self.image, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(x, state)


class LSTM(eqx.Module):
    """Layers one after the other, over a batch."""

    cells: list[eqx.nn.LSTMCell]

    def __init__(self, key: jax.Array) -> None:
        self.cells = [eqx.nn.LSTMCell(WIDTH, WIDTH, key=key) for key in jax.random.split(key, BLOCKS)]

    def sequence(self, x: jax.Array) -> jax.Array:
        """One sequence."""
        for cell in self.cells:

            def step(carry: Any, x: jax.Array, cell: eqx.nn.LSTMCell = cell) -> tuple[Any, jax.Array]:
                carry = cell(x, carry)
                return carry, carry[0]

            _, x = lax.scan(step, (jnp.zeros(WIDTH), jnp.zeros(WIDTH)), x)
        return x

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        return jax.vmap(self.sequence)(x), state


MODELS = {"transformer": Transformer, "resnet": ResNet, "lstm": LSTM}


@functools.cache
def made(kind: str) -> tuple[Any, dict[str, Any]]:
    """The static part of a network, and variables that hold the values of the version by hand."""
    model, state = eqx.nn.make_with_state(MODELS[kind])(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    by_hand = networks_hand.variables_of(kind)
    blocks = [leaf for name in names(BLOCKS) for leaf in LEAVES[kind](by_hand["params"][name])]
    last = affine(by_hand["params"]["norm"], "scale") if kind == "transformer" else []
    params = jax.tree.structure(params).unflatten([*blocks, *last])
    for name, block in zip(names(BLOCKS), getattr(model, "blocks", ()), strict=False):
        for norm, statistics in by_hand.get("batch_stats", {}).get(name, {}).items():
            index = getattr(block, norm).batch_state_index
            state = state.set(index, (statistics["mean"], statistics["var"]))
    return static, {"params": params, "batch_stats": state}


def affine(p: dict[str, jax.Array], weight: str = "kernel") -> list[jax.Array]:
    """Weight and bias of a layer, its inputs and its outputs each one axis, the outputs first."""
    bias = p["bias"].ravel()
    if weight == "scale":
        return [p["scale"], bias]
    return [p["kernel"].reshape(-1, bias.size).T, bias]


def transformer_leaves(p: dict[str, Any]) -> list[jax.Array]:
    """The parameters of a block, in the order of the fields."""
    parts = [affine(p["norm_attention"], "scale")]
    parts += [affine(p["attention"][which]) for which in ("query", "key", "value", "out")]
    parts += [affine(p["norm_mlp"], "scale"), affine(p["up"]), affine(p["down"])]
    return [leaf for part in parts for leaf in part]


def resnet_leaves(p: dict[str, Any]) -> list[jax.Array]:
    """The parameters of a block, in the order of the fields."""
    pairs = [("conv_a", "norm_a"), ("conv_b", "norm_b"), *([("skip", "norm_skip")] if "skip" in p else [])]
    parts = [[p[conv]["kernel"].transpose(3, 2, 0, 1), *affine(p[norm], "scale")] for conv, norm in pairs]
    return [leaf for part in parts for leaf in part]


def lstm_leaves(p: dict[str, Any]) -> list[jax.Array]:
    """The parameters of a layer: the gates joined, their outputs first."""
    cell = p["cell"]
    kernels = [jnp.concatenate([cell[part + gate]["kernel"].T for gate in GATES]) for part in "ih"]
    return [*kernels, jnp.concatenate([cell[f"h{gate}"]["bias"] for gate in GATES])]


LEAVES = {"transformer": transformer_leaves, "resnet": resnet_leaves, "lstm": lstm_leaves}


def arguments(kind: str) -> tuple[Any, Any]:
    """Variables and input."""
    x = networks_hand.inputs(kind)
    return made(kind)[1], (x.transpose(0, 3, 1, 2) if kind == "resnet" else x)


def program(kind: str, depth: int) -> Callable[..., Any]:
    """See `networks_hand.program`."""
    static = made(kind)[0]

    def apply(variables: dict[str, Any], x: Any) -> tuple[jax.Array, dict[str, Any]]:
        y, state = eqx.combine(variables["params"], static)(x, variables["batch_stats"])
        return y, {"batch_stats": state}

    return apply


def exported(kind: str, variables: dict[str, Any]) -> list[jax.Array]:
    """The leaves that the version by hand has, in whatever order: no counters of updates."""
    leaves = [leaf for leaf in jax.tree.leaves(variables) if leaf.ndim]
    return [gate for leaf in leaves for gate in jnp.split(leaf, 4)] if kind == "lstm" else leaves


def output(kind: str, y: jax.Array) -> jax.Array:
    """The output as the version by hand lays it out."""
    return y.transpose(0, 2, 3, 1) if kind == "resnet" else y
