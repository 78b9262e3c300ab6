"""Derivatives in slots: moved, multiplied and added up as the matrices that they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liftax.ad.laplacian.jacobian import Jacobian, inner, placed, rows
from liftax.ad.laplacian.pattern import Directions


def random(seed, directions, slots, shape, varying=None):
    """Return derivatives in so many slots, of numbers that depend on directions drawn at random."""
    rng = np.random.default_rng(seed)
    varying = shape if varying is None else varying
    index = np.argsort(rng.random((directions.count, *varying)), 0)[:slots]
    pattern = directions.pattern(np.where(rng.random(index.shape) < 0.2, -1, index))
    used = np.broadcast_to(pattern.index >= 0, (pattern.slots, *shape))
    return Jacobian(jnp.asarray(np.where(used, rng.integers(1, 9, (pattern.slots, *shape)), 0)), pattern)


def matrix(jacobian):
    """Return the derivatives in all directions."""
    shape = jacobian.data.shape[1:]
    index, out = jacobian.pattern.spread(shape), np.zeros((jacobian.pattern.directions.count, *shape))
    for slot, data in zip(index, np.asarray(jacobian.data), strict=True):
        for place in np.ndindex(*shape):
            if slot[place] >= 0:
                out[(slot[place], *place)] += data[place]
    return out


CASES = st.tuples(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([(2, 3), (1, 3), (2, 1), (1, 1)]))


@pytest.mark.long
@given(CASES, CASES, st.sampled_from([5, 9]))
def test_any_two_add_and_multiply_as_matrices(a, b, most):
    directions = Directions(9, most)
    a, b = (random(seed, directions, slots, (2, 3), varying) for seed, slots, varying in (a, b))
    pattern = directions.union(a.pattern, b.pattern)
    total = Jacobian(a.to(pattern) + b.to(pattern), pattern)
    np.testing.assert_allclose(matrix(total), matrix(a) + matrix(b))
    found, wanted = inner(a, b), (matrix(a) * matrix(b)).sum(0)
    np.testing.assert_allclose(0 * wanted if found is None else found, wanted)
    np.testing.assert_allclose(a.squares, (matrix(a) ** 2).sum(0))


@given(CASES, st.sampled_from([(0,), (1,), (0, 1)]), st.sampled_from([5, 9]))
def test_sums_along_axes(a, axes, most):
    a = random(a[0], Directions(9, most), a[1], (2, 3), a[2])
    np.testing.assert_allclose(matrix(a.sum(axes)), matrix(a).sum(tuple(x + 1 for x in axes)))
    np.testing.assert_allclose(matrix(a.over(axes)), matrix(a))


def test_a_slot_put_together_from_many_is_added_into_a_buffer():
    source, target = np.zeros((12, 1), np.int32), np.zeros((1, 1), np.int32)
    np.testing.assert_allclose(placed(jnp.ones((12, 2)), source, target), [[12.0, 12.0]])
    source = np.stack([np.roll(np.arange(12), i) for i in range(12)])
    target = np.stack([np.arange(12), np.arange(12) + 1])
    data = jnp.arange(144.0).reshape(12, 12)
    wanted = [[sum(data[s, e] for s in range(12) if source[s, e] == t[e]) for e in range(12)] for t in target]
    np.testing.assert_allclose(placed(data, source, target), wanted)


@pytest.mark.parametrize("chosen", [[0, 1, 2], [1, 2], [0, 1, 2, 0, 1, 2], [2, 2, 2], [2, 0, 1]])
def test_rows(chosen):
    data = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(rows(data, chosen), np.asarray(data)[chosen])
