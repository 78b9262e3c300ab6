"""Pooling, and the activation that has a parameter."""

from collections.abc import Callable
from typing import Any

import flax.linen.pooling
import jax
import jax.numpy as jnp

from ..table import Mistake, Row, integers, numbers

IMAGE = (numbers(2, 5, 4, 3),)
ANY = "a pool has no parameters, and takes any number of features"


def pooled(name: str, *args: Any, **options: Any) -> Callable[..., Any]:
    def make(lib: Any, _: Any) -> Any:
        home = flax.linen.pooling if lib is flax.linen else lib  # flax.linen keeps min_pool there
        return lib.Sequential([lambda x: getattr(home, name)(x, *args, **options)])

    return make


def average_by_hand(_: Any, x: jax.Array, __: Any) -> jax.Array:
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 1, 1), "VALID") / 4


def maximum_by_hand(_: Any, x: jax.Array, __: Any) -> jax.Array:
    return jax.lax.reduce_window(x, -float("inf"), jax.lax.max, (1, 2, 2, 1), (1, 2, 1, 1), "VALID")


def minimum_by_hand(_: Any, x: jax.Array, __: Any) -> jax.Array:
    return jax.lax.reduce_window(x, float("inf"), jax.lax.min, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


def sum_by_hand(_: Any, x: jax.Array, __: Any) -> jax.Array:
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 2, 1), "SAME")


def prelu_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    return jnp.where(x >= 0, x, variables["params"]["negative_slope"] * x)


def wrong(name: str, words: str, *args: Any, **options: Any) -> Mistake:
    return Mistake(name, ValueError, f"pool got {words}", make=pooled("avg_pool", *args, **options))


ROWS = [
    Row(
        "avg_pool",
        "default",
        pooled("avg_pool", (2, 2), (2, 1)),
        IMAGE,
        by_hand=average_by_hand,
        any_width=ANY,
        mistakes=(
            wrong("rank", r"an input of shape \(2, 5, 4, 3\)", (2, 2, 2, 2)),
            wrong("window", r"window_shape=\(0, 2\)", (0, 2)),
            wrong("strides", r"strides=\(1,\).*2 spatial", (2, 2), (1,)),
            wrong("padding", "padding='SOME'", (2, 2), padding="SOME"),
        ),
    ),
    Row("avg_pool", "same", pooled("avg_pool", (3, 2), padding="SAME"), IMAGE),
    Row("avg_pool", "without-padding", pooled("avg_pool", (3, 2), padding="SAME", count_include_pad=False), IMAGE),
    Row("max_pool", "default", pooled("max_pool", (2, 2), (2, 1)), IMAGE, by_hand=maximum_by_hand, any_width=ANY),
    Row("max_pool", "pairs", pooled("max_pool", (3, 2), padding=((1, 1), (0, 1))), IMAGE),
    Row("max_pool", "no-batch", pooled("max_pool", (3,)), (numbers(5, 3),)),
    Row("min_pool", "default", pooled("min_pool", (2, 2)), IMAGE, by_hand=minimum_by_hand, any_width=ANY),
    Row(
        "pool",
        "default",
        pooled("pool", 0.0, jax.lax.add, (2, 2), (1, 2), "SAME"),
        IMAGE,
        by_hand=sum_by_hand,
        any_width=ANY,
    ),
    Row(
        "PReLU", "default", lambda lib, dtype: lib.PReLU(), by_hand=prelu_by_hand, any_width="the parameter is a scalar"
    ),
    Row(
        "PReLU",
        "param-dtype",
        lambda lib, dtype: lib.PReLU(dtype, 0.25),
        mistakes=(
            Mistake("integers", TypeError, r"/inner \(PReLU\) got inputs of dtype int32", inputs=(integers(3),)),
        ),
    ),
]
