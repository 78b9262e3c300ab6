"""Products of the generalized Gauss-Newton matrix, plain and lifted, against the matrix itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import errors, nn

X, V = jnp.array([0.3, -1.2]), jnp.array([1.0, 0.5])


def fun(x):
    return {"a": jnp.sin(x) * x[0], "b": x.sum() ** 2}


def loss(out):
    return jnp.logaddexp(out["a"].sum(), out["b"]) + (out["a"] ** 2).sum()


def matrix(fun, loss, x):
    """Return `J^T H J` for a function of one vector."""
    flat, unravel = jax.flatten_util.ravel_pytree(fun(x))
    j = jax.jacobian(lambda x: jax.flatten_util.ravel_pytree(fun(x))[0])(x)
    return j.T @ jax.hessian(lambda y: loss(unravel(y)))(flat) @ j


def test_is_the_product_with_the_matrix():
    value, (product,) = lx.gauss_newton_product(fun, loss, (X,), (V,))
    np.testing.assert_allclose(value, loss(fun(X)), rtol=1e-6)
    np.testing.assert_allclose(product, matrix(fun, loss, X) @ V, rtol=1e-5)
    batch = jax.jit(jax.vmap(lambda v: lx.gauss_newton_product(fun, loss, (X,), (v,))[1][0]))(jnp.eye(2))
    np.testing.assert_allclose(batch, matrix(fun, loss, X), rtol=1e-5, atol=1e-6)


def test_aux_and_mistakes():
    assert lx.gauss_newton_product(lambda x: (fun(x), "aux"), loss, (X,), (V,), has_aux=True)[2] == "aux"
    with pytest.raises(errors.NonDifferentiableOutputError, match="gauss_newton_product"):
        lx.gauss_newton_product(fun, lambda out: out["a"], (X,), (V,))
    with pytest.raises(errors.TangentError, match="gauss_newton_product"):
        lx.gauss_newton_product(fun, loss, (X,), (V[:1],))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        n = self.variable("state", "n", lambda: jnp.zeros(()))
        n.value = n.value + 1
        y = nn.Dense(2)(x)
        return y + 0 * jax.random.uniform(self.make_rng("noise"), y.shape)


class Curvature(nn.Module):
    @nn.compact
    def __call__(self, x, v):
        net = Net(name="net")
        tangents = None if self.is_initializing() else {"params": v}
        return nn.gauss_newton_product(
            lambda mdl, x: (mdl(x), 7), lambda y: (y**4).sum(), net, (x,), (jnp.zeros_like(x),), tangents,
            wrt="params", has_aux=True,
        )  # fmt: skip


def test_lifted_takes_variables_state_and_rngs():
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    variables = Curvature().init(rngs, X, None)
    v = jax.tree.map(jnp.cos, variables["params"]["net"])
    (value, (product, of_x), aux), state = Curvature().apply(
        variables, X, v, rngs={"noise": jax.random.key(2)}, mutable=["state"]
    )
    assert aux == 7
    assert state["state"]["net"]["n"] == variables["state"]["net"]["n"] + 1
    flat, unravel = jax.flatten_util.ravel_pytree(variables["params"]["net"])

    def net(flat):
        p = unravel(flat)["Dense_0"]
        return X @ p["kernel"] + p["bias"]

    dense = matrix(net, lambda y: (y**4).sum(), flat) @ jax.flatten_util.ravel_pytree(v)[0]
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(product["params"])[0], dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, (net(flat) ** 4).sum(), rtol=1e-6)
    assert of_x.shape == X.shape
