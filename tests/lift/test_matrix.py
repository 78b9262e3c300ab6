"""Every transform, with every kind of state, at init and apply, inside every raw JAX transform."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from tests.support.cells import (
    CELLS,
    KINDS,
    OUTERS,
    PHASES,
    TRANSFORMS,
    assert_trees_close,
    differentiated,
    fold,
    initial,
    is_short,
)

TOLERANCE = 2e-4  # third derivatives of a batch of three in float32


@pytest.mark.parametrize(
    "cell", [pytest.param(c, id=str(c), marks=[] if is_short(c) else [pytest.mark.long]) for c in CELLS]
)
def test_cell(cell):
    want = differentiated(cell, cell.reference)
    assert_trees_close(differentiated(cell, cell.program), want, TOLERANCE)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves((want["gradients"][0], want["gradients"][2])))


def test_matrix_is_whole():
    """Five transforms, six kinds of state, two phases, nine outers, less the forward mode of `custom_vjp`."""
    assert len(CELLS) == len(set(CELLS)) == 5 * 6 * 2 * 9 - 6 * 2


def test_short_run_covers_every_pair():
    axes = {"transform": TRANSFORMS, "kind": KINDS, "phase": PHASES, "outer": OUTERS}
    for first, second in itertools.combinations(axes, 2):
        met = {(getattr(c, first), getattr(c, second)) for c in CELLS if is_short(c)}
        undefined = {("custom_vjp", "jvp")} if (first, second) == ("transform", "outer") else set()
        assert met == set(itertools.product(axes[first], axes[second])) - undefined


def test_fold_separates_draws():
    keys = [fold(jax.random.key(0), *path) for path in [("a", 1), ("a", 2), ("b", 1), ("a", "b", 1)]]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 4
    assert set(initial("plain", keys[0])[0]["block"]) == {"Dense_0"}
