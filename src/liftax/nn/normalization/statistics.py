r"""Statistics of arrays, and normalizing by them: what all layers that normalize share.

    normalized : (x, scale, bias, mask) -> (x - mean(x)) * (rsqrt(var(x) + epsilon) * scale) + bias

A mean is broadcast to the whole shape of the input: it is only subtracted, so nothing is stored for the backward pass,
and the transpose of that broadcast is one sum. Factors are broadcast to axes of size 1, because a factor is stored.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module
from liftax.nn import dtypes
from liftax.nn.dtypes import cast, constant, matched
from liftax.nn.linear.dense import add_bias
from liftax.nn.support.location import place
from liftax.nn.support.masking import keep
from liftax.nn.support.tracing import traced_once
from liftax.typing import Array

__all__: list[str] = []

Axes: TypeAlias = int | Iterable[int]


class Config(NamedTuple):
    """The fields of a layer that its arithmetic depends on; see `LayerNorm` for what they mean.

    Attributes:
        use_mean: whether to subtract the mean.
    """

    reduction_axes: tuple[int, ...]
    feature_axes: tuple[int, ...]
    epsilon: float
    dtype: DTypeLike | None
    param_dtype: DTypeLike
    axis_name: Any
    axis_index_groups: Any
    use_fast_variance: bool
    force_float32_reductions: bool
    use_mean: bool = True


def config_of(module: Any, reduction_axes: tuple[int, ...], feature_axes: tuple[int, ...], **fields: Any) -> Config:
    """Return the configuration of a layer for an input in which these are the axes."""
    names = (name for name in Config._fields[2:] if name not in Config._field_defaults)
    return Config(reduction_axes, feature_axes, **{name: getattr(module, name) for name in names}, **fields)


def canonical_axes(module: Module, field: str, axes: Axes, x: Array) -> tuple[int, ...]:
    """Return `axes` in ascending order, counted from the first."""
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in given:
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(
                f"{place(module)} got an input of shape {x.shape}, which has no axis {axis}, and {field}={axes} names "
                f"it. Give the input more axes, or change {field}."
            )
    return tuple(sorted({axis % x.ndim for axis in given}))


def scale_and_bias(module: Any, x: Array, feature_axes: tuple[int, ...]) -> tuple[Array | None, Array | None]:
    """Make or read the parameters: before any arithmetic, so that features of another size are theirs to report."""
    shape = tuple(x.shape[i] for i in feature_axes)
    scale = module.param("scale", module.scale_init, shape, module.param_dtype) if module.use_scale else None
    bias = module.param("bias", module.bias_init, shape, module.param_dtype) if module.use_bias else None
    return scale, bias


def checked_mask(module: Module, mask: ArrayLike | None, x: Array) -> Array | None:
    """Return `mask` as Booleans, of a shape that broadcasts to that of `x`."""
    if mask is None:
        return None
    found = mask if isinstance(mask, jax.Array) else jnp.asarray(mask)
    sizes = zip(reversed(found.shape), reversed(x.shape), strict=False)
    if found.ndim > x.ndim or any(size not in (1, full) for size, full in sizes):
        raise ValueError(
            f"{place(module)} got a mask of shape {found.shape}, expected one that broadcasts to the shape of the "
            f"input, {x.shape}. The mask is True for each element of the input that counts in the statistics."
        )
    return cast(found, bool)


@traced_once
def normalized(x: Array, scale: Array | None, bias: Array | None, mask: Array | None, *, config: Config) -> Array:
    """Normalize `x` by its own statistics."""
    return _normalize(x, _statistics(x, mask, config), scale, bias, config)


@traced_once
def normalized_by(
    x: Array, scale: Array | None, bias: Array | None, mean: Array, var: Array, *, config: Config
) -> Array:
    """Normalize `x` by the statistics that are given."""
    if not config.force_float32_reductions:
        mean, var = cast(mean, config.param_dtype), cast(var, config.param_dtype)
    return _normalize(x, _Statistics(x, mean, var), scale, bias, config)


@traced_once
def normalized_and_moved(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    mask: Array | None,
    mean: Array,
    var: Array,
    *,
    momentum: float,
    config: Config,
) -> tuple[Array, Array, Array]:
    """Normalize `x` by its own statistics, and move the running averages `mean` and `var` towards them."""
    stats = _statistics(x, mask, config)
    assert stats.mean is not None, "a layer with running averages subtracts the mean"
    y = _normalize(x, stats, scale, bias, config)
    return y, _moving_average(mean, stats.mean, momentum), _moving_average(var, stats.var, momentum)


def mean_and_variance(x: Array, mask: Array | None, config: Config) -> tuple[Array | None, Array]:
    """Return the mean, None where it is taken to be 0, and the variance of `x` over the reduced axes."""
    stats = _statistics(x, mask, config)
    return stats.mean, stats.var


class _Statistics(NamedTuple):
    """What `_normalize` needs of the input.

    Attributes:
        x: the input, in the dtype in which its statistics were taken where that loses nothing.
        mean: its mean, without the reduced axes; None where it is taken to be 0.
        var: its variance, of the same shape.
        centered: `x - mean` where taking the variance gave it, or None.
    """

    x: Array
    mean: Array | None
    var: Array
    centered: Array | None = None


def _statistics(x: Array, mask: Array | None, config: Config) -> _Statistics:
    """Take the mean and the variance of `x` over the reduced axes, and over `axis_name` where there is one."""
    axes, axis_name = config.reduction_axes, config.axis_name
    dtype = dtypes.canonicalize_dtype(x) if config.dtype is None else config.dtype
    if config.force_float32_reductions:
        dtype = jnp.promote_types(dtype, jnp.float32)
    values = cast(x, dtype)
    exact = x.dtype == values.dtype or jnp.promote_types(x.dtype, values.dtype) == values.dtype
    source = values if exact else x

    if mask is not None:
        mask = jnp.broadcast_to(mask, x.shape)
        values = keep(mask, values)

    def mean_of(*arrays: Array) -> tuple[Array, ...]:
        means = _means(arrays, axes, mask)
        return means if axis_name is None else lax.pmean(means, axis_name, axis_index_groups=config.axis_index_groups)

    if not config.use_mean:
        return _Statistics(source, None, mean_of(_abs_square(values))[0])
    if config.use_fast_variance:
        mean, mean_square = mean_of(values, _abs_square(values))
        # Rounding can make the difference of two nearly equal numbers negative.
        var = lax.sub(mean_square, _abs_square(mean))
        return _Statistics(source, mean, lax.max(constant(0.0, var), var))
    (mean,) = mean_of(values)
    centered = _subtract_mean(values, mean, axes)
    square = _abs_square(centered)
    (var,) = mean_of(square if mask is None else keep(mask, square))
    return _Statistics(source, mean, var, centered if exact and mask is None else None)


def _means(arrays: tuple[Array, ...], axes: tuple[int, ...], mask: Array | None) -> tuple[Array, ...]:
    """Return the mean of each array over `axes`; of those of 16 bits, by way of float32, as `jnp.mean` does it.

    Where the mask is False, the arrays hold zeros already.
    """
    count: Any = None
    means = []
    for x in arrays:
        wide = cast(x, jnp.promote_types(x.dtype, jnp.float32)) if jnp.finfo(x.dtype).bits < 32 else x
        if mask is None:
            count = constant(math.prod(x.shape[i] for i in axes), wide)
        elif count is None:
            count = lax.reduce_sum(cast(mask, jnp.finfo(wide.dtype).dtype), axes)
        means.append(cast(lax.div(*matched(lax.reduce_sum(wide, axes), count)), x.dtype))
    return tuple(means)


def _normalize(x: Array, stats: _Statistics, scale: Array | None, bias: Array | None, config: Config) -> Array:
    """Return `(x - mean) * (rsqrt(var + epsilon) * scale) + bias`."""
    reduction_axes, feature_axes = config.reduction_axes, config.feature_axes
    if not config.force_float32_reductions:
        scale, bias = (None if p is None else cast(p, config.param_dtype) for p in (scale, bias))
    dtype = dtypes.canonicalize_dtype(x, scale, bias, dtype=config.dtype)
    if stats.mean is None:
        y = stats.x
    else:
        y = _subtract_mean(stats.x, stats.mean, reduction_axes) if stats.centered is None else stats.centered
    factor = lax.rsqrt(lax.add(stats.var, constant(config.epsilon, stats.var)))
    kept_axes = tuple(i for i in range(x.ndim) if i not in reduction_axes)
    if scale is not None and kept_axes == feature_axes:
        factor = _along(lax.mul(*matched(factor, scale)), feature_axes, x)
    else:
        factor = _along(factor, kept_axes, x)
        if scale is not None:
            factor = lax.mul(*matched(factor, _along(scale, feature_axes, x)))
    y = lax.mul(*matched(y, factor))
    if bias is not None:
        y = add_bias(y, bias, feature_axes)
    return cast(y, dtype)


def _subtract_mean(x: Array, mean: Array, axes: tuple[int, ...]) -> Array:
    """Return `x - mean`, where `mean` lacks the `axes` of `x`."""
    x, mean = matched(x, mean)
    if 0 < mean.ndim < x.ndim:
        mean = lax.broadcast_in_dim(mean, x.shape, [i for i in range(x.ndim) if i not in axes])
    return lax.sub(x, mean)


def _along(v: Array, axes: tuple[int, ...], x: Array) -> Array:
    """Return `v` with axes of size 1 added, so that its own run along `axes` of `x`; a scalar stays one."""
    if v.ndim in (0, x.ndim):
        return v
    return lax.broadcast_in_dim(v, [x.shape[i] if i in axes else 1 for i in range(x.ndim)], axes)


def _abs_square(x: Array) -> Array:
    """Return the square of the absolute value, which is real."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return lax.add(lax.square(lax.real(x)), lax.square(lax.imag(x)))
    return lax.square(x)


def _moving_average(old: Array, new: Array, momentum: float) -> Array:
    """Return `momentum * old + (1 - momentum) * new`."""
    return lax.add(*matched(lax.mul(old, constant(momentum, old)), lax.mul(new, constant(1 - momentum, new))))
