"""Setting elements to zero by a mask.

    keep : (bool[...], array[...]) -> array[...]

A select rather than a product: what is hidden may be infinite or NaN.
"""

import jax
import jax.numpy as jnp
from jax import lax

from liftax.nn.dtypes import constant
from liftax.typing import Array

__all__: list[str] = []


def keep(mask: Array, x: Array) -> Array:
    """Return `x` where `mask`, of a shape that broadcasts to that of `x`, is True, and 0 elsewhere."""
    if mask.shape != x.shape:
        mask = jnp.broadcast_to(mask, x.shape)
    zeros = lax.broadcast_in_dim(constant(0, x), x.shape, ())
    sharding = jax.typeof(x).sharding
    if any(axis is not None for axis in sharding.spec):  # on a mesh with explicit axes, select asks for one sharding
        mask, zeros = jax.reshard((mask, zeros), sharding)
    return lax.select(mask, x, zeros)
