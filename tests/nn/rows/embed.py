"""Embedding."""

from typing import Any

import jax
import jax.numpy as jnp

from ..table import Mistake, Rounding, Row, numbers

NO_TRANSPOSE = Rounding(
    ("out", "grads/x0"),
    "the table is contracted along its second axis, not transposed first: another layout for the matrix product",
)


def indices(dtype: Any) -> Any:
    """Return a maker of indices into a table of 5 rows: inside it, from its end, and outside it."""
    values = [[0, 4, 2], [1, 7, 3]] if jnp.issubdtype(dtype, jnp.unsignedinteger) else [[0, 4, -1], [-5, 5, -6]]
    return lambda _: jnp.asarray(values, dtype)


def inside(_: Any) -> jax.Array:
    return jnp.asarray([[0, 4, 2], [1, -1, 3]], jnp.int32)


def rows_by_hand(variables: Any, index: jax.Array, _: Any) -> jax.Array:
    return jnp.take(variables["params"]["embedding"], index, axis=0)


def attend_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    return jnp.einsum("ij,kj->ik", x, variables["params"]["embedding"])


NAN = "an index outside the table gives NaN"
INDICES = "the inputs are indices, which have no axis of features"

ROWS = [
    Row(
        "Embed",
        "default",
        lambda lib, dtype: lib.Embed(5, 3),
        (inside,),
        by_hand=rows_by_hand,
        any_width=INDICES,
        any_dtype="a table of integers can be looked up in",
        mistakes=(
            Mistake("floats", ValueError, r"/inner \(Embed\).*float32.*integers", inputs=(numbers(4, 3),)),
            Mistake("bools", ValueError, r"/inner \(Embed\).*bool.*integers", inputs=(lambda _: jnp.ones(3, bool),)),
        ),
    ),
    Row(
        "Embed", "param-dtype", lambda lib, dtype: lib.Embed(5, 3, param_dtype=dtype), (indices(jnp.int32),), smooth=NAN
    ),
    Row("Embed", "dtype", lambda lib, dtype: lib.Embed(5, 3, dtype=dtype), (indices(jnp.int8),), smooth=NAN),
    Row(
        "Embed", "unsigned", lambda lib, dtype: lib.Embed(5, 3), (indices(jnp.uint8),), dtypes=("float32",), smooth=NAN
    ),
    Row("Embed", "one-row", lambda lib, dtype: lib.Embed(1, 3), (indices(jnp.int32),), dtypes=("float32",)),
    Row(
        "Embed",
        "attend",
        lambda lib, dtype: lib.Embed(5, 3, dtype=dtype),
        method="attend",
        rounding=(NO_TRANSPOSE,),
        by_hand=attend_by_hand,
        mistakes=(
            Mistake(
                "size", ValueError, r"attend at /inner \(Embed\).*\(4, 2\).*\(\.\.\., 3\)", inputs=(numbers(4, 2),)
            ),
            Mistake(
                "scalar",
                ValueError,
                r"attend at /inner \(Embed\).*\(\).*\(\.\.\., 3\)",
                inputs=(lambda _: jnp.ones(()),),
            ),
        ),
    ),
]
