"""Initializers of parameters: those of `jax.nn.initializers` under Linen's names.

    Initializer : (key, shape, dtype) -> array

`zeros` and `ones` are initializers; all other names, `zeros_init` and `ones_init` among them, are functions that
return one. The distributions are documented where they live, in `jax.nn.initializers`. `orthogonal` and
`delta_orthogonal` make parameters of half precision too: in float32, then cast.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import (
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
    zeros,
)
from jax.typing import DTypeLike

from liftax.core import initial
from liftax.typing import Initializer, PRNGKey

__all__ = [
    "Initializer",
    "constant",
    "delta_orthogonal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "ones_init",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
    "zeros_init",
]

initial.TRUSTED.add(__name__)


def orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: DTypeLike | None = None) -> Initializer:
    """Return the initializer of orthogonal matrices.

    Args:
        scale: a factor.
        column_axis: the axis with the columns; all other axes are the rows.
        dtype: the dtype where none is given. One of less than 32 bits is rounded from float32.

    Returns:
        A function `(key, shape, dtype) -> array`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> w = nn.initializers.orthogonal()(jax.random.key(0), (3, 3), jnp.bfloat16)
        >>> bool(jnp.allclose(w @ w.T, jnp.eye(3), atol=0.02)), w.dtype.name
        (True, 'bfloat16')
    """

    def init(key: PRNGKey, shape: Any, dtype: DTypeLike | None = dtype, out_sharding: Any = None) -> jax.Array:
        w = initializers.orthogonal(scale, column_axis)(key, shape, _decomposed(dtype), out_sharding)
        return w if dtype is None else w.astype(dtype)

    return init


def delta_orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: DTypeLike | None = None) -> Initializer:
    """Return the initializer of convolution kernels that are an orthogonal matrix in their middle and zero elsewhere.

    Args:
        scale: a factor.
        column_axis: the axis of the matrix with the columns.
        dtype: the dtype where none is given. One of less than 32 bits is rounded from float32.

    Returns:
        A function `(key, shape, dtype) -> array`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.initializers.delta_orthogonal()(jax.random.key(0), (3, 2, 2), jnp.float16)[0]
        Array([[0., 0.],
               [0., 0.]], dtype=float16)
    """

    def init(key: PRNGKey, shape: Any, dtype: DTypeLike | None = dtype, out_sharding: Any = None) -> jax.Array:
        w = initializers.delta_orthogonal(scale, column_axis)(key, shape, _decomposed(dtype), out_sharding)
        return w if dtype is None else w.astype(dtype)

    return init


def _decomposed(dtype: Any) -> Any:
    """Return the dtype in which to decompose a matrix that is to be of `dtype`: XLA has QR from 32 bits on."""
    return jnp.float32 if dtype is not None and jnp.dtype(dtype).itemsize < 4 else dtype


def zeros_init() -> Initializer:
    """Return the initializer that fills a parameter with zeros.

    Returns:
        A function `(key, shape, dtype) -> array`; it does not use the key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.initializers.zeros_init()(jax.random.key(0), (3,), jnp.float32)
        Array([0., 0., 0.], dtype=float32)
    """
    return zeros


def ones_init() -> Initializer:
    """Return the initializer that fills a parameter with ones.

    Returns:
        A function `(key, shape, dtype) -> array`; it does not use the key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.initializers.ones_init()(jax.random.key(0), (3,), jnp.float32)
        Array([1., 1., 1.], dtype=float32)
    """
    return ones
