r"""Normalizing each feature over a batch, with running averages for when there is none.

    BatchNorm : array[..., d] -> array[..., d]

The arithmetic is that of `liftax.nn.normalization.statistics`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from liftax import errors
from liftax.module import Module, compact, merge_param
from liftax.nn.initializers import ones_init, zeros_init
from liftax.nn.normalization.statistics import (
    canonical_axes,
    checked_mask,
    config_of,
    normalized,
    normalized_and_moved,
    normalized_by,
    scale_and_bias,
)
from liftax.nn.support.location import place
from liftax.typing import Array, Initializer

__all__ = ["BatchNorm"]


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
            ValueError: `use_running_average` is given twice or not at all, `x` does not have the axis `axis`,
                or the shape of `mask` does not broadcast to that of `x`.
            ScopeParamShapeError: parameters or running averages were made for another number of features.
            ModifyScopeVariableError: in training, `batch_stats` is not mutable.
        """
        use_running_average = merge_param("use_running_average", self.use_running_average, use_running_average)
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
        feature_axes = canonical_axes(self, "axis", self.axis, x)
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
        mask = checked_mask(self, mask, x)
        scale, bias = scale_and_bias(self, x, feature_axes)
        config = config_of(self, reduction_axes, feature_axes)

        if use_running_average:
            return normalized_by(x, scale, bias, mean.value, var.value, config=config)
        if self.is_initializing():
            return normalized(x, scale, bias, mask, config=config._replace(axis_name=None))
        y, mean.value, var.value = normalized_and_moved(
            x, scale, bias, mask, mean.value, var.value, momentum=self.momentum, config=config
        )
        return y
