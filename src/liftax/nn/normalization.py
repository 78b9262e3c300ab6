r"""Layers that normalize: subtract a mean, divide by a standard deviation, then scale and shift.

    LayerNorm : array[..., d] -> array[..., d], with the statistics of each example
    BatchNorm : array[..., d] -> array[..., d], with the statistics of each feature

Both are `_statistics` followed by `_normalize`. They differ in the axes over which the statistics are taken, and in
that `BatchNorm` remembers them.

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

from liftax import errors
from liftax.module import Module, compact, merge_param
from liftax.nn import dtypes
from liftax.nn.dtypes import cast, constant, matched
from liftax.nn.initializers import ones_init, zeros_init
from liftax.nn.linear import add_bias
from liftax.nn.location import place
from liftax.nn.masking import keep
from liftax.typing import Array, Initializer

__all__ = ["BatchNorm", "LayerNorm"]

Axes: TypeAlias = int | Iterable[int]


class LayerNorm(Module):
    r"""Normalize each example by its own mean and variance.

    $$y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta$$

    $\mu$ and $\sigma^2$ are the mean and the variance of $x$ over `reduction_axes`.

    Parameters (collection `params`): `scale`, $\gamma$, and `bias`, $\beta$, each of the sizes of `feature_axes`, which
    by default is `(d,)`. Initializing draws from the stream `params`; applying draws nothing.

    Args:
        epsilon: $\epsilon$, which keeps the division from being one by zero.
        dtype: the dtype of the result; None for the promoted dtype of the input and the parameters.
        param_dtype: the dtype in which parameters are made.
        use_bias: whether to add `bias`.
        use_scale: whether to multiply by `scale`. A linear layer that follows can do that as well.
        bias_init: the initializer of `bias`.
        scale_init: the initializer of `scale`.
        reduction_axes: the axes over which the statistics are taken.
        feature_axes: the axes along which `scale` and `bias` run.
        axis_name: the name of an axis of `vmap`, `pmap` or `shard_map`, over which the statistics are averaged too.
        axis_index_groups: groups of indices along that axis; the average is over each group.
        use_fast_variance: take the variance as $E[x^2] - E[x]^2$, in one pass over the input, rather than as
            $E[(x - E[x])^2]$, in two. The former loses digits where the mean is far larger than the deviation.
        force_float32_reductions: take the statistics of inputs of 16 bits in float32.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.LayerNorm()
        >>> x = jnp.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
        >>> variables = layer.init(jax.random.key(0), x)
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (3,), 'scale': (3,)}}
        >>> layer.apply(variables, x).round(2)
        Array([[-1.22,  0.  ,  1.22],
               [-1.22,  0.  ,  1.22]], dtype=float32)

    Source:
        Ba, Kiros and Hinton, Layer Normalization, 2016.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros_init()
    scale_init: Initializer = ones_init()
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
        """Apply the layer.

        Args:
            x: any numeric dtype, with at least the axes that `reduction_axes` and `feature_axes` name.
            mask: Boolean, of a shape that broadcasts to that of `x`: True where an element counts in the statistics.
                All elements are normalized.

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: `x` does not have the axes that are named.
            ScopeParamShapeError: `scale` or `bias` was made for features of another size.
        """
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
        reduction_axes = _canonical_axes(self, "reduction_axes", self.reduction_axes, x)
        feature_axes = _canonical_axes(self, "feature_axes", self.feature_axes, x)
        scale, bias = _scale_and_bias(self, x, feature_axes)
        stats = _statistics(self, x, reduction_axes, self.axis_name, mask)
        return _normalize(self, x, stats, reduction_axes, feature_axes, scale, bias)


