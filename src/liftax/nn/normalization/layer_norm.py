r"""Layers that normalize each example: subtract a mean, divide by a standard deviation, then scale and shift.

    LayerNorm, RMSNorm, InstanceNorm : array[..., d] -> array[..., d]

They differ in the axes over which they take the statistics; the arithmetic is that of
`liftax.nn.normalization.statistics`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact
from liftax.nn.initializers import ones_init, zeros_init
from liftax.nn.normalization.batch_norm import BatchNorm
from liftax.nn.normalization.group_norm import GroupNorm
from liftax.nn.normalization.spectral_norm import SpectralNorm
from liftax.nn.normalization.statistics import (
    Axes,
    Config,
    canonical_axes,
    checked_mask,
    config_of,
    mean_and_variance,
    normalized,
    normalized_by,
    scale_and_bias,
)
from liftax.nn.normalization.weight_norm import WeightNorm
from liftax.nn.support.location import place
from liftax.typing import Array, Initializer

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm", "SpectralNorm", "WeightNorm"]


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
            ValueError: `x` does not have the axes that are named, or the shape of `mask` does not broadcast to that
                of `x`.
            ScopeParamShapeError: `scale` or `bias` was made for features of another size.
        """
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
        reduction_axes = canonical_axes(self, "reduction_axes", self.reduction_axes, x)
        feature_axes = canonical_axes(self, "feature_axes", self.feature_axes, x)
        scale, bias = scale_and_bias(self, x, feature_axes)
        return normalized(
            x, scale, bias, checked_mask(self, mask, x), config=config_of(self, reduction_axes, feature_axes)
        )


class RMSNorm(Module):
    r"""Divide each example by its own root mean square.

    $$y = \frac{x}{\sqrt{\mathrm{mean}(\lvert x \rvert^2) + \epsilon}} \odot \gamma$$

    The mean is over `reduction_axes`.

    Parameters (collection `params`): `scale`, $\gamma$, of the sizes of `feature_axes`, which by default is `(d,)`.
    Initializing draws from the stream `params`; applying draws nothing.

    Args:
        epsilon: $\epsilon$, which keeps the division from being one by zero.
        dtype: the dtype of the result; None for the promoted dtype of the input and the parameter.
        param_dtype: the dtype in which the parameter is made.
        use_scale: whether to multiply by `scale`.
        scale_init: the initializer of `scale`.
        reduction_axes: the axes over which the mean is taken.
        feature_axes: the axes along which `scale` runs.
        axis_name: as for `LayerNorm`.
        axis_index_groups: as for `LayerNorm`.
        use_fast_variance: has no effect, since no mean is subtracted.
        force_float32_reductions: as for `LayerNorm`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.RMSNorm()
        >>> x = jnp.array([[3.0, 4.0], [-30.0, 40.0]])
        >>> variables = layer.init(jax.random.key(0), x)
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'scale': (2,)}}
        >>> jnp.square(layer.apply(variables, x)).mean(-1).round(2)
        Array([1., 1.], dtype=float32)

    Source:
        Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer = ones_init()
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
        """Apply the layer; see `LayerNorm` for what it takes, returns and raises."""
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
        reduction_axes = canonical_axes(self, "reduction_axes", self.reduction_axes, x)
        feature_axes = canonical_axes(self, "feature_axes", self.feature_axes, x)
        shape = tuple(x.shape[i] for i in feature_axes)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.use_scale else None
        config = config_of(self, reduction_axes, feature_axes, use_mean=False)
        return normalized(x, scale, None, checked_mask(self, mask, x), config=config)


class InstanceNorm(Module):
    r"""Normalize each feature of each example by its own mean and variance.

    $$y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta$$

    $\mu$ and $\sigma^2$ are the mean and the variance of $x$ over all axes but the first, which is the batch, and
    `feature_axes`: for an image of shape `(height, width, channels)`, over its pixels.

    Parameters (collection `params`): `scale`, $\gamma$, and `bias`, $\beta$, each of the sizes of `feature_axes`, which
    by default is `(d,)`. Initializing draws from the stream `params`; applying draws nothing.

    Args:
        epsilon: $\epsilon$, which keeps the division from being one by zero.
        dtype: as for `LayerNorm`, and so all that is not described here.
        param_dtype: the dtype in which parameters are made.
        use_bias: whether to add `bias`.
        use_scale: whether to multiply by `scale`.
        bias_init: the initializer of `bias`.
        scale_init: the initializer of `scale`.
        feature_axes: the axes along which `scale` and `bias` run, and over which no statistics are taken.
        axis_name: as for `LayerNorm`.
        axis_index_groups: as for `LayerNorm`.
        use_fast_variance: as for `LayerNorm`.
        force_float32_reductions: as for `LayerNorm`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.InstanceNorm()
        >>> x = jnp.array([[[1.0, 10.0], [3.0, 30.0]]])
        >>> variables = layer.init(jax.random.key(0), x)
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (2,), 'scale': (2,)}}
        >>> layer.apply(variables, x).round(2)
        Array([[[-1., -1.],
                [ 1.,  1.]]], dtype=float32)

    Source:
        Ulyanov, Vedaldi and Lempitsky, Instance Normalization: The Missing Ingredient for Fast Stylization, 2016.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros_init()
    scale_init: Initializer = ones_init()
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
        """Apply the layer; see `LayerNorm` for what it takes and returns.

        Raises:
            ValueError: `feature_axes` names an axis that `x` does not have, or the first, which is that of the batch.
        """
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
        feature_axes = canonical_axes(self, "feature_axes", self.feature_axes, x)
        if 0 in feature_axes:
            raise ValueError(
                f"{place(self)} got an input of shape {x.shape}, of which feature_axes={self.feature_axes} names the "
                "first axis, expected other axes only: the first is that of the batch."
            )
        reduction_axes = tuple(i for i in range(1, x.ndim) if i not in feature_axes)
        scale, bias = scale_and_bias(self, x, feature_axes)
        return normalized(
            x, scale, bias, checked_mask(self, mask, x), config=config_of(self, reduction_axes, feature_axes)
        )


