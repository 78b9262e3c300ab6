"""Lifted Jacobians and Hessians in chunks and by patterns, with respect to arguments and variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

from liftax import nn

U = jnp.arange(9.0)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


class Heat(nn.Module):
    """A stencil that counts its runs and drops at random."""

    @nn.compact
    def __call__(self, u):
        runs = self.variable("count", "runs", lambda: 0)
        runs.value += 1
        k = self.param("k", nn.initializers.ones, (9,))
        return k * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)) + nn.Dropout(0.5, deterministic=False)(u) ** 2


class Matrix(nn.Module):
    how: str
    options: dict

    @nn.compact
    def __call__(self, u):
        f = (lambda mdl, u: jnp.sum(mdl(u) ** 2)) if self.how == "hessian" else lambda mdl, u: mdl(u)
        return getattr(nn, self.how)(f, Heat(), u, wrt="params", **self.options)


def run(how, **options):
    model = Matrix(how, options)
    out, variables = model.init_with_output(KEYS, U)
    return jax.jit(lambda v: model.apply(v, U, rngs=KEYS, mutable="count"))(variables), out


def whole(tree):
    is_sparse = lambda x: isinstance(x, sparse.BCOO)
    return jax.tree.map(lambda x: x.todense() if is_sparse(x) else x, tree, is_leaf=is_sparse)


@pytest.mark.asdex
@pytest.mark.long
@pytest.mark.parametrize("how", ["jacobian", pytest.param("hessian", marks=pytest.mark.long)])
def test_options(how):
    (want, state), _ = run(how)
    for options in ({"chunk": 4}, {"sparsity": "auto"}, {"sparsity": "auto", "format": "bcoo"}):
        (got, new_state), at_init = run(how, **options)
        assert new_state == state
        for found in (got, at_init):
            assert jax.tree.structure(whole(found)) == jax.tree.structure(want)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole(got), want)
    of_u = got[1] if how == "jacobian" else got[1][1]
    assert of_u.nse == (27 if how == "jacobian" else 45)
