r"""Normalizing groups of channels of each example.

    GroupNorm : array[batch, ..., d] -> array[batch, ..., d]

Seen as `(batch, ..., groups, d / groups)`, the input is that of a `LayerNorm` over all axes but those of the batch and
of the groups. So that is what happens: the arithmetic is that of `liftax.nn.normalization.statistics`, between two
reshapes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact
from liftax.nn.initializers import ones_init, zeros_init
from liftax.nn.normalization.statistics import Axes, canonical_axes, checked_mask, config_of, normalized, scale_and_bias
from liftax.nn.support.location import place
from liftax.typing import Array, Initializer

__all__ = ["GroupNorm"]


class GroupNorm(Module):
    r"""Normalize groups of neighbouring channels of each example by their own mean and variance.

    $$y = \frac{x - \mu_g}{\sqrt{\sigma_g^2 + \epsilon}} \odot \gamma + \beta$$

    The $d$ channels, the last axis, are cut into $G$ groups $g$ of $d / G$. $\mu_g$ and $\sigma_g^2$ are the mean and
    the variance of $x$ over the channels of a group and all other axes but the first, which is the batch. One group is
    `LayerNorm` over these axes; groups of one channel are `InstanceNorm`.

    Parameters (collection `params`): `scale`, $\gamma$, and `bias`, $\beta$, each of shape `(d,)`. Initializing draws
    from the stream `params`; applying draws nothing.

    Args:
        num_groups: $G$. Either this or `group_size` is given, and the other is None.
        group_size: the number of channels of a group.
        epsilon: $\epsilon$, which keeps the division from being one by zero.
        dtype: as for `LayerNorm`, and so all that is not described here.
        param_dtype: the dtype in which parameters are made.
        use_bias: whether to add `bias`.
        use_scale: whether to multiply by `scale`.
        bias_init: the initializer of `bias`.
        scale_init: the initializer of `scale`.
        reduction_axes: the axes over which the statistics are taken, the last among them; None for all but the first.
            An input with more than one axis of batches needs them named.
        axis_name: as for `LayerNorm`.
        axis_index_groups: as for `LayerNorm`.
        use_fast_variance: as for `LayerNorm`.
        force_float32_reductions: as for `LayerNorm`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.GroupNorm(num_groups=2)
        >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> variables = layer.init(jax.random.key(0), x)
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (4,), 'scale': (4,)}}
        >>> layer.apply(variables, x).round(2)
        Array([[-1.,  1., -1.,  1.]], dtype=float32)

    Source:
        Wu and He, Group Normalization, 2018, which proposes 32 groups.
    """

    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros_init()
    scale_init: Initializer = ones_init()
    reduction_axes: Axes | None = None
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
        """Apply the layer.

        Args:
            x: any numeric dtype; channels along the last axis.
            mask: Boolean, of a shape that broadcasts to that of `x`: True where an element counts in the statistics.
                All elements are normalized.

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: `num_groups` and `group_size` are both given or both None; they do not divide the channels;
                `reduction_axes` lacks the last axis or names one that `x` does not have; `x` is a scalar; or the shape
                of `mask` does not broadcast to that of `x`.
            ScopeParamShapeError: `scale` or `bias` was made for another number of channels.
        """
        x = x if isinstance(x, jax.Array) else jnp.asarray(x)
        if not x.ndim:
            raise ValueError(
                f"{place(self)} got a scalar, expected an input of shape (batch, ..., d). Give it an axis for channels."
            )
        last = x.ndim - 1
        axes = (*range(1, last), last) if self.reduction_axes is None else self.reduction_axes
        axes = canonical_axes(self, "reduction_axes", axes, x)
        if last not in axes:
            raise ValueError(
                f"{place(self)} got reduction_axes={self.reduction_axes} for an input of shape {x.shape}, expected the "
                "last axis among them, which is that of the channels. Add -1 to them."
            )
        groups = (_number_of_groups(self, x.shape[-1]), -1)
        scale, bias = scale_and_bias(self, x, (last,))
        mask = checked_mask(self, mask, x)

        if mask is not None and mask.ndim:
            groups_of_mask = groups if mask.shape[-1] == x.shape[-1] else (1, 1)
            mask = mask.reshape(*mask.shape[:-1], *groups_of_mask)
        config = config_of(self, (*axes[:-1], last + 1), (last, last + 1))
        scale, bias = (None if p is None else p.reshape(groups) for p in (scale, bias))
        y = normalized(x.reshape(*x.shape[:-1], *groups), scale, bias, mask, config=config)
        return lax.reshape(y, x.shape)


def _number_of_groups(layer: GroupNorm, channels: int) -> int:
    """Return the number of groups that `channels` are cut into."""
    groups, size = layer.num_groups, layer.group_size
    if (groups is None) == (size is None):
        raise ValueError(
            f"{place(layer)} got num_groups={groups} and group_size={size}, expected one of them to be None. For "
            "groups of a given size, pass num_groups=None as well: it is 32 otherwise."
        )
    field, parts = ("num_groups", groups) if size is None else ("group_size", size)
    assert parts is not None
    if parts <= 0 or channels % parts:
        raise ValueError(
            f"{place(layer)} got an input with {channels} channels along its last axis, and {field}={parts} does not "
            f"divide them. Choose {field} among the divisors of {channels}."
        )
    return parts if size is None else channels // parts
