r"""Normalizing the weights of another layer, which sees them through `map_variables`.

    WeightNorm : Module -> Module

The inner layer is called as it is; it reads weights that were divided by their norm and multiplied by a learned scale.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from liftax.lift import map_variables
from liftax.module import Module, compact, nowrap
from liftax.nn import dtypes
from liftax.nn.initializers import ones_init
from liftax.nn.normalization.statistics import Axes, canonical_axes
from liftax.nn.normalization.wrapped_layer import inner_layer, inner_path, l2_normalized
from liftax.typing import Array, Initializer

__all__ = ["WeightNorm"]


def _kernel() -> set[str]:
    return {"kernel"}


class WeightNorm(Module):
    r"""Call a layer whose weights are divided by their norm, and multiplied by a learned scale.

    $$w = \gamma \odot \frac{v}{\sqrt{\lVert v \rVert^2 + \epsilon}}$$

    $v$ is what the inner layer stores, $w$ is what it reads. The norm is over all axes but `feature_axes`.

    Parameters (collection `params`): for each variable that is normalized, `<layer>/<path>/scale`, $\gamma$, of the
    sizes of its `feature_axes`; `<layer>` is the name of the inner layer. The path of a variable that is boxed, with
    names of its axes, ends in `/value`, and its scale is found under this name also when `unbox` has removed the boxes.
    The variables of the inner layer are where they are without this one. Initializing draws from the stream `params`
    what the inner layer and `scale_init` draw; applying draws what the inner layer does.

    The variables of the collections that are normalized can't be written inside.

    Args:
        layer_instance: the inner layer.
        epsilon: $\epsilon$, which keeps the division from being one by zero.
        dtype: the dtype of $w$; None for the promoted dtype of $v$ and $\gamma$.
        param_dtype: the dtype in which scales are made.
        use_scale: whether to multiply by $\gamma$.
        scale_init: the initializer of the scales.
        feature_axes: the axes along which $\gamma$ runs; None for a single norm of the whole variable.
        variable_filter: parts of paths, as strings: variables whose `<layer>/<path>` contains one of them are
            normalized. None for all variables.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.WeightNorm(nn.Dense(2, use_bias=False))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> jax.tree.map(jnp.shape, variables)["params"]["layer_instance/kernel/scale"]
        (2,)
        >>> variables["params"]["layer_instance"]["kernel"] = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> layer.apply(variables, jnp.ones((1, 2))).round(2)
        Array([[1.4, 1. ]], dtype=float32)

    Source:
        Salimans and Kingma, Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural
        Networks, 2016.
    """

    layer_instance: Module
    epsilon: float = 1e-12
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer = ones_init()
    feature_axes: Axes | None = -1
    variable_filter: Iterable[str] | None = dataclasses.field(default_factory=_kernel)

    @compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the inner layer.

        Args:
            *args: those of the inner layer.
            **kwargs: those of the inner layer.

        Returns:
            What the inner layer returns.

        Raises:
            TransformTargetError: `layer_instance` is no module.
            ValueError: a variable that is normalized does not have the axes `feature_axes`.
            ScopeParamShapeError: a scale was made for a variable of another shape.
        """
        layer = inner_layer(self)
        return map_variables(
            lambda layer: layer(*args, **kwargs),
            trans_in_fn=lambda tree: jax.tree_util.tree_map_with_path(self._normalized, tree),
            init=self.is_initializing(),
        )(layer)

    @nowrap
    def _normalized(self, path: Any, stored: Any) -> Array:
        """Return what the inner layer reads of a variable that is stored at `path`."""
        v, where = jnp.asarray(stored), inner_path(self, path)
        if self.variable_filter and not any(part in where for part in self.variable_filter):
            return v
        features = () if self.feature_axes is None else canonical_axes(self, "feature_axes", self.feature_axes, v)
        w = l2_normalized(v, tuple(i for i in range(v.ndim) if i not in features), self.epsilon)
        scale = None
        if self.use_scale:
            shape = tuple(v.shape[i] for i in features)
            scale = self.param(self._name_of_scale(where), self.scale_init, shape, self.param_dtype)
            w = w * scale.reshape([v.shape[i] if i in features else 1 for i in range(v.ndim)])
        return dtypes.cast(w, dtypes.canonicalize_dtype(v, scale, dtype=self.dtype))

    @nowrap
    def _name_of_scale(self, where: str) -> str:
        """Return the name of the scale of the variable at `where`: that of a box, where it was made for one."""
        name, of_box = f"{where}/scale", f"{where}/value/scale"
        return of_box if self.has_variable("params", of_box) and not self.has_variable("params", name) else name
