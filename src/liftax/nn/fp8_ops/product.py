r"""The product of two arrays in floating-point numbers of 8 bits.

    fp8_scaled_dot_general : (lhs, rhs, dimension numbers, scales and histories) -> array

$$y = s_a s_b\, Q(a) \cdot Q(b), \quad \bar a = s_b s_g\, Q(\bar y) \cdot Q(b)^T, \quad
\bar b = s_a s_g\, Q(a)^T \cdot Q(\bar y)$$

One rule of differentiation covers rounding, product and scales: the backward pass multiplies the operands as they were
rounded, and nothing wider than 8 bits is kept for it. `fp8_scaling.py` has $Q$ and $s$.
"""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from liftax.nn.dtypes import cast
from liftax.nn.fp8_ops.scaling import as_float32, dequantize, next_scale, quantize, update_fp8_meta
from liftax.typing import Array

__all__ = ["Meta", "Static", "dot_general_with_precision", "fp8_scaled_dot_general", "scaled_product"]


class Meta(NamedTuple):
    """What the rounding of one array goes by."""

    scale: Array
    amax_history: Array


class Static(NamedTuple):
    """What is known of a product before its operands are."""

    numbers: Any  # as for `jax.lax.dot_general`
    lhs: Any  # dtypes of the operands as given,
    rhs: Any
    dtype: Any  # of the product,
    compute_dtype: Any  # to divide by scales in,
    operand: Any  # of 8 bits, for operands
    cotangent: Any  # and for the cotangent


