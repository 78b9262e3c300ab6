"""The networks of `networks_hand` in Haiku.

`hk.dropout` takes the key of the version by hand. The LSTM has one kernel for input, state and all gates, and adds 1 to
the forget gate, which the bias here takes off again. BatchNorm keeps unbiased averages beside the moved ones.
"""

import functools
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks.peers.hand import networks as networks_hand
from benchmarks.peers.hand.models import names
from benchmarks.peers.hand.networks import BLOCKS, CHANNELS, HEADS, HIDDEN, MOMENTUM, PROGRAMS, RATE, WIDTH, dropout_key

NAME = "haiku"
KINDS = frozenset({*PROGRAMS, "init_transformer", "init_resnet"})
derived = networks_hand.training_step
LECUN = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")

layer_norm = functools.partial(hk.LayerNorm, -1, create_scale=True, create_offset=True, eps=1e-6)
batch_norm = functools.partial(hk.BatchNorm, create_scale=True, create_offset=True, decay_rate=MOMENTUM)


class TransformerBlock(hk.Module):
    """Attention and a gelu MLP."""

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        h = layer_norm(name="norm_attention")(x)
        h = hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=LECUN, name="attention")(h, h, h)
        x = x + hk.dropout(dropout_key(key, (self.name, "drop_attention")), RATE, h)
        h = layer_norm(name="norm_mlp")(x)
        h = jax.nn.gelu(hk.Linear(HIDDEN, w_init=LECUN, name="up")(h))
        h = hk.Linear(WIDTH, w_init=LECUN, name="down")(h)
        return x + hk.dropout(dropout_key(key, (self.name, "drop_mlp")), RATE, h)


class ResNetBlock(hk.Module):
    """Two convolutions with batch statistics."""

    def __init__(self, channels: int, name: str) -> None:
        super().__init__(name)
        self.channels = channels

    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(hk.Conv2D, self.channels, with_bias=False, w_init=LECUN)
        stride = 1 if self.channels == x.shape[-1] else 2
        y = batch_norm(name="norm_a")(conv(3, stride, name="conv_a")(x), is_training=True)
        y = batch_norm(name="norm_b")(conv(3, name="conv_b")(jax.nn.relu(y)), is_training=True)
        if stride != 1:
            x = batch_norm(name="norm_skip")(conv(1, stride, name="skip")(x), is_training=True)
        return jax.nn.relu(x + y)


def transformer(x: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Blocks and a last LayerNorm."""
    y, key = x
    for name in names(BLOCKS):
        y = TransformerBlock(name)(y, key)
    return layer_norm(name="norm")(y)


def resnet(x: jax.Array) -> jax.Array:
    """Blocks one after the other."""
    for name, channels in zip(names(BLOCKS), CHANNELS, strict=True):
        x = ResNetBlock(channels, name)(x)
    return x


def lstm(x: jax.Array) -> jax.Array:
    """Layers one after the other."""
    for name in names(BLOCKS):
        core = hk.LSTM(WIDTH, name)
        x, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
    return x


MODELS: dict[str, Callable[[Any], jax.Array]] = {"transformer": transformer, "resnet": resnet, "lstm": lstm}


@functools.cache
def variables_of(kind: str) -> dict[str, Any]:
    """Haiku's two-level dicts of the variables of the version by hand."""
    by_hand = networks_hand.variables_of(kind)
    params, state = {}, {}
    for name, p in by_hand["params"].items():
        if kind == "lstm":
            params[f"{name}/linear"] = joined(p["cell"])
        elif name == "norm":
            params[name] = {"scale": p["scale"], "offset": p["bias"]}
        else:
            flat = {k: v for k, v in p.items() if k != "attention"}
            flat |= {f"attention/{'linear' if k == 'out' else k}": v for k, v in p.get("attention", {}).items()}
            params |= {f"{name}/{path}": layer(leaves, kind) for path, leaves in flat.items()}
    for name, norms in by_hand.get("batch_stats", {}).items():
        for norm, statistics in norms.items():
            for which, value in statistics.items():
                hidden = value.reshape(1, 1, 1, -1)
                state[f"{name}/{norm}/~/{which}_ema"] = {
                    "counter": jnp.int32(0),
                    "hidden": hidden,
                    "average": jnp.zeros_like(hidden),
                }
    return {"params": params, "batch_stats": state}


def layer(p: dict[str, jax.Array], kind: str) -> dict[str, jax.Array]:
    """The parameters of one layer under Haiku's names, in its shapes."""
    if "scale" in p:
        shape = (1, 1, 1, -1) if kind == "resnet" else (-1,)
        return {"scale": p["scale"].reshape(shape), "offset": p["bias"].reshape(shape)}
    if "bias" not in p:
        return {"w": p["kernel"]}
    bias = p["bias"].ravel()
    return {"w": p["kernel"].reshape(-1, bias.size), "b": bias}


def joined(cell: dict[str, Any]) -> dict[str, jax.Array]:
    """The parameters of a layer of the LSTM, with Haiku's order of the gates."""
    gates = "igfo"
    kernels = [jnp.concatenate([cell[part + gate]["kernel"] for gate in gates], 1) for part in "ih"]
    bias = jnp.concatenate([cell[f"h{gate}"]["bias"] - (gate == "f") for gate in gates])
    return {"w": jnp.concatenate(kernels), "b": bias}


def arguments(kind: str) -> tuple[Any, Any]:
    """Variables (for `init_…`, a key) and input."""
    base = kind.removeprefix("init_")
    return (jax.random.key(0) if base != kind else variables_of(kind)), networks_hand.inputs(base)


def program(kind: str, depth: int) -> Callable[..., Any]:
    """See `networks_hand.program`."""
    model = MODELS[kind.removeprefix("init_")]
    network = hk.transform_with_state(lambda x: model(x))
    if kind.startswith("init_"):
        return lambda key, x: dict(zip(("params", "batch_stats"), network.init(key, x), strict=True))

    def apply(variables: dict[str, Any], x: Any) -> tuple[jax.Array, dict[str, Any]]:
        y, state = network.apply(variables["params"], variables["batch_stats"], None, x)
        return y, {"batch_stats": state}

    return apply


def exported(kind: str, variables: dict[str, Any]) -> list[jax.Array]:
    """The leaves that the version by hand has, in whatever order: of averages, only those that it moves."""
    leaves = jax.tree.leaves(variables.get("params", {}))
    if kind == "lstm":
        halves = [half for leaf in leaves for half in (jnp.split(leaf, 2) if leaf.ndim == 2 else [leaf])]
        leaves = [gate for half in halves for gate in jnp.split(half, 4, -1)]
    return leaves + [average["hidden"] for average in variables.get("batch_stats", {}).values()]
