r"""Numbers of 8 bits: rounding to them, and the scales that keep values within their range.

    quantize   : (x, scale) -> round(x / scale)
    dequantize : (q, scale) -> q * scale
    in_qdq     : (x, scale, history) -> x, rounded

A type of 8 bits has two or three bits for the mantissa, and a range that values have to be scaled to. With delayed
scaling, a call is scaled by what earlier calls have seen: a history holds the largest absolute values of recent calls,

$$s' = \max(h) / M, \qquad h' = (\max|x|, h_{n-1}, \dots),$$

with $M$ the largest number of the type. The scale stays where $\max(h)$ is 0 or not finite.

Scale and history are variables that are replaced in a training step, not stepped: what differentiation gives as their
gradient is their next value.

Source: Micikevicius et al., FP8 Formats for Deep Learning, 2022.
"""

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax import _compat
from liftax.nn.dtypes import cast, matched
from liftax.typing import Array

__all__ = [
    "as_float32",
    "compute_amax_history",
    "compute_scale",
    "dequantize",
    "fm32",
    "fp32_max_grad",
    "get_fp8_max",
    "in_qdq",
    "next_scale",
    "out_qdq",
    "qdq",
    "quantize",
    "update_fp8_meta",
]


@cache
def maximum_float32() -> Any:
    """Return `fm32`: the dtype of scales and histories that are used more than once before they are replaced.

    So they are in a `scan`. Cotangents of two uses add up, and two next values don't. Where variables are cast to
    `fm32` before the program that is differentiated, by `jax.lax.convert_element_type`, their cotangents meet by their
    maximum instead.
    """
    return _compat.maximum_dtype(jnp.float32)


if TYPE_CHECKING:
    fm32: Any
    fp32_max_grad: Any


def __getattr__(name: str) -> Any:
    if name in ("fm32", "fp32_max_grad"):  # made on demand, of parts of JAX that are not public
        return maximum_float32()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


FP8_DTYPES = (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float8_e4m3fnuz, jnp.float8_e5m2fnuz)


def get_fp8_max(fp8_dtype: DTypeLike, out_dtype: DTypeLike) -> Any:
    """Return the largest number of a floating-point type of 8 bits.

    Args:
        fp8_dtype: `float8_e4m3fn`, `float8_e5m2`, or the type of the same name that ends in `fnuz`.
        out_dtype: the dtype of the result.

    Returns:
        A scalar of NumPy.

    Raises:
        ValueError: `fp8_dtype` is another dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> float(nn.fp8_ops.get_fp8_max(jnp.float8_e4m3fn, jnp.float32))
        448.0
    """
    if jnp.dtype(fp8_dtype) not in FP8_DTYPES:
        names = ", ".join(jnp.dtype(dtype).name for dtype in FP8_DTYPES)
        raise ValueError(f"Got the dtype {jnp.dtype(fp8_dtype).name}, expected one of 8 bits: {names}.")
    return jnp.finfo(fp8_dtype).max.astype(out_dtype)


def quantize(x: Array, q_dtype: DTypeLike, scale: Array, compute_dtype: DTypeLike) -> Array:
    """Return `x / scale`, cut off at the range of `q_dtype`, in that dtype.

    Args:
        x: any shape with at least one axis, floating-point.
        q_dtype: as `fp8_dtype` of `get_fp8_max`.
        scale: shape `(1,)`.
        compute_dtype: the dtype in which `x` is divided and cut off.

    Returns:
        An array of the shape of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.fp8_ops.quantize(jnp.array([0.1, 3.0, 1e6]), jnp.float8_e4m3fn, jnp.ones(1), jnp.float32)
        Array([0.101562, 3, 448], dtype=float8_e4m3fn)
    """
    x, scale = matched(x, cast(scale, compute_dtype))
    scaled = lax.div(x, _spread(scale, x))
    largest = get_fp8_max(q_dtype, scaled.dtype)
    return lax.convert_element_type(lax.clamp(-largest, scaled, largest), q_dtype)


def dequantize(x: Array, dq_dtype: DTypeLike, scale: Array) -> Array:
    """Return `x * scale` in `dq_dtype`: what `quantize` gives, brought back to the size that it had.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.fp8_ops.dequantize(jnp.array([3.0], jnp.float8_e4m3fn), jnp.float32, jnp.array([0.5]))
        Array([1.5], dtype=float32)
    """
    x = cast(x, dq_dtype)
    return lax.mul(x, _spread(cast(scale, x.dtype), x))


def qdq(x: Array, q_dtype: DTypeLike, scale: Array, compute_dtype: DTypeLike) -> Array:
    """Return `x` rounded to the numbers `scale * q`, with `q` of `q_dtype`: `quantize`, then `dequantize`."""
    return dequantize(quantize(x, q_dtype, scale, compute_dtype), x.dtype, scale)