def fp8_scaled_dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: Any,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    *,
    lhs_scale: Array,
    rhs_scale: Array,
    grad_scale: Array,
    lhs_amax_history: Array,
    rhs_amax_history: Array,
    grad_amax_history: Array,
    quantize_compute_type: DTypeLike = jnp.float32,
) -> Array:
    """Multiply two arrays in 8 bits: what `Fp8DirectDotGeneralOp` does, with scales and histories as arguments.

    Args:
        lhs: the left operand, floating-point.
        rhs: the right operand.
        dimension_numbers: as for `jax.lax.dot_general`.
        precision: not used; a warning says so.
        preferred_element_type: the dtype of the result; None for that of the operands.
        lhs_scale: shape `(1,)`, as the other two, whose gradients are their next values.
        rhs_scale: that of `rhs`.
        grad_scale: that of the cotangent of the result.
        lhs_amax_history: shape `(n,)`, as the other two, whose gradients are their next values.
        rhs_amax_history: that of `rhs`.
        grad_amax_history: that of the cotangent of the result.
        quantize_compute_type: the dtype in which operands are divided by their scales.

    Returns:
        An array of `preferred_element_type`.
    """
    if precision is not None:
        warnings.warn(f"fp8_scaled_dot_general got precision={precision}, and multiplies in 8 bits.", stacklevel=2)
    dtype = preferred_element_type or jnp.result_type(lhs, rhs)
    static = Static(
        dimension_numbers, lhs.dtype, rhs.dtype, dtype, quantize_compute_type, jnp.float8_e4m3fn, jnp.float8_e5m2
    )
    metas = (lhs_scale, lhs_amax_history), (rhs_scale, rhs_amax_history), (grad_scale, grad_amax_history)
    return scaled_product(static, lhs, rhs, *(Meta(*meta) for meta in metas))


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def dot_general_with_precision(
    lhs: Array,
    rhs: Array,
    dimension_numbers: Any,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> Array:
    """Return `jax.lax.dot_general` in the default precision, whose derivative is taken in the highest one.

    `precision` and `preferred_element_type` are not used; a warning says so.
    """
    if precision is not None or preferred_element_type is not None:
        warnings.warn(
            f"dot_general_with_precision got precision={precision} and preferred_element_type="
            f"{preferred_element_type}, and multiplies in the default precision and the dtype of the operands.",
            stacklevel=2,
        )
    return lax.dot_general(lhs, rhs, dimension_numbers, precision=lax.Precision.DEFAULT)


@dot_general_with_precision.defjvp
def _product_jvp(numbers: Any, precision: Any, preferred: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (lhs, rhs), (lhs_dot, rhs_dot) = primals, tangents
    product = partial(lax.dot_general, dimension_numbers=numbers, precision=lax.Precision.HIGHEST)
    out = dot_general_with_precision(lhs, rhs, numbers, precision, preferred)
    return out, product(lhs_dot, rhs) + product(lhs, rhs_dot)


# --- the rule ---


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scaled_product(static: Static, lhs: Array, rhs: Array, lhs_meta: Meta, rhs_meta: Meta, grad_meta: Meta) -> Array:
    """Multiply two arrays in 8 bits; the gradients of scales and histories are their next values."""
    scales = next_scale(static.operand, *lhs_meta), next_scale(static.operand, *rhs_meta)
    return _product(static, *_quantized(static, (lhs, rhs), scales), scales)


def _forward(static: Static, lhs: Array, rhs: Array, lhs_meta: Meta, rhs_meta: Meta, grad_meta: Meta) -> Any:
    news = update_fp8_meta(lhs, static.operand, *lhs_meta), update_fp8_meta(rhs, static.operand, *rhs_meta)
    scales = as_float32(news[0][0]), as_float32(news[1][0])
    quantized = _quantized(static, (lhs, rhs), scales)
    return _product(static, *quantized, scales), (quantized, scales, news, grad_meta)


def _backward(static: Static, residuals: Any, g: Array) -> Any:
    (lhs, rhs), (lhs_scale, rhs_scale), news, grad_meta = residuals
    new = update_fp8_meta(g, static.cotangent, *grad_meta)
    g_scale = as_float32(new[0])
    g = quantize(g, static.cotangent, g_scale, static.dtype)

    # Each axis has a number; one that is summed over, or runs along both operands, has the same number in both.
    (lhs_summed, rhs_summed), (lhs_batch, rhs_batch) = static.numbers
    left, right = list(range(lhs.ndim)), list(range(lhs.ndim, lhs.ndim + rhs.ndim))
    for i, j in zip((*lhs_summed, *lhs_batch), (*rhs_summed, *rhs_batch), strict=True):
        right[j] = i
    free = [[n for n in left if n not in right], [n for n in right if n not in left]]
    out = [*lhs_batch, *free[0], *free[1]]

    lhs_ct = dequantize(_contract(g, out, rhs, right, left, static.dtype), static.dtype, g_scale * rhs_scale)
    rhs_ct = dequantize(_contract(g, out, lhs, left, right, static.dtype), static.dtype, g_scale * lhs_scale)
    return cast(lhs_ct, static.lhs), cast(rhs_ct, static.rhs), *(Meta(*meta) for meta in (*news, new))


scaled_product.defvjp(_forward, _backward)


def _quantized(static: Static, operands: tuple[Array, Array], scales: tuple[Array, Array]) -> tuple[Array, Array]:
    (lhs, rhs), (lhs_scale, rhs_scale) = operands, scales
    return (
        quantize(lhs, static.operand, lhs_scale, static.compute_dtype),
        quantize(rhs, static.operand, rhs_scale, static.compute_dtype),
    )


def _product(static: Static, lhs: Array, rhs: Array, scales: tuple[Array, Array]) -> Array:
    """Return the product of two quantized operands, brought back to size."""
    out = lax.dot_general(
        lhs, rhs, static.numbers, precision=lax.Precision.DEFAULT, preferred_element_type=static.dtype
    )
    return dequantize(out, static.dtype, scales[0] * scales[1])


def _contract(x: Array, xs: list[int], y: Array, ys: list[int], out: list[int], dtype: Any) -> Array:
    """Return the product of `x` and `y` with the axes `out`, where `xs` and `ys` number the axes of `x` and `y`."""
    shared = [n for n in xs if n in ys]
    batch, summed = [n for n in shared if n in out], [n for n in shared if n not in out]
    axes = [([xs.index(n) for n in names], [ys.index(n) for n in names]) for names in (summed, batch)]
    product = lax.dot_general(x, y, (axes[0], axes[1]), precision=lax.Precision.HIGHEST, preferred_element_type=dtype)
    made = [*batch, *(n for n in xs if n not in shared), *(n for n in ys if n not in shared)]
    return lax.transpose(product, [made.index(n) for n in out])
