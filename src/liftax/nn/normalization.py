r"""Layers that normalize each example: subtract a mean, divide by a standard deviation, then scale and shift.

    LayerNorm : array[..., d] -> array[..., d]

They differ in the axes over which they take the statistics; the arithmetic is that of `liftax.nn.statistics`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact
from liftax.nn.initializers import ones_init, zeros_init
from liftax.nn.statistics import Axes, canonical_axes, config_of, normalized, scale_and_bias
from liftax.typing import Array, Initializer

__all__ = ["LayerNorm"]


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
        reduction_axes = canonical_axes(self, "reduction_axes", self.reduction_axes, x)
        feature_axes = canonical_axes(self, "feature_axes", self.feature_axes, x)
        scale, bias = scale_and_bias(self, x, feature_axes)
        return normalized(x, scale, bias, mask, config=config_of(self, reduction_axes, feature_axes))
