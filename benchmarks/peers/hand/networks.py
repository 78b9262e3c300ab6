"""Three networks as they are trained, in plain JAX: a transformer with dropout, a ResNet, an LSTM.

The program of each kind is `(variables, x) -> (y, state)`, where `variables` is a dict of collections and `state` holds
those that a training step changes. The trees are Linen's, and each mask of dropout is drawn with the key that Linen's
rule gives, so that all implementations which follow that rule must agree.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.peers.hand.models import Parameters, dense, layer_norm, names

BLOCKS = 2
"""Blocks, or layers, of each network."""
BATCH = 4
LENGTH = 16
"""Positions of a sequence."""
WIDTH = 32
HIDDEN = 64
HEADS = 4
RATE = 0.1
"""Probability with which an element is dropped."""
SIZE = 8
"""Pixels of an image along each side."""
CHANNELS = (16, 32)
"""Channels of each ResNet block. Where they change, so does the size of the image, by a half."""
MOMENTUM = 0.9
EPSILON = 1e-5
GATES = "ifgo"

Variables = dict[str, Any]
Output = tuple[jax.Array, Variables]


# --- the transformer -------------------------------------------------------------------------------------------------


def transformer(variables: Variables, x: tuple[jax.Array, jax.Array]) -> Output:
    """Blocks of attention and a gelu MLP, each behind a LayerNorm and before dropout; `x` is (positions, key)."""
    y, key = x
    for name in names(BLOCKS):
        p = variables["params"][name]
        y = y + dropout(key, (name, "drop_attention"), attention(p["attention"], layer_norm(p["norm_attention"], y)))
        h = jax.nn.gelu(dense(p["up"], layer_norm(p["norm_mlp"], y)))
        y = y + dropout(key, (name, "drop_mlp"), dense(p["down"], h))
    return layer_norm(variables["params"]["norm"], y), {}


def attention(p: Parameters, x: jax.Array) -> jax.Array:
    """Self-attention in several heads."""
    query, key, value = (
        jnp.einsum("ble,ehd->blhd", x, p[k]["kernel"]) + p[k]["bias"] for k in ("query", "key", "value")
    )
    logits = jnp.einsum("bqhd,bkhd->bhqk", query / np.sqrt(query.shape[-1]).astype(np.float32), key)
    gathered = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)
    return jnp.einsum("bqhd,hde->bqe", gathered, p["out"]["kernel"]) + p["out"]["bias"]


def dropout(key: jax.Array, path: Sequence[str], x: jax.Array) -> jax.Array:
    """Drop elements with the first key that the module at `path` draws."""
    mask = jax.random.bernoulli(dropout_key(key, path), 1 - RATE, x.shape)
    return jnp.where(mask, x / (1 - RATE), 0)


def dropout_key(key: jax.Array, path: Sequence[str]) -> jax.Array:
    """The first key that the module at `path` draws."""
    return jax.random.fold_in(key, digest(path))


def digest(path: Sequence[str]) -> np.uint32:
    """The word that Linen folds into a key for the first draw at `path`: of the SHA-1 of it and of the count 1."""
    return np.uint32(int.from_bytes(hashlib.sha1("".join(path).encode() + b"\x01").digest()[:4], "big"))


# --- the ResNet ------------------------------------------------------------------------------------------------------


def resnet(variables: Variables, x: jax.Array) -> Output:
    """Blocks of two convolutions with batch statistics."""
    moved = {}
    for name, channels in zip(names(BLOCKS), CHANNELS, strict=True):
        p, s = variables["params"][name], variables["batch_stats"][name]
        new = moved[name] = {}
        stride = 1 if channels == x.shape[-1] else 2
        y, new["norm_a"] = batch_norm(p["norm_a"], s["norm_a"], conv(p["conv_a"], x, stride))
        y, new["norm_b"] = batch_norm(p["norm_b"], s["norm_b"], conv(p["conv_b"], jax.nn.relu(y)))
        if stride != 1:
            x, new["norm_skip"] = batch_norm(p["norm_skip"], s["norm_skip"], conv(p["skip"], x, stride))
        x = jax.nn.relu(x + y)
    return x, {"batch_stats": moved}


def conv(p: Parameters, x: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution without a bias."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, p["kernel"], (stride, stride), "SAME", dimension_numbers=layout)


def batch_norm(p: Parameters, s: Parameters, x: jax.Array) -> tuple[jax.Array, Parameters]:
    """Normalize by the statistics of the batch, and move the running averages towards them."""
    mean = x.mean((0, 1, 2))
    var = jnp.maximum(0.0, lax.square(x).mean((0, 1, 2)) - lax.square(mean))
    y = (x - mean) * (lax.rsqrt(var + EPSILON) * p["scale"]) + p["bias"]
    moved = {k: MOMENTUM * s[k] + (1 - MOMENTUM) * v for k, v in (("mean", mean), ("var", var))}
    return y, moved


# --- the LSTM --------------------------------------------------------------------------------------------------------


def lstm(variables: Variables, x: jax.Array) -> Output:
    """Layers of an LSTM along the second axis, each one `lax.scan`."""
    for name in names(BLOCKS):
        x = lstm_layer(variables["params"][name]["cell"], x)
    return x, {}


def lstm_layer(p: Parameters, x: jax.Array) -> jax.Array:
    """One layer; the kernels of the four gates are joined before the loop."""
    on_input = jnp.concatenate([p[f"i{gate}"]["kernel"] for gate in GATES], 1)
    on_state = jnp.concatenate([p[f"h{gate}"]["kernel"] for gate in GATES], 1)
    bias = jnp.concatenate([p[f"h{gate}"]["bias"] for gate in GATES])

    def step(carry: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        c, h = carry
        i, f, g, o = jnp.split(h @ on_state + bias + x @ on_input, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h

    shape = (x.shape[0], WIDTH)
    _, y = lax.scan(step, (jnp.zeros(shape), jnp.zeros(shape)), x.swapaxes(0, 1))
    return y.swapaxes(0, 1)


# --- variables -------------------------------------------------------------------------------------------------------


def init(kind: str, key: jax.Array) -> Variables:
    """The variables of a network: kernels LeCun-normal, or orthogonal on the state of the LSTM."""
    keys = iter(jax.random.split(key, 64))
    lecun = jax.nn.initializers.lecun_normal()

    def affine(d: int, features: int) -> Parameters:
        return {"kernel": lecun(next(keys), (d, features)), "bias": jnp.zeros(features)}

    def norm(features: int) -> Parameters:
        return {"scale": jnp.ones(features), "bias": jnp.zeros(features)}

    def heads() -> Parameters:
        shape = (HEADS, WIDTH // HEADS)
        return {"kernel": lecun(next(keys), (WIDTH, WIDTH)).reshape(WIDTH, *shape), "bias": jnp.zeros(shape)}

    def transformer_block(_: int) -> tuple[Parameters, Parameters]:
        out = {"kernel": lecun(next(keys), (WIDTH, WIDTH)).reshape(HEADS, -1, WIDTH), "bias": jnp.zeros(WIDTH)}
        return {
            "norm_attention": norm(WIDTH),
            "attention": {"query": heads(), "key": heads(), "value": heads(), "out": out},
            "norm_mlp": norm(WIDTH),
            "up": affine(WIDTH, HIDDEN),
            "down": affine(HIDDEN, WIDTH),
        }, {}

    def resnet_block(i: int) -> tuple[Parameters, Parameters]:
        old, new = ((CHANNELS[0], *CHANNELS)[i], CHANNELS[i])
        kernels = {"conv_a": (3, 3, old, new), "conv_b": (3, 3, new, new)}
        kernels |= {} if old == new else {"skip": (1, 1, old, new)}
        norms = ("norm_a", "norm_b", *(["norm_skip"] if old != new else []))
        p = {name: {"kernel": lecun(next(keys), shape)} for name, shape in kernels.items()}
        statistics = {name: {"mean": jnp.zeros(new), "var": jnp.ones(new)} for name in norms}
        return p | {name: norm(new) for name in norms}, statistics

    def lstm_block(_: int) -> tuple[Parameters, Parameters]:
        orthogonal = jax.nn.initializers.orthogonal()
        on_input = {f"i{gate}": {"kernel": lecun(next(keys), (WIDTH, WIDTH))} for gate in GATES}
        on_state = {
            f"h{gate}": {"kernel": orthogonal(next(keys), (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)} for gate in GATES
        }
        return {"cell": on_input | on_state}, {}

    make = {"transformer": transformer_block, "resnet": resnet_block, "lstm": lstm_block}[kind]
    blocks = {name: make(i) for i, name in enumerate(names(BLOCKS))}
    variables = {"params": {name: p for name, (p, _) in blocks.items()}}
    if kind == "transformer":
        variables["params"]["norm"] = norm(WIDTH)
    return variables | ({"batch_stats": {name: s for name, (_, s) in blocks.items()}} if kind == "resnet" else {})


@functools.cache
def variables_of(kind: str) -> Variables:
    """The variables that all implementations of a kind are compared with."""
    return jax.jit(functools.partial(init, kind))(jax.random.key(0))


def inputs(kind: str) -> Any:
    """What a network of the kind takes."""
    key = jax.random.key(2)
    if kind == "resnet":
        return jax.random.normal(key, (BATCH, SIZE, SIZE, CHANNELS[0]))
    x = jax.random.normal(key, (BATCH, LENGTH, WIDTH))
    return (x, jax.random.key(3)) if kind == "transformer" else x


PROGRAMS: dict[str, Callable[[Variables, Any], Output]] = {"transformer": transformer, "resnet": resnet, "lstm": lstm}
KINDS = frozenset({*PROGRAMS, *(f"init_{kind}" for kind in PROGRAMS)})


def program(kind: str) -> Callable[..., Any]:
    """A fresh function `(variables, x) -> (y, state)`; of a kind `init_…`, `(key, x) -> variables`."""
    if kind.startswith("init_"):
        return lambda key, x: init(kind.removeprefix("init_"), key)
    return lambda variables, x: PROGRAMS[kind](variables, x)


def implementation(name: str, program: Callable[[str], Callable[..., Any]]) -> SimpleNamespace:
    """The networks as an implementation, of a library that has this tree of variables; `models_hand` says what it has.

    For other libraries, a module is one. It has `exported(kind, variables)`, leaves that compare with those here, if
    more than shapes and names differ, and `output(kind, y)`, if an output is laid out otherwise.
    """

    def arguments(kind: str) -> tuple[Any, Any]:
        base = kind.removeprefix("init_")
        return (jax.random.key(0) if base != kind else variables_of(base)), inputs(base)

    return SimpleNamespace(
        NAME=name, KINDS=KINDS, program=lambda kind, _: program(kind), arguments=arguments, derived=training_step
    )


def training_step(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return `(variables, x) -> variables` after one step of gradient descent on the mean size of the output.

    Not on its mean square, which a LayerNorm at the end makes a constant.
    """

    def step(variables: Variables, x: Any) -> Variables:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            y, state = apply({**variables, "params": params}, x)
            return jnp.abs(y).mean(), state

        slope, state = jax.grad(loss, has_aux=True)(variables["params"])
        return {**state, "params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], slope)}

    return step