def compute_scale(amax: Array, scale: Array, fp8_max: ArrayLike, margin: int = 0) -> Array:
    """Return the scale that takes values of up to `amax` into the range of a type.

    Args:
        amax: the largest absolute value, a scalar.
        scale: the scale so far, which is kept where `amax` is 0 or not finite.
        fp8_max: the largest number of the type.
        margin: how many powers of 2 to stay below it.

    Returns:
        An array of the shape of `scale`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.fp8_ops.compute_scale(jnp.float32(896.0), jnp.ones(1), 448.0)
        Array([2.], dtype=float32)
    """
    factor = fp8_max / amax
    factor = factor / 2**margin if margin else factor
    return 1.0 / jnp.where((amax > 0.0) & jnp.isfinite(amax), factor, 1.0 / scale)


def compute_amax_history(x: Array, amax_history: Array) -> Array:
    """Return the history after a call with `x`.

    Args:
        x: any shape, floating-point.
        amax_history: shape `(n,)`; the newest entry stands first, the one after it is the oldest.

    Returns:
        An array of the shape of `amax_history`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.fp8_ops.compute_amax_history(jnp.array([-4.0, 1.0]), jnp.array([3.0, 1.0, 2.0]))
        Array([4., 2., 3.], dtype=float32)
    """
    amax = lax.reshape(cast(jnp.max(lax.abs(x)), amax_history.dtype), (1,))
    return lax.concatenate([amax, amax_history[2:], amax_history[:1]], 0) if len(amax_history) > 1 else amax


def next_scale(q_dtype: DTypeLike, scale: Array, amax_history: Array) -> Array:
    """Return the scale for this call, in float32: what `compute_scale` gives for the history so far."""
    scale, history = as_float32(scale), as_float32(amax_history)
    return compute_scale(jnp.max(history), scale, get_fp8_max(q_dtype, jnp.float32))


def update_fp8_meta(x: Array, q_dtype: DTypeLike, scale: Array, amax_history: Array) -> tuple[Array, Array]:
    """Return the scale for this call, and the history with `x`, in the dtypes of `scale` and `amax_history`."""
    new = next_scale(q_dtype, scale, amax_history), compute_amax_history(x, as_float32(amax_history))
    return cast(new[0], scale.dtype), cast(new[1], amax_history.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def in_qdq(compute_dtype: DTypeLike, q_dtype: DTypeLike, inp: Array, scale: Array, amax_history: Array) -> Array:
    """Round an operand of a product; its cotangent passes as it is.

    Args:
        compute_dtype: the dtype to divide in.
        q_dtype: the type of 8 bits to round to.
        inp: any shape with at least one axis.
        scale: shape `(1,)`, float32 or `fm32`. Its gradient is the scale of this call.
        amax_history: shape `(n,)`, float32 or `fm32`. Its gradient is the history after this call.

    Returns:
        An array like `inp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> rounded = lambda *args: nn.fp8_ops.in_qdq(jnp.float32, jnp.float8_e4m3fn, *args).sum()
        >>> jax.grad(rounded, (0, 1, 2))(jnp.array([5.0]), jnp.ones(1), jnp.array([448.0, 0.0]))
        (Array([1.], dtype=float32), Array([1.], dtype=float32), Array([  5., 448.], dtype=float32))
    """
    return qdq(inp, q_dtype, next_scale(q_dtype, scale, amax_history), compute_dtype)


def _in_fwd(compute_dtype: Any, q_dtype: Any, inp: Array, scale: Array, history: Array) -> Any:
    new = update_fp8_meta(inp, q_dtype, scale, history)
    return qdq(inp, q_dtype, as_float32(new[0]), compute_dtype), new


def _in_bwd(compute_dtype: Any, q_dtype: Any, new: Any, g: Array) -> Any:
    return g, *new


in_qdq.defvjp(_in_fwd, _in_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def out_qdq(compute_dtype: DTypeLike, q_dtype: DTypeLike, out: Array, scale: Array, amax_history: Array) -> Array:
    """Return `out` as it is, and round its cotangent; the arguments are those of `in_qdq`."""
    return out


def _out_fwd(compute_dtype: Any, q_dtype: Any, out: Array, scale: Array, history: Array) -> Any:
    return out, (scale, history)


def _out_bwd(compute_dtype: Any, q_dtype: Any, res: Any, g: Array) -> Any:
    new = update_fp8_meta(g, q_dtype, *res)
    return qdq(g, q_dtype, as_float32(new[0]), compute_dtype), *new


out_qdq.defvjp(_out_fwd, _out_bwd)


def as_float32(x: Array) -> Array:
    """Return scale or history as numbers to compute with."""
    return x if jnp.issubdtype(x.dtype, jnp.floating) else cast(x, jnp.float32)


def _spread(scale: Array, x: Array) -> Array:
    """Return `scale`, of shape `(1,)`, in the shape of `x`."""
    return lax.broadcast_in_dim(scale, x.shape, (x.ndim - 1,))