# Three functions that layers of other packages take from this address in Linen, to build normalizations of their own.


def _canonicalize_axes(rank: int, axes: Axes) -> tuple[int, ...]:
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    return tuple({axis % rank for axis in given})


def _compute_stats(
    x: Any,
    axes: Axes,
    dtype: Any,
    axis_name: Any = None,
    axis_index_groups: Any = None,
    use_mean: bool = True,
    use_fast_variance: bool = True,
    mask: Any = None,
    force_float32_reductions: bool = True,
) -> tuple[Array, Array]:
    x = jnp.asarray(x)
    reduced = _canonicalize_axes(x.ndim, axes)
    config = Config(
        reduced, (), 0.0, dtype, jnp.float32, axis_name, axis_index_groups, use_fast_variance,
        force_float32_reductions, use_mean,
    )  # fmt: skip
    mean, var = mean_and_variance(x, None if mask is None else jnp.asarray(mask, bool), config)
    return (jnp.zeros_like(var) if mean is None else mean), var


def _normalize(
    mdl: Module,
    x: Any,
    mean: Array,
    var: Array,
    reduction_axes: Axes,
    feature_axes: Axes,
    dtype: Any,
    param_dtype: Any,
    epsilon: float,
    use_bias: bool,
    use_scale: bool,
    bias_init: Initializer,
    scale_init: Initializer,
    force_float32_reductions: bool = True,
) -> Array:
    x = jnp.asarray(x)
    features = tuple(sorted(_canonicalize_axes(x.ndim, feature_axes)))
    shape = tuple(x.shape[i] for i in features)
    scale = mdl.param("scale", scale_init, shape, param_dtype) if use_scale else None
    bias = mdl.param("bias", bias_init, shape, param_dtype) if use_bias else None
    reduced = _canonicalize_axes(x.ndim, reduction_axes)
    config = Config(reduced, features, epsilon, dtype, param_dtype, None, None, True, force_float32_reductions)
    return normalized_by(x, scale, bias, mean, var, config=config)
