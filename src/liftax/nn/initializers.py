"""Initializers of parameters: those of `jax.nn.initializers` under Linen's names.

    Initializer : (key, shape, dtype) -> array

`zeros` and `ones` are initializers; all other names, `zeros_init` and `ones_init` among them, are functions that
return one. The distributions are documented where they live, in `jax.nn.initializers`.
"""

from jax.nn.initializers import (
    constant,
    delta_orthogonal,
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
    orthogonal,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
    zeros,
)

from liftax.typing import Initializer

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
