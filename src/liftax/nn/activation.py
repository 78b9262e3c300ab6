"""Activation functions: those of `jax.nn` and `jax.numpy` under Linen's names.

    relu : array -> array, of one shape

JAX has their derivative rules, so there is nothing to add to them. Their formulas are documented where they live, in
`jax.nn`. Most are under `jax.jit` there, and traced once for all calls alike; those that are not have it here (see
`liftax.nn.support.tracing`). `PReLU` alone is a module: it has a parameter.
"""

import jax
import jax.numpy as jnp
from jax.nn import (
    celu,
    elu,
    glu,
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    logsumexp,
    one_hot,
    selu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    softplus,
    standardize,
    swish,
)
from jax.numpy import tanh
from jax.typing import ArrayLike, DTypeLike

from liftax import _compat
from liftax.module import Module, compact
from liftax.nn.support.location import place
from liftax.typing import Array

normalize = standardize
"""See `standardize`: `normalize` is the older name, which Linen keeps."""

__all__ = [
    "PReLU",
    "celu",
    "elu",
    "gelu",
    "glu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "normalize",
    "one_hot",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "standardize",
    "swish",
    "tanh",
]


_gelu = jax.jit(jax.nn.gelu, static_argnames=("approximate",), inline=True)
_relu = jax.jit(jax.nn.relu, inline=True)
_relu6 = jax.jit(jax.nn.relu6, inline=True)


def gelu(x: ArrayLike, approximate: bool = True) -> Array:
    """Apply `jax.nn.gelu`, traced once for all calls alike.

    Args:
        x: any shape, any real dtype.
        approximate: whether to use the form with tanh, or the exact one with erf.

    Returns:
        An array of the shape of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> x = jnp.array([-30.0, 0.0, 30.0])
        >>> nn.gelu(x) == nn.relu(x)
        Array([ True,  True,  True], dtype=bool)
    """
    # Op by op where values are known: compiled, it rounds otherwise in the last digit.
    return _gelu(x, approximate=approximate) if _compat.is_tracer(x) else jax.nn.gelu(x, approximate)


def relu(x: ArrayLike) -> Array:
    """Apply `jax.nn.relu`, traced once for all calls alike.

    Args:
        x: any shape, any real dtype.

    Returns:
        An array of the shape and dtype of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.relu(jnp.array([-1.0, 2.0]))
        Array([0., 2.], dtype=float32)
    """
    return _relu(x)


def relu6(x: ArrayLike) -> Array:
    """Apply `jax.nn.relu6`, traced once for all calls alike.

    Args:
        x: any shape, any real dtype.

    Returns:
        An array of the shape and dtype of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.relu6(jnp.array([-1.0, 2.0, 7.0]))
        Array([0., 2., 6.], dtype=float32)
    """
    return _relu6(x)


class PReLU(Module):
    r"""Apply the parametric rectified linear unit, whose slope for negative inputs is learned.

    $$y = x \text{ where } x \ge 0, \text{ else } a x$$

    Parameters (collection `params`): `negative_slope`, $a$, a scalar. Neither initializing nor applying draws.

    Args:
        param_dtype: the dtype in which the parameter is made.
        negative_slope_init: the number that the parameter starts from.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.PReLU(negative_slope_init=0.5).init_with_output(jax.random.key(0), jnp.array([-2.0, 3.0]))[0]
        Array([-1.,  3.], dtype=float32)

    Source:
        He et al., Delving Deep into Rectifiers, 2015.
    """

    param_dtype: DTypeLike = jnp.float32
    negative_slope_init: float = 0.01

    @compact
    def __call__(self, inputs: ArrayLike) -> Array:
        """Apply the layer.

        Args:
            inputs: any shape and floating-point dtype.

        Returns:
            An array of the shape and dtype of `inputs`.

        Raises:
            TypeError: `inputs` are integers or Booleans.
        """
        x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"{place(self)} got inputs of dtype {x.dtype.name}, expected a floating-point dtype: the slope is cast "
                "to it. Cast the inputs."
            )
        slope = self.param("negative_slope", lambda _: jnp.asarray(self.negative_slope_init, self.param_dtype))
        return jnp.where(x >= 0, x, jnp.asarray(slope, x.dtype) * x)
