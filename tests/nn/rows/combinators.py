"""Modules made of other modules."""

from typing import Any

import jax
import jax.numpy as jnp

from ..table import Mistake, Row


def chain(lib: Any) -> list[Any]:
    """Return layers that hand on an array, a dict and a tuple."""
    return [
        lib.Dense(5),
        lib.relu,
        lambda x: {"inputs": x, "deterministic": True},
        lib.Dropout(0.5),
        lambda x: (x, x),
        lambda x, y: x * y,
        lib.LayerNorm(),
    ]


def chain_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    first, last = variables["params"]["layers_0"], variables["params"]["layers_6"]
    x = jax.nn.relu(x @ first["kernel"] + jax.lax.broadcast_in_dim(first["bias"], (4, 5), (1,)))
    x = x * x
    mean, mean_square = x.mean(-1, keepdims=True), jax.lax.square(x).mean(-1, keepdims=True)
    var = jnp.maximum(mean_square - jax.lax.square(mean), 0.0)
    return (x - mean) * (jax.lax.rsqrt(var + 1e-6) * last["scale"]) + last["bias"]


ROWS = [
    Row(
        "Sequential",
        "default",
        lambda lib, dtype: lib.Sequential(chain(lib)),
        dtypes=("float32",),
        by_hand=chain_by_hand,
        mistakes=(
            Mistake("function", ValueError, r"right: nn\.Sequential\(\[", make=lambda lib, _: lib.Sequential(lib.relu)),
            Mistake(
                "empty", ValueError, r"/inner \(Sequential\) has no layers", make=lambda lib, _: lib.Sequential([])
            ),
        ),
    ),
]
