"""Solutions of functions that have a derivative backwards alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import errors, nn

B = jnp.asarray([0.0, 1.0, -0.5])
W = jnp.asarray([[0.3, -0.1, 0.2], [0.0, 0.4, 0.1], [-0.2, 0.1, 0.3]])


@jax.custom_vjp
def ruled(x):
    return jnp.tanh(x)


ruled.defvjp(lambda x: (jnp.tanh(x), x), lambda x, ct: (ct * (1 - jnp.tanh(x) ** 2),))


@jax.custom_vjp
def signed(x):
    return jnp.tanh(x)


signed.defvjp(lambda x: (jnp.tanh(x), None), lambda _, ct: (jnp.sign(ct),))


def loss(act, solver):
    def program(w, b):
        if solver == "fixed_point":
            z, _ = lx.fixed_point(lambda z, b: act(w @ z) + b, jnp.zeros(3), b)
        else:
            z, _ = lx.root(lambda z, b: act(w @ z) + b - z, jnp.zeros(3), b)
        return jnp.sum(jnp.sin(z))

    return program


@pytest.mark.long
@pytest.mark.parametrize("solver", ["fixed_point", "root"])
def test_custom_vjp_on_the_way(solver):
    program, plain = loss(ruled, solver), loss(jnp.tanh, solver)
    np.testing.assert_allclose(program(W, B), plain(W, B), rtol=1e-6)
    expected = jax.grad(plain, (0, 1))(W, B)
    for grads in (jax.grad(program, (0, 1)), jax.grad(jax.jit(program), (0, 1)), jax.jit(jax.grad(program, (0, 1)))):
        for got, want in zip(grads(W, B), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    twice = [
        jax.grad(lambda w, f=f: jnp.sum(jax.grad(f, 1)(w, B) ** 2))(W) for f in (program, plain)
    ]  # reverse over reverse
    np.testing.assert_allclose(*twice, rtol=1e-3, atol=1e-5)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(program, (W, B), (W, B))
    with pytest.raises(errors.CustomRuleError, match=f"{solver}: .* not linear in its cotangent"):
        jax.grad(loss(signed, solver))(W, B)


@pytest.mark.parametrize("solver", ["fixed_point", "root"])
def test_lifted_custom_vjp_on_the_way(solver):
    class Layer(nn.Module):
        ruled: bool

        @nn.compact
        def __call__(self, x):
            f = lambda mdl, z: jnp.tanh(0.3 * mdl(z))
            g = nn.custom_vjp(f, lambda mdl, z: nn.vjp(f, mdl, z), lambda vjp_fn, ct: vjp_fn(ct)) if self.ruled else f
            if solver == "root":
                return nn.root(lambda mdl, z, x: g(mdl, z) + x - z, nn.Dense(3), jnp.zeros(3), x)[0].sum()
            return nn.fixed_point(lambda mdl, z, x: g(mdl, z) + x, nn.Dense(3), jnp.zeros(3), x)[0].sum()

    variables = Layer(True).init(jax.random.key(0), B)
    got, want = (jax.jit(jax.grad(Layer(r).apply, (0, 1)))(variables, B) for r in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


def scaled(w):
    """Return a function with a rule that holds the array `w`, as rules of third parties hold their tables."""
    f = jax.custom_vjp(lambda z: jnp.tanh(z) * w)
    f.defvjp(lambda z: jax.vjp(lambda z: jnp.tanh(z) * w, z), lambda pull, ct: pull(ct))
    return f


@pytest.mark.parametrize("solver", ["fixed_point", "root"])
@pytest.mark.parametrize("traced", [False, True])
def test_rule_may_hold_an_array(solver, traced):
    def slope(w):
        def loss(x):
            f = scaled(w)
            if solver == "fixed_point":
                return lx.fixed_point(lambda z, x: 0.1 * f(z) + x, jnp.zeros_like(x), x)[0].sum()
            return lx.root(lambda z, x: z - 0.1 * f(z) - x, jnp.zeros_like(x), x)[0].sum()

        return jax.grad(loss)(jnp.array([1.0, 2.0, 3.0]))

    w = np.array([0.5, 1.0, 1.5], np.float32)
    got = jax.jit(slope)(w) if traced else slope(w)
    np.testing.assert_allclose(got, [1.0201783, 1.0058906, 1.0011001], rtol=1e-5)  # 60 unrolled steps