class BatchNorm(Module):
    r"""Normalize each feature by its mean and variance over the batch, or by running averages of these.

    $$y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta$$

    In training (`use_running_average=False`), $\mu$ and $\sigma^2$ are the mean and the variance of $x$ over all axes
    but `axis`, and the running averages are moved towards them, $r \leftarrow \alpha r + (1 - \alpha) \mu$, with the
    momentum $\alpha$. In evaluation, $\mu$ and $\sigma^2$ are the running averages.

    Parameters (collection `params`): `scale`, $\gamma$, and `bias`, $\beta$, each of shape `(d,)` for the size `d` of
    `axis`. State (collection `batch_stats`): `mean`, at first 0, and `var`, at first 1, of that shape, in float32. In
    training the collection has to be mutable; initializing leaves it as it starts. Initializing draws from the stream
    `params`; applying draws nothing.

    Args:
        use_running_average: whether to normalize with the running averages. It is given either here or in the call.
        axis: the axis of features, which the statistics are not taken over.
        momentum: $\alpha$, the part of a running average that stays in each step.
        epsilon: $\epsilon$, which keeps the division from being one by zero.
        dtype: the dtype of the result; None for the promoted dtype of the input and the parameters.
        param_dtype: the dtype in which parameters are made.
        use_bias: whether to add `bias`.
        use_scale: whether to multiply by `scale`. A linear layer that follows can do that as well.
        bias_init: the initializer of `bias`.
        scale_init: the initializer of `scale`.
        axis_name: the name of an axis of `vmap`, `pmap` or `shard_map`, over which the statistics are averaged too,
            except while initializing.
        axis_index_groups: groups of indices along that axis; the average is over each group.
        use_fast_variance: as for `LayerNorm`.
        force_float32_reductions: take the statistics of inputs of 16 bits in float32, and keep the running averages in
            float32; otherwise these are kept in `param_dtype`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.BatchNorm(momentum=0.9)
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> variables = layer.init(jax.random.key(0), x, use_running_average=False)
        >>> jax.tree.map(jnp.shape, variables["batch_stats"])
        {'mean': (2,), 'var': (2,)}
        >>> y, updates = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        >>> y.round(2)
        Array([[-1., -1.],
               [ 1.,  1.]], dtype=float32)
        >>> updates["batch_stats"]["mean"]
        Array([0.2, 2. ], dtype=float32)

    Source:
        Ioffe and Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift,
        2015.
    """

    use_running_average: bool | None = None
    axis: int = -1
    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros_init()
    scale_init: Initializer = ones_init()
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(
        self, x: ArrayLike, use_running_average: bool | None = None, *, mask: ArrayLike | None = None
    ) -> Array:
        """Apply the layer.

        Args:
            x: any numeric dtype, with an axis `axis`.
            use_running_average: as the field of this name, which is then None.
            mask: Boolean, of a shape that broadcasts to that of `x`: True where an element counts in the statistics.
                All elements are normalized.

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: `use_running_average` is given twice or not at all, or `x` does not have the axis `axis`.
            ScopeParamShapeError: parameters or running averages were made for another number of features.
            ModifyScopeVariableError: in training, `batch_stats` is not mutable.
        """
        use_running_average = merge_param("use_running_average", self.use_running_average, use_running_average)
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
        feature_axes = _canonical_axes(self, "axis", self.axis, x)
        reduction_axes = tuple(i for i in range(x.ndim) if i not in feature_axes)

        shape = tuple(x.shape[i] for i in feature_axes)
        dtype = jnp.float32 if self.force_float32_reductions else self.param_dtype
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        for name, variable in (("mean", mean), ("var", var)):
            if jnp.shape(variable.value) != shape:
                raise errors.ScopeParamShapeError(
                    f"batch_stats/{name} at {place(self)} has shape {jnp.shape(variable.value)}, and an input of shape "
                    f"{x.shape} with axis={self.axis} expects {shape}. Were the variables made for inputs of another "
                    "size?"
                )
        scale, bias = _scale_and_bias(self, x, feature_axes)

        if use_running_average:
            if self.force_float32_reductions:
                stats = _Statistics(x, mean.value, var.value)
            else:
                stats = _Statistics(x, cast(mean.value, dtype), cast(var.value, dtype))
        else:
            initializing = self.is_initializing()
            stats = _statistics(self, x, reduction_axes, None if initializing else self.axis_name, mask)
            if not initializing:
                mean.value = _moving_average(mean.value, stats.mean, self.momentum)
                var.value = _moving_average(var.value, stats.var, self.momentum)
        return _normalize(self, x, stats, reduction_axes, feature_axes, scale, bias)


class _Statistics(NamedTuple):
    """What `_normalize` needs of the input.

    Attributes:
        x: the input, in the dtype in which its statistics were taken where that loses nothing.
        mean: its mean, without the reduced axes.
        var: its variance, of the same shape.
        centered: `x - mean` where taking the variance gave it, or None.
    """

    x: Array
    mean: Array
    var: Array
    centered: Array | None = None


def _canonical_axes(module: Module, field: str, axes: Axes, x: Array) -> tuple[int, ...]:
    """Return `axes` in ascending order, counted from the first."""
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in given:
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(
                f"{place(module)} got an input of shape {x.shape}, which has no axis {axis}, and {field}={axes} names "
                f"it. Give the input more axes, or change {field}."
            )
    return tuple(sorted({axis % x.ndim for axis in given}))


def _scale_and_bias(
    module: LayerNorm | BatchNorm, x: Array, feature_axes: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """Make or read the parameters: before any arithmetic, so that features of another size are theirs to report."""
    shape = tuple(x.shape[i] for i in feature_axes)
    found: list[Array | None] = []
    for name, used, init in (
        ("scale", module.use_scale, module.scale_init),
        ("bias", module.use_bias, module.bias_init),
    ):
        value = module.param(name, init, shape, module.param_dtype) if used else None
        if value is not None and not module.force_float32_reductions:
            value = cast(value, module.param_dtype)
        found.append(value)
    return found[0], found[1]


def _statistics(
    module: LayerNorm | BatchNorm, x: Array, axes: tuple[int, ...], axis_name: str | None, mask: ArrayLike | None
) -> _Statistics:
    """Take the mean and the variance of `x` over `axes`, and over `axis_name` where there is one."""
    dtype = dtypes.canonicalize_dtype(x) if module.dtype is None else module.dtype
    if module.force_float32_reductions:
        dtype = jnp.promote_types(dtype, jnp.float32)
    values = cast(x, dtype)
    exact = x.dtype == values.dtype or jnp.promote_types(x.dtype, values.dtype) == values.dtype
    source = values if exact else x

    if mask is not None:
        mask = jnp.broadcast_to(jnp.asarray(mask, bool), x.shape)
        values = keep(mask, values)

    def mean_of(*arrays: Array) -> tuple[Array, ...]:
        means = _means(arrays, axes, mask)
        return means if axis_name is None else lax.pmean(means, axis_name, axis_index_groups=module.axis_index_groups)

    if module.use_fast_variance:
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


def _normalize(
    module: LayerNorm | BatchNorm,
    x: Array,
    stats: _Statistics,
    reduction_axes: tuple[int, ...],
    feature_axes: tuple[int, ...],
    scale: Array | None,
    bias: Array | None,
) -> Array:
    """Return `(x - mean) * (rsqrt(var + epsilon) * scale) + bias`."""
    y = _subtract_mean(stats.x, stats.mean, reduction_axes) if stats.centered is None else stats.centered
    factor = lax.rsqrt(lax.add(stats.var, constant(module.epsilon, stats.var)))
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
    return cast(y, dtypes.canonicalize_dtype(x, scale, bias, dtype=module.dtype))


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
