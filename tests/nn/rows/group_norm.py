"""Normalizing groups of channels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..table import Mistake, Rounding, Row, numbers
from .normalization import norm


def by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    scale, bias = (variables["params"][name].reshape(2, 3) for name in ("scale", "bias"))
    x = x.reshape(2, 4, 2, 3)
    mean, mean_square = (v.mean((1, 3), keepdims=True) for v in (x, jax.lax.square(x)))
    var = jnp.maximum(mean_square - jax.lax.square(mean), 0.0)
    return ((x - mean) * (jax.lax.rsqrt(var + 1e-6) * scale) + bias).reshape(2, 4, 6)


SUMS = Rounding(
    ("grads/x0",),
    "the statistics of a group are broadcast to it, in Linen repeated for each of its channels: the cotangents that "
    "reach them are summed in another order",
    ulps=4,
)
FUSED = Rounding(
    ("out", "grads/params"),
    "equal to the bit where each operation is run by itself, see test_norms.py; XLA fuses the two programs differently",
)
ROUNDING = (SUMS, FUSED)
INPUT = (numbers(2, 4, 6),)
ROWS = [
    Row(
        "GroupNorm",
        "default",
        norm("GroupNorm", num_groups=2),
        INPUT,
        by_hand=by_hand,
        rounding=ROUNDING,
        mistakes=(
            Mistake("scalar", ValueError, "got a scalar", inputs=(lambda _: jnp.ones(()),)),
            Mistake("groups", ValueError, "does not divide", make=norm("GroupNorm", num_groups=4)),
        ),
    ),
    Row(
        "GroupNorm",
        "size",
        norm("GroupNorm", num_groups=None, group_size=2),
        INPUT,
        rounding=ROUNDING,
    ),
    Row(
        "GroupNorm",
        "mask",
        norm("GroupNorm", num_groups=3),
        INPUT,
        call={"mask": np.cos(np.arange(48) * 1.3).reshape(2, 4, 6) > -0.6},
        rounding=ROUNDING,
    ),
]
