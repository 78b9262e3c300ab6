"""The lifted Laplacian and divergence against traces of lifted Hessians and Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.cells import PHASES, Cell, assert_trees_close, differentiated, total
from tests.support.rows import sides

from liftax import errors, nn


def lifted(fn, mdl, x):
    out, lap = nn.laplacian(lambda mdl, x: total(fn(mdl, x)), mdl, x)
    return out, lap, nn.divergence(fn, mdl, x)


def plain(pure, p, x):
    def trace(matrix):
        return jnp.trace(matrix.reshape(x.size, x.size))

    y, new = pure(p, x)
    f = lambda x: pure(p, x)[0]
    lap = trace(jax.hessian(lambda x: total(f(x)))(x))
    return (total(y), lap, (y, trace(jax.jacfwd(f)(x)))), new


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("kind", "outer"), [("plain", "jit"), ("sown", "none"), ("shared", "vmap")])
def test_cell(kind, outer, phase):
    program, reference = sides(Cell("laplacian", kind, phase, outer), lifted, plain)
    if kind == "sown":  # the second transform sows after the first, and reads nothing of it
        _, new = program(*Cell("laplacian", kind, phase, outer).arguments())
        assert phase == "init" or len(new["intermediates"]["block"]["h"]) == 4
        return
    cell = Cell("laplacian", kind, phase, outer)
    assert_trees_close(differentiated(cell, program), differentiated(cell, reference), 5e-4)


class Estimate(nn.Module):
    samples: int | None

    @nn.compact
    def __call__(self, x):
        f = lambda mdl, x: jnp.sum(jnp.sin(mdl(x)) ** 2)
        layer = nn.Dense(3)
        one = nn.laplacian(f, layer, x, samples=self.samples, stream="probe")[1]
        return one, nn.laplacian(f, layer, x, samples=self.samples, stream="probe")[1]


def test_estimate_draws_from_the_stream():
    x = jnp.asarray([0.3, -0.2, 0.5])
    variables = Estimate(None).init(jax.random.key(0), x)
    exact, _ = Estimate(None).apply(variables, x)
    keys = jax.random.split(jax.random.key(1), 64)
    one, two = jax.vmap(lambda k: Estimate(50).apply(variables, x, rngs={"probe": k}))(keys)
    assert jnp.all(one != two)
    np.testing.assert_allclose([one.mean(), two.mean()], exact, rtol=0.05)


def test_bad_estimates_are_refused():
    x, key = jnp.asarray([0.3, -0.2, 0.5]), jax.random.key(0)
    for samples in (0, -1, 1.5, True):
        with pytest.raises(errors.ArityError, match=rf"laplacian got samples={samples}, expected a number"):
            Estimate(samples).init({"params": key, "probe": key}, x)
    with pytest.raises(errors.InvalidRngError, match=r"laplacian at .* no rng stream 'probe'.*to init as well"):
        Estimate(4).init(key, x)


def test_an_estimate_leaves_parameters_as_they_are_without():
    x, key = jnp.asarray([0.3, -0.2, 0.5]), jax.random.key(0)
    exact, estimate = Estimate(None).init(key, x), Estimate(4).init({"params": key, "probe": key}, x)
    jax.tree.map(np.testing.assert_array_equal, exact, estimate)
