r"""Dot-product attention: a mean of values, weighted by how well their keys match a query.

    dot_product_attention : (array[..., q, h, d], array[..., k, h, d], array[..., k, h, v]) -> array[..., q, h, v]

The arithmetic of the layers in `liftax.nn.attention.layer`, which project their inputs to `h` heads and back.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax import errors
from liftax.nn.attention.checks import check_broadcasts, check_heads, check_rate
from liftax.nn.dtypes import cast, constant, matched, promote_dtype
from liftax.nn.support.tracing import traced_once, untraced
from liftax.typing import Array, PRNGKey

__all__ = ["dot_product_attention", "dot_product_attention_weights"]

Einsum = Callable[..., Array]


def dot_product_attention_weights(
    query: ArrayLike,
    key: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    module: Any = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., Array] | None = None,
    einsum: Einsum | None = None,
) -> Array:
    r"""Compute by how much each query attends to each key.

    $$w_{\dots h q k} = \mathrm{softmax}_k\Big(\tfrac{1}{\sqrt{d}} \sum_i Q_{\dots q h i} K_{\dots k h i} + b\Big)$$

    Where the mask is False, the lowest number of the dtype takes the place of the sum; so a query that sees no key
    attends to all of them equally.

    Args:
        query: $Q$, of shape `(..., q, h, d)`: `q` queries, `h` heads of size `d`.
        key: $K$, of shape `(..., k, h, d)`.
        bias: $b$, of a shape that broadcasts to `(..., h, q, k)`.
        mask: of a shape that broadcasts to `(..., h, q, k)`, any dtype: True, or not 0, where a query sees a key.
        broadcast_dropout: draw one mask of dropout of shape `(q, k)`, for the whole batch and all heads.
        dropout_rng: the key to draw it with.
        dropout_rate: the probability, from 0 to below 1, that a weight is set to zero; the others are divided by
            `1 - dropout_rate`.
        deterministic: whether to leave dropout out.
        dtype: the dtype to compute in; None for the promoted dtype of query and key.
        precision: passed to `jax.lax.dot_general`.
        module: a Module that sows the weights, as they are before dropout, as `attention_weights` in the collection
            `intermediates`.
        force_fp32_for_softmax: take the softmax in float32, and return weights in float32.
        einsum_dot_general: called in place of `jax.lax.dot_general`.
        einsum: called in place of `jax.numpy.einsum` with `'...qhd,...khd->...hqk'`, query and key; instead of
            `precision` and `einsum_dot_general`.

    Returns:
        An array of shape `(..., h, q, k)`.

    Raises:
        ValueError: the shapes do not fit each other; the mask or the bias does not broadcast; `dropout_rate` is out of
            range; `einsum` is given together with what it replaces.
        InvalidRngError: there is dropout, and no `dropout_rng`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> query, key = jnp.ones((2, 1, 4)), jnp.ones((5, 1, 4))
        >>> weights = nn.dot_product_attention_weights(query, key)
        >>> weights.shape, bool(jnp.allclose(weights, 1 / 5))
        ((1, 2, 5), True)

    Source:
        Vaswani et al., Attention Is All You Need, 2017.
    """
    if einsum and (precision or einsum_dot_general):
        raise ValueError(
            "dot_product_attention_weights got einsum together with precision or einsum_dot_general, which say how an "
            "einsum multiplies. Give one or the other."
        )
    query, key = _array(query), _array(key)
    check_heads("dot_product_attention_weights", query, key)
    shape = (*query.shape[:-3], query.shape[-2], query.shape[-3], key.shape[-3])
    bias = None if bias is None else _checked("dot_product_attention_weights", "bias", bias, shape)
    mask = None if mask is None else _checked("dot_product_attention_weights", "mask", mask, shape)
    own = einsum is None and einsum_dot_general is None
    weights = (_weights if own else untraced(_weights))(
        query,
        key,
        bias,
        mask,
        dtype=dtype,
        float32=force_fp32_for_softmax,
        precision=precision,
        dot_general=einsum_dot_general or lax.dot_general,
        einsum=einsum,
    )
    if module is not None:
        module.sow("intermediates", "attention_weights", weights)
    if deterministic or dropout_rate == 0.0:
        return weights
    check_rate("dot_product_attention_weights", dropout_rate)
    if dropout_rng is None:
        raise errors.InvalidRngError(
            f"dot_product_attention_weights got dropout_rate={dropout_rate} and no dropout_rng, expected a key to draw "
            "with: dropout_rng=jax.random.key(0). Or leave dropout out: deterministic=True."
        )
    drawn = (1,) * (len(shape) - 2) + shape[-2:] if broadcast_dropout else shape
    dtype = jnp.result_type(query, key) if dtype is None else dtype
    return _dropped(weights, dropout_rng, kept=1.0 - float(dropout_rate), shape=drawn, dtype=jnp.dtype(dtype))


def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    module: Any = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., Array] | None = None,
    qk_attn_weights_einsum: Einsum | None = None,
    attn_weights_value_einsum: Einsum | None = None,
) -> Array:
    r"""Return, for each query, the mean of the values, weighted by how well their keys match it.

    $$y_{\dots q h j} = \sum_k w_{\dots h q k} V_{\dots k h j}$$

    The weights $w$ are those of `dot_product_attention_weights`. Where there is neither dropout nor a wish for the
    weights, `jax.nn.dot_product_attention` can be faster.

    Args:
        query: of shape `(..., q, h, d)`: `q` queries, `h` heads of size `d`. There may be no axes in front.
        key: of shape `(..., k, h, d)`.
        value: $V$, of shape `(..., k, h, v)`.
        bias: see `dot_product_attention_weights`, and so for all that is not described here.
        mask: of a shape that broadcasts to `(..., h, q, k)`, any dtype: True, or not 0, where a query sees a key.
        broadcast_dropout: draw one mask of dropout of shape `(q, k)`, for the whole batch and all heads.
        dropout_rng: the key to draw it with.
        dropout_rate: the probability that a weight is set to zero.
        deterministic: whether to leave dropout out.
        dtype: the dtype to compute in; None for the promoted dtype of query, key and value.
        precision: passed to `jax.lax.dot_general`.
        module: a Module that sows the weights.
        force_fp32_for_softmax: take the softmax and the mean in float32.
        einsum_dot_general: called in place of `jax.lax.dot_general`.
        qk_attn_weights_einsum: called in place of `jax.numpy.einsum` with `'...qhd,...khd->...hqk'`, query and key.
        attn_weights_value_einsum: called in place of `jax.numpy.einsum` with `'...hqk,...khd->...qhd'`, weights and
            value. These two are given together, instead of `precision` and `einsum_dot_general`.

    Returns:
        An array of shape `(..., q, h, v)`.

    Raises:
        ValueError: as `dot_product_attention_weights`.
        InvalidRngError: there is dropout, and no `dropout_rng`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> query, key, value = jnp.ones((1, 1, 4)), jnp.ones((2, 1, 4)), jnp.array([[[0.0]], [[10.0]]])
        >>> nn.dot_product_attention(query, key, value)
        Array([[[5.]]], dtype=float32)
        >>> nn.dot_product_attention(query, key, value, mask=jnp.array([False, True]))
        Array([[[10.]]], dtype=float32)

    Source:
        Vaswani et al., Attention Is All You Need, 2017.
    """
    if (qk_attn_weights_einsum is None) != (attn_weights_value_einsum is None):
        raise ValueError(
            "dot_product_attention got one of qk_attn_weights_einsum and attn_weights_value_einsum, expected both or "
            "neither."
        )
    if qk_attn_weights_einsum and (precision or einsum_dot_general):
        raise ValueError(
            "dot_product_attention got qk_attn_weights_einsum and attn_weights_value_einsum together with precision or "
            "einsum_dot_general, which say how an einsum multiplies. Give one or the other."
        )
    operands: list[Array] = promote_dtype(_array(query), _array(key), _array(value), dtype=dtype)
    query, key, value = operands
    check_heads("dot_product_attention", query, key, value)
    weights = dot_product_attention_weights(
        query,
        key,
        bias,
        mask,
        broadcast_dropout,
        dropout_rng,
        dropout_rate,
        deterministic,
        query.dtype,
        precision,
        module,
        force_fp32_for_softmax,
        einsum_dot_general,
        qk_attn_weights_einsum,
    )
    if attn_weights_value_einsum:
        return attn_weights_value_einsum("...hqk,...khd->...qhd", weights, value)
    dot_general = einsum_dot_general or lax.dot_general
    run = _weighted_sum if einsum_dot_general is None else untraced(_weighted_sum)
    return run(weights, value, precision=precision, dot_general=dot_general)


@traced_once
def _weights(
    query: Array,
    key: Array,
    bias: Array | None,
    mask: Array | None,
    *,
    dtype: DTypeLike | None,
    float32: bool,
    precision: lax.PrecisionLike,
    dot_general: Callable[..., Array],
    einsum: Einsum | None,
) -> Array:
    """Return the softmax over the keys of `query · key / sqrt(d) + bias`."""
    query, key = promote_dtype(query, key, dtype=dtype)
    dtype = query.dtype
    root = np.sqrt(query.shape[-1], dtype=np.promote_types(np.float32, dtype))
    query = lax.div(query, constant(float(root), query))
    if einsum is None:
        batch, last = (*range(query.ndim - 3), query.ndim - 2), query.ndim - 1
        logits = dot_general(query, key, (((last,), (last,)), (batch, batch)), precision=precision)
    else:
        logits = einsum("...qhd,...khd->...hqk", query, key)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(dtype).min)
    if float32:
        return jax.nn.softmax(cast(logits, jnp.float32))
    return cast(jax.nn.softmax(logits), dtype)


@traced_once
def _dropped(weights: Array, key: PRNGKey, *, kept: float, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return `weights / kept` where a mask of `shape` has True, with probability `kept`, and 0 elsewhere.

    The factor, which the backward pass stores, has the shape of the mask.
    """
    mask = cast(jax.random.bernoulli(key, kept, shape), dtype)
    return lax.mul(*matched(weights, lax.div(mask, constant(kept, mask))))


@traced_once
def _weighted_sum(
    weights: Array, value: Array, *, precision: lax.PrecisionLike, dot_general: Callable[..., Array]
) -> Array:
    """Return the sum over the keys of `weights[..., h, q, k] * value[..., k, h, v]`."""
    weights, value = matched(weights, value)
    n = value.ndim - 3
    batch = tuple(range(n))
    dims = (((n,), (n + 2,)), ((*batch, n + 1), (*batch, n)))
    out = dot_general(value, weights, dims, precision=precision)  # of shape (..., h, v, q)
    return lax.transpose(out, (*batch, n + 2, n, n + 1))


def _array(x: ArrayLike) -> Array:
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def _checked(where: str, name: str, x: ArrayLike, shape: tuple[int, ...]) -> Array:
    x = _array(x)
    check_broadcasts(where, name, x.shape, shape)
    return x
