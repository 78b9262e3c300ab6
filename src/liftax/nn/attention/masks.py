"""Masks: which query may look at which key.

    make_attention_mask : (array[..., q], array[..., k]) -> array[..., 1, q, k]

A mask holds True, or any number but 0, where a query sees a key. Its axis of size 1 stands for the heads, which
broadcasting repeats.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.nn.dtypes import cast
from liftax.typing import Array

__all__ = ["combine_masks", "make_attention_mask", "make_causal_mask"]


def make_attention_mask(
    query_input: ArrayLike,
    key_input: ArrayLike,
    pairwise_fn: Callable[..., Any] = jnp.multiply,
    extra_batch_dims: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Array:
    r"""Make a mask from one value for each position.

    $$m_{\dots 1 q k} = f(a_{\dots q}, b_{\dots k})$$

    Args:
        query_input: $a$, of shape `(..., q)`, any dtype: such as True where a query is no padding.
        key_input: $b$, of shape `(..., k)`, any dtype.
        pairwise_fn: $f$, an elementwise function that broadcasts; called with shapes `(..., q, 1)` and `(..., 1, k)`.
        extra_batch_dims: how many axes of size 1 to put in front.
        dtype: the dtype of the mask.

    Returns:
        An array of shape `(..., 1, q, k)`, after the axes in front.

    Raises:
        ValueError: an input is a scalar, or `extra_batch_dims` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> words = jnp.array([[True, True, False]])  # the third is padding
        >>> nn.make_attention_mask(words, words, dtype=int)
        Array([[[[1, 1, 0],
                 [1, 1, 0],
                 [0, 0, 0]]]], dtype=int32)
    """
    queries, keys = jnp.asarray(query_input), jnp.asarray(key_input)
    for name, x in (("query_input", queries), ("key_input", keys)):
        if not x.ndim:
            raise ValueError(
                f"make_attention_mask got a scalar as {name}, expected a value for each position: (..., n)."
            )
    _check_extra("make_attention_mask", extra_batch_dims)
    mask = pairwise_fn(jnp.expand_dims(queries, -1), jnp.expand_dims(keys, -2))
    return _with_heads(mask, extra_batch_dims, dtype)


def make_causal_mask(x: ArrayLike, extra_batch_dims: int = 0, dtype: DTypeLike = jnp.float32) -> Array:
    r"""Make the mask in which each position sees itself and those before it.

    $$m_{\dots 1 q k} = [q \ge k]$$

    Args:
        x: shape `(..., n)`; only its shape counts.
        extra_batch_dims: how many axes of size 1 to put in front.
        dtype: the dtype of the mask.

    Returns:
        An array of shape `(..., 1, n, n)`, after the axes in front.

    Raises:
        ValueError: `x` is a scalar, or `extra_batch_dims` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.make_causal_mask(jnp.zeros((1, 3)), dtype=bool)
        Array([[[[ True, False, False],
                 [ True,  True, False],
                 [ True,  True,  True]]]], dtype=bool)
    """
    shape = jnp.shape(x)
    if not shape:
        raise ValueError("make_causal_mask got a scalar, expected an array with an axis of positions: (..., n).")
    _check_extra("make_causal_mask", extra_batch_dims)
    square = (shape[-1], shape[-1])
    # The triangle is the same for the whole batch, so it is made once and then repeated.
    triangle = lax.broadcasted_iota(jnp.int32, square, 0) >= lax.broadcasted_iota(jnp.int32, square, 1)
    full = (*(1,) * extra_batch_dims, *shape[:-1], 1, *square)
    return lax.broadcast_in_dim(cast(triangle, dtype), full, (len(full) - 2, len(full) - 1))


def combine_masks(*masks: ArrayLike | None, dtype: DTypeLike = jnp.float32) -> Array | None:
    """Return the mask that is true where all of the masks are.

    Args:
        *masks: arrays of one rank whose shapes broadcast; those that are None are passed over.
        dtype: the dtype of the result.

    Returns:
        An array of the broadcast shape. None, where all masks are None.

    Raises:
        ValueError: the masks differ in rank, or their shapes do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.combine_masks(jnp.array([True, True, False]), None, jnp.array([True, False, False]), dtype=bool)
        Array([ True, False, False], dtype=bool)
    """
    arrays = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in masks if x is not None]
    if not arrays:
        return None
    shapes = [x.shape for x in arrays]
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(
            f"combine_masks got masks of shapes {shapes}, expected masks of one rank, (..., heads, q, k). Give the "
            "smaller ones axes of size 1."
        )
    try:
        jnp.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ValueError(f"combine_masks got masks of shapes {shapes}, expected shapes that broadcast.") from error
    mask, *others = arrays
    for other in others:
        mask = jnp.logical_and(mask, other)
    return cast(mask, dtype)


def _with_heads(mask: Array, extra_batch_dims: int, dtype: DTypeLike) -> Array:
    """Return `mask`, of shape `(..., q, k)`, with an axis for the heads, and others in front, all of size 1."""
    axes = (*range(extra_batch_dims), mask.ndim - 2 + extra_batch_dims)
    return cast(jnp.expand_dims(mask, axes), dtype)


def _check_extra(name: str, extra_batch_dims: int) -> None:
    if extra_batch_dims < 0:
        raise ValueError(f"{name} got extra_batch_dims={extra_batch_dims}, expected a number of axes, 0 or more.")
