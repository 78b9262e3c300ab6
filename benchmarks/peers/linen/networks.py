"""The networks of `networks_hand` in the Linen API: one source for every namespace that offers it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from benchmarks.peers.hand.models import names
from benchmarks.peers.hand.networks import BLOCKS, CHANNELS, HEADS, HIDDEN, MOMENTUM, RATE, WIDTH


def networks(nn: Any) -> Callable[[str], Callable[..., Any]]:
    """Return `program`, written against the namespace `nn`; see `networks_hand.program`."""

    class TransformerBlock(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            h = nn.LayerNorm(name="norm_attention")(x)
            h = nn.MultiHeadDotProductAttention(HEADS, name="attention")(h)
            x = x + nn.Dropout(RATE, deterministic=False, name="drop_attention")(h)
            h = nn.LayerNorm(name="norm_mlp")(x)
            h = nn.gelu(nn.Dense(HIDDEN, name="up")(h))
            h = nn.Dense(WIDTH, name="down")(h)
            return x + nn.Dropout(RATE, deterministic=False, name="drop_mlp")(h)

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for name in names(BLOCKS):
                x = TransformerBlock(name=name)(x)
            return nn.LayerNorm(name="norm")(x)

    class ResNetBlock(nn.Module):
        channels: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            conv = partial(nn.Conv, self.channels, use_bias=False)
            norm = partial(nn.BatchNorm, use_running_average=False, momentum=MOMENTUM)
            stride = 1 if self.channels == x.shape[-1] else 2
            y = norm(name="norm_a")(conv((3, 3), strides=stride, name="conv_a")(x))
            y = norm(name="norm_b")(conv((3, 3), name="conv_b")(nn.relu(y)))
            if stride != 1:
                x = norm(name="norm_skip")(conv((1, 1), strides=stride, name="skip")(x))
            return nn.relu(x + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for name, channels in zip(names(BLOCKS), CHANNELS, strict=True):
                x = ResNetBlock(channels, name=name)(x)
            return x

    class LSTM(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for name in names(BLOCKS):
                cell = nn.OptimizedLSTMCell(WIDTH, parent=None)
                x = nn.RNN(cell, name=name)(x)
            return x

    models = {"transformer": Transformer, "resnet": ResNet, "lstm": LSTM}

    def program(kind: str) -> Callable[..., Any]:
        model = models[kind.removeprefix("init_")]()
        if kind == "init_transformer":
            return lambda key, x: model.init({"params": key, "dropout": x[1]}, x[0])
        if kind.startswith("init_"):
            return lambda key, x: model.init(key, x)
        if kind == "transformer":
            return lambda variables, x: (model.apply(variables, x[0], rngs={"dropout": x[1]}), {})
        if kind == "resnet":
            return lambda variables, x: model.apply(variables, x, mutable=["batch_stats"])
        return lambda variables, x: (model.apply(variables, x), {})

    return program
