r"""Dividing the weights of another layer by their largest singular value.

    SpectralNorm : Module -> Module

One step of power iteration in each call is enough: weights change little from call to call, and the vector it works on
is kept. The last of its products is also the one that gives the singular value, so it is computed once.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from liftax import errors
from liftax.lift import map_variables
from liftax.module import Module, compact, nowrap
from liftax.nn import dtypes
from liftax.nn.normalization.wrapped_layer import inner_layer, inner_path, l2_normalized
from liftax.nn.support.location import place
from liftax.typing import Array

__all__ = ["SpectralNorm"]


class SpectralNorm(Module):
    r"""Call a layer whose weights are divided by their largest singular value.

    $$w = W / \sigma, \quad \sigma = v W u^T, \quad v \propto u W^T, \quad u \propto v W$$

    $v$ and $u$ are unit vectors; they take part in no derivative. Variables with more than two axes are flattened to
    matrices along all axes but the last; those with fewer are left as they are.

    State (collection `collection_name`): for each matrix, `<layer>/<path>/u`, $u$, of shape `(1, d)` for the size `d`
    of its last axis, at first normally distributed, and `<layer>/<path>/sigma`, $\sigma$, of shape `()`, at first 1;
    `<layer>` is the name of the inner layer. Boxes, which hold names of axes, leave no trace in the path. The variables
    of the inner layer are where they are without this one. Initializing draws from the stream `params`; applying draws
    what the inner layer does.

    Args:
        layer_instance: the inner layer.
        n_steps: the number of steps of power iteration in each call; weights are left as they are if it is 0.
        epsilon: keeps the normalization of $u$ and $v$ from being a division by zero.
        dtype: the dtype of $w$; None for the promoted dtype of $W$ and the state.
        param_dtype: the dtype in which the state is made.
        error_on_non_matrix: whether a variable with more than two axes is an error.
        collection_name: the collection of the state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.SpectralNorm(nn.Dense(2, use_bias=False), n_steps=20)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 2)), update_stats=False)
        >>> variables["params"]["layer_instance"]["kernel"] = jnp.diag(jnp.array([4.0, 1.0]))
        >>> layer.apply(variables, jnp.ones((1, 2)), update_stats=False).round(2)
        Array([[1.  , 0.25]], dtype=float32)

    Source:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018.
    """

    layer_instance: Module
    n_steps: int = 1
    epsilon: float = 1e-12
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    error_on_non_matrix: bool = False
    collection_name: str = "batch_stats"

    @compact
    def __call__(self, *args: Any, update_stats: bool, **kwargs: Any) -> Any:
        r"""Call the inner layer.

        Args:
            *args: those of the inner layer.
            update_stats: whether to keep the new $u$ and $\sigma$. The collection has to be mutable then.
            **kwargs: those of the inner layer.

        Returns:
            What the inner layer returns.

        Raises:
            TransformTargetError: `layer_instance` is no module.
            ValueError: a variable has more than two axes, and `error_on_non_matrix` is True.
            ModifyScopeVariableError: `update_stats` is True and the collection is not mutable.
        """
        layer = inner_layer(self)
        return map_variables(
            lambda layer: layer(*args, **kwargs),
            trans_in_fn=lambda tree: jax.tree_util.tree_map_with_path(
                lambda path, x: self._normalized(path, x, update_stats), tree
            ),
            init=self.is_initializing(),
            mutable=True,
        )(layer)

    @nowrap
    def _normalized(self, path: Any, stored: Any, update_stats: bool) -> Array:
        """Return what the inner layer reads of a variable that is stored at `path`."""
        value = jnp.asarray(stored)
        if value.ndim < 2 or self.n_steps < 1:
            return value
        where = inner_path(self, [key for key in path if not isinstance(key, jax.tree_util.GetAttrKey)])
        if value.ndim > 2 and self.error_on_non_matrix:
            raise ValueError(
                f"{place(self)} got a variable {where} of shape {value.shape}, expected matrices only, since "
                "error_on_non_matrix=True. Set it to False to flatten all axes but the last."
            )
        matrix = value.reshape(-1, value.shape[-1])
        name = f"{where}/u"
        key = None if self.has_variable(self.collection_name, name) else self.make_rng("params")
        stored_u = self.variable(
            self.collection_name, name, jax.random.normal, key, (1, matrix.shape[-1]), self.param_dtype
        )
        stored_sigma = self.variable(self.collection_name, f"{where}/sigma", jnp.ones, (), self.param_dtype)

        u = stored_u.value
        if u.shape != (1, matrix.shape[-1]):
            raise errors.ScopeParamShapeError(
                f"{self.collection_name}/{name} at {place(self)} has shape {u.shape}, and a variable of shape "
                f"{value.shape} expects {(1, matrix.shape[-1])}. Were the variables made for inputs of another size?"
            )
        fixed, u = lax.stop_gradient(matrix), lax.stop_gradient(u)
        for _ in range(self.n_steps - 1):
            u = l2_normalized(l2_normalized(u @ fixed.T, None, self.epsilon) @ fixed, None, self.epsilon)
        v = l2_normalized(u @ fixed.T, None, self.epsilon)
        product = v @ matrix
        u = l2_normalized(lax.stop_gradient(product), None, self.epsilon)
        sigma = (product @ u.T)[0, 0]
        if update_stats:
            stored_u.value = dtypes.cast(u, stored_u.value.dtype)
            stored_sigma.value = dtypes.cast(sigma, stored_sigma.value.dtype)
        w = (matrix / jnp.where(sigma != 0, sigma, 1)).reshape(value.shape)
        return dtypes.cast(w, dtypes.canonicalize_dtype(value, u, v, sigma, dtype=self.dtype))
