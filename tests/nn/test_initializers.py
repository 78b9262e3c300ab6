"""Orthogonal initializers: as in JAX from 32 bits on, and rounded from float32 below."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn
from liftax.core.initial import trusted

KEY = jax.random.key(0)


@pytest.mark.parametrize(("name", "shape"), [("orthogonal", (3, 4)), ("delta_orthogonal", (3, 2, 4))])
def test_orthogonal(name, shape):
    ours, theirs = (getattr(lib, name) for lib in (nn.initializers, jax.nn.initializers))
    assert trusted(ours())
    for dtype in (None, jnp.float32, jnp.complex64):
        np.testing.assert_array_equal(ours(2.0)(KEY, shape, dtype), theirs(2.0)(KEY, shape, dtype), strict=True)
    full = theirs()(KEY, shape, jnp.float32)
    for dtype in (jnp.bfloat16, jnp.float16):
        np.testing.assert_array_equal(ours()(KEY, shape, dtype), full.astype(dtype), strict=True)
        np.testing.assert_array_equal(ours(dtype=dtype)(KEY, shape), full.astype(dtype), strict=True)


def test_cell_of_half_precision():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    y, variables = nn.RNN(nn.GRUCell(4, param_dtype=jnp.bfloat16)).init_with_output(KEY, x)
    assert {leaf.dtype for leaf in (y, *jax.tree.leaves(variables))} == {jnp.dtype(jnp.bfloat16)}
