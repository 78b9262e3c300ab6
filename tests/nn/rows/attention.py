"""Attention. How it decodes, its back ends and the rest of its errors are in `test_attention.py`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import errors

from ..table import Mistake, Row, numbers

BIAS = jax.nn.initializers.normal()
X, Y = numbers(2, 5, 6), numbers(2, 3, 4)
CAUSAL = np.tril(np.ones((5, 5), bool))[None, None]
QUERY, KEY, VALUE = numbers(2, 4, 2, 3), numbers(2, 5, 2, 3), numbers(2, 5, 2, 6)
DROPOUT = ("dropout",)
OTHER_KEY = (
    "inside the lifted transform the stream has another key, as in Linen, so other weights are dropped than outside"
)


def layer(name: str = "MultiHeadDotProductAttention", **fields: Any) -> Callable[..., Any]:
    return lambda lib, _: getattr(lib, name)(num_heads=2, bias_init=BIAS, **fields)


def layer_in(**fields: Any) -> Callable[..., Any]:
    """Return a maker of layers that compute in the dtype under test."""
    return lambda lib, dtype: layer(dtype=dtype, **fields)(lib, dtype)


def function(**options: Any) -> Callable[..., Any]:
    return lambda lib, _: lib.Sequential([lambda *qkv: lib.dot_product_attention(*qkv, **options)])


def attended(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Return the attention that a careful person writes, whose product has the heads before the positions."""
    query = query / np.sqrt(query.shape[-1]).astype(np.float32)
    weights = jax.nn.softmax(jax.lax.dot_general(query, key, (((3,), (3,)), ((0, 2), (0, 2)))))
    return jax.lax.dot_general(value, weights, (((1,), (3,)), ((0, 2), (0, 1)))).transpose(0, 3, 1, 2)


def layer_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    params = variables["params"]

    def heads(name: str) -> jax.Array:
        y = jnp.tensordot(x, params[name]["kernel"], 1)
        return y + jax.lax.broadcast_in_dim(params[name]["bias"], y.shape, (2, 3))

    y = jnp.tensordot(attended(heads("query"), heads("key"), heads("value")), params["out"]["kernel"], 2)
    return y + jax.lax.broadcast_in_dim(params["out"]["bias"], y.shape, (2,))


def function_by_hand(_: Any, query: jax.Array, key: jax.Array, value: jax.Array, keys: Any) -> jax.Array:
    return attended(query, key, value)


MULTI_HEAD = [
    Row(
        "MultiHeadDotProductAttention",
        "default",
        layer(),
        (X,),
        by_hand=layer_by_hand,
        mistakes=(
            Mistake(
                "heads",
                ValueError,
                r"/inner \(MultiHead.*num_heads=4.*features of inputs_q, 6",
                make=lambda lib, _: lib.MultiHeadDotProductAttention(4),
            ),
            Mistake("rank", ValueError, r"/inner.*inputs_q \(6,\).*two axes", inputs=(numbers(6),)),
            Mistake("batch", ValueError, r"/inner.*inputs_k \(3, 3, 4\).*batch", inputs=(X, numbers(3, 3, 4))),
            Mistake("mask", ValueError, r"/inner.*mask of shape \(4,\)", call={"mask": np.ones(4, bool)}),
            Mistake("features", errors.ScopeParamShapeError, "kernel.*/inner", inputs=(numbers(2, 5, 8),), made=True),
        ),
    ),
    Row("MultiHeadDotProductAttention", "mask", layer_in(), (X,), call={"mask": CAUSAL}),
    Row(
        "MultiHeadDotProductAttention",
        "cross",
        layer(qkv_features=8, out_features=3, normalize_qk=True, use_bias=False),
        (X, Y),
    ),
    Row(
        "MultiHeadDotProductAttention",
        "dropout",
        layer(dropout_rate=0.4, deterministic=False),
        (X,),
        rngs=DROPOUT,
        alone={"lifted-jit": OTHER_KEY, "lifted-scan": OTHER_KEY},
        mistakes=(
            Mistake("rng", errors.InvalidRngError, "'dropout'", made=True, rngs=False),
            Mistake("mode", ValueError, "deterministic", make=layer(dropout_rate=0.4)),
            Mistake("mode-twice", ValueError, "deterministic", call={"deterministic": True}),
        ),
    ),
    Row(
        "MultiHeadDotProductAttention",
        "float32-softmax",
        layer_in(force_fp32_for_softmax=True),
        (X,),
        dtypes=("bfloat16", "float16"),
        smooth="the softmax is in float32",
    ),
]

OTHER_NAMES = [
    Row(
        "MultiHeadAttention",
        "default",
        layer("MultiHeadAttention"),
        (X,),
        by_hand=layer_by_hand,
        dtypes=("float32",),
        order=1,
    ),
    Row("SelfAttention", "default", layer("SelfAttention"), (X,), by_hand=layer_by_hand, dtypes=("float32",), order=1),
]

FUNCTION = [
    Row(
        "dot_product_attention",
        "default",
        function(),
        (QUERY, KEY, VALUE),
        by_hand=function_by_hand,
        any_width="query and key may have any size",
        mistakes=(
            Mistake("size", ValueError, "of one size", inputs=(QUERY, numbers(2, 5, 2, 4), VALUE)),
            Mistake("heads", ValueError, "one number of heads", inputs=(QUERY, numbers(2, 5, 1, 3), VALUE)),
            Mistake("length", ValueError, "a value for each key", inputs=(QUERY, KEY, numbers(2, 4, 2, 3))),
        ),
    ),
]

ROWS = [*MULTI_HEAD, *OTHER_NAMES, *FUNCTION]
