"""Convolutions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import errors

from ..table import Mistake, Row, numbers

BIAS = jax.nn.initializers.normal()
IMAGE = (numbers(2, 5, 4, 3),)
LINE = (numbers(2, 6, 3),)


def conv(size: Any = 3, name: str = "Conv", **fields: Any) -> Callable[..., Any]:
    return lambda lib, _: getattr(lib, name)(4, size, bias_init=BIAS, **fields)


def with_conv(x: Any, kernel: Any, *args: Any, **kwargs: Any) -> jax.Array:
    return 2 * jax.lax.conv_general_dilated(x, kernel, *args, **kwargs)


def conv_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + jax.lax.broadcast_in_dim(bias, y.shape, (3,))


def local_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    names = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated_local(x, kernel, (1, 1), "SAME", (3, 3), dimension_numbers=names)
    return y + jax.lax.broadcast_in_dim(bias, y.shape, (1, 2, 3))


def transposed_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    y = jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")
    return y + jax.lax.broadcast_in_dim(bias, y.shape, (3,))


def wrong(name: str, words: str, layer: str, size: Any = (3, 3), **fields: Any) -> Mistake:
    return Mistake(name, ValueError, rf"/inner \({layer}\) got {words}", make=conv(size, layer, **fields))


def shared_mistakes(layer: str) -> tuple[Mistake, ...]:
    return (
        Mistake("rank", ValueError, rf"/inner \({layer}\) got an input of shape \(4, 3\)", inputs=(numbers(4, 3),)),
        Mistake("features", errors.ScopeParamShapeError, "kernel.*/inner", inputs=(numbers(2, 5, 4, 6),), made=True),
        wrong("strides", "strides=0", layer, strides=0),
        wrong("strides-number", r"strides=\(1, 1, 1\).*2 spatial", layer, strides=(1, 1, 1)),
        wrong("dilation", r"kernel_dilation=\(1, -1\)", layer, kernel_dilation=(1, -1)),
        wrong("padding", "padding='SOME'.*'SAME'", layer, padding="SOME"),
        wrong("padding-number", r"padding=\(1, 1, 1\)", layer, padding=(1, 1, 1)),
        wrong("mask", r"a mask of shape \(2, 2\).*kernel, \(", layer, mask=np.ones((2, 2))),
    )


ROWS = [
    Row(
        "Conv",
        "default",
        conv((3, 3)),
        IMAGE,
        by_hand=conv_by_hand,
        mistakes=(
            *shared_mistakes("Conv"),
            wrong("groups", "feature_group_count=2.*3 features", "Conv", feature_group_count=2),
            wrong("causal", "padding='CAUSAL'.*2 spatial", "Conv", padding="CAUSAL"),
            wrong("input-dilation", r"padding='SAME' with input_dilation=\(2, 2\)", "Conv", input_dilation=2),
        ),
    ),
    Row("Conv", "1d", conv(), LINE),
    Row("Conv", "no-batch", conv(), (numbers(6, 3),)),
    Row("Conv", "two-batches", conv(), (numbers(2, 2, 6, 3),)),
    Row("Conv", "strides", conv((3, 2), strides=(2, 1)), IMAGE),
    Row("Conv", "same-lower", conv((2,), padding="SAME_LOWER"), LINE),
    Row("Conv", "valid", conv((3,), padding="VALID", use_bias=False), LINE),
    Row("Conv", "circular", conv((3, 2), padding="CIRCULAR", kernel_dilation=(2, 1)), IMAGE),
    Row("Conv", "reflect", conv((4,), padding="REFLECT"), LINE),
    Row("Conv", "causal", conv((3,), padding="CAUSAL", kernel_dilation=2), LINE),
    Row("Conv", "pad", conv((3, 3), padding=(1, (0, 2)), input_dilation=(1, 2)), IMAGE),
    Row("Conv", "groups", conv((3,), feature_group_count=2), (numbers(2, 6, 4),)),
    Row("Conv", "mask", conv((3,), mask=np.tril(np.ones((3, 3, 4), np.float32))), LINE),
    Row("Conv", "dtype", lambda lib, dtype: lib.Conv(4, 3, dtype=dtype, param_dtype=dtype), LINE),
    Row("Conv", "injected", conv((3,), conv_general_dilated=with_conv), LINE),
    Row("Conv", "injected-cls", conv((3,), conv_general_dilated_cls=lambda: with_conv), LINE),
    Row(
        "ConvLocal",
        "default",
        conv((3, 3), "ConvLocal"),
        IMAGE,
        by_hand=local_by_hand,
        mistakes=(
            *shared_mistakes("ConvLocal"),
            Mistake(
                "groups",
                NotImplementedError,
                "feature_group_count=3",
                make=conv((3, 3), "ConvLocal", feature_group_count=3),
            ),
            wrong("injected", "a function to convolve with", "ConvLocal", conv_general_dilated=with_conv),
            wrong(
                "injected-cls", "a function to convolve with", "ConvLocal", conv_general_dilated_cls=lambda: with_conv
            ),
        ),
    ),
    Row("ConvLocal", "circular", conv((3,), "ConvLocal", padding="CIRCULAR", strides=2), LINE),
    Row(
        "ConvTranspose",
        "default",
        conv((3, 3), "ConvTranspose", strides=(2, 2)),
        IMAGE,
        by_hand=transposed_by_hand,
        mistakes=shared_mistakes("ConvTranspose"),
    ),
    Row("ConvTranspose", "valid", conv((3,), "ConvTranspose", padding="VALID", use_bias=False), LINE),
    Row("ConvTranspose", "circular", conv((4, 3), "ConvTranspose", padding="CIRCULAR", strides=(2, 1)), IMAGE),
    Row(
        "ConvTranspose",
        "circular-kernel",
        conv((4,), "ConvTranspose", padding="CIRCULAR", strides=(2,), transpose_kernel=True),
        LINE,
    ),
    Row("ConvTranspose", "dilated", conv((3,), "ConvTranspose", padding=2, kernel_dilation=(2,)), (numbers(6, 3),)),
    Row("ConvTranspose", "mask", conv((3,), "ConvTranspose", mask=np.tril(np.ones((3, 3, 4), np.float32))), LINE),
    Row(
        "ConvTranspose",
        "preferred",
        conv((3,), "ConvTranspose", preferred_element_type=jnp.float32),
        LINE,
        smooth="the sum is asked for in float32",
    ),
]
