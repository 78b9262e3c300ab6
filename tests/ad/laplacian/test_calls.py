"""Functions with derivatives of their own, of JAX and of laplacian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import errors

from .reference import V, W, X, check, trace_of_hessian


@jax.custom_jvp
def mixing(x):
    return jnp.sin(x) * jnp.sum(x)


@mixing.defjvp
def _(primals, tangents):  # calls the function itself
    (x,), (t,) = primals, tangents
    return mixing(x), jnp.cos(x) * t * jnp.sum(x) + jnp.sin(x) * jnp.sum(t)


@jax.custom_jvp
def through(x):
    """Whole numbers, with the slope of another function."""
    return jnp.round(x)


through.defjvp(lambda p, t: (through(*p), t[0] * jnp.cos(p[0] * jnp.sum(p[0]))))


@jax.custom_vjp
def energy(x):
    return jnp.sum(jnp.sin(x) ** 2)


energy.defvjp(lambda x: (jnp.sum(jnp.sin(x) ** 2), x), lambda x, ct: (ct * jnp.sin(2 * x),))


@jax.custom_vjp
def recursive(x):
    return jnp.sum(jnp.sin(x) ** 2)


recursive.defvjp(lambda x: (recursive(x), x), lambda x, ct: (ct * jnp.sin(2 * x),))


@jax.custom_vjp
def clipped(x):
    return jnp.sum(x**2)


clipped.defvjp(lambda x: (jnp.sum(x**2), x), lambda x, ct: (jnp.clip(2 * x * ct, -1, 1),))


def test_rules_of_jax():
    check(
        lambda x: jnp.sum(mixing(jnp.sin(x)) ** 2) * jnp.sum(jax.vmap(mixing)(x)),
        lambda x: jnp.sum(through(2 * x) ** 2 * x),
        lambda x: energy(x @ W) * energy(x) + jnp.sum(jax.vmap(energy)(x @ W) ** 2),
        lambda x: jnp.sum(jax.grad(lambda y: jnp.linalg.slogdet(jnp.tanh(y @ W)[:, :4] @ V[:4, :4])[1])(x) ** 2),
    )


def test_a_backward_rule_may_call_its_function():
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(lx.laplacian(recursive, x)[1], 2 * jnp.sum(jnp.cos(2 * x)), rtol=1e-5)


def test_a_backward_rule_that_is_not_linear_is_refused():
    with pytest.raises(errors.CustomRuleError, match=r"backward rule of custom_vjp .*not linear.*custom_laplacian"):
        lx.laplacian(clipped, jnp.ones(3))


def make(calls):
    @lx.custom_laplacian
    def f(x, scale):
        return {"a": scale * jnp.sum(x["r"] ** 3)}

    @f.deflaplacian
    def rule(primals, jacobians, laplacians):
        calls.append(jacobians[0]["r"].shape)
        (x, scale), (dx, dscale), (lx_, lscale) = primals, jacobians, laplacians
        r, dr, lr = x["r"], dx["r"], lx_["r"]
        cubes, first = jnp.sum(r**3), jnp.sum(3 * r**2 * dr, 1)
        second = jnp.sum(3 * r**2 * lr) + jnp.sum(6 * r * dr**2)
        lap = scale * second + 2 * jnp.sum(first * dscale) + cubes * lscale
        return {"a": scale * cubes}, {"a": scale * first + cubes * dscale}, {"a": lap}

    return f


def test_a_rule_of_ones_own_is_used_alone_and_under_vmap():
    calls = []
    f = make(calls)
    plain = lambda x: jnp.sum(jnp.sum(x, 1) * jnp.sum(jnp.sin(x) ** 3, 1))
    one = lambda x: sum(f({"r": jnp.sin(row)}, jnp.sum(row))["a"] for row in x)
    many = lambda x: jnp.sum(jax.vmap(lambda row: f({"r": jnp.sin(row)}, jnp.sum(row))["a"], 1)(x.T))
    x = jnp.asarray(X, jnp.float32)
    for g in (one, many):
        calls.clear()
        np.testing.assert_allclose(
            jax.jit(lambda x, g=g: lx.laplacian(g, x)[1])(x), trace_of_hessian(plain, x), rtol=1e-4
        )
        assert calls and all(shape[1:] == (3,) for shape in calls)
    assert calls[0][0] == 3 or calls[0][0] == 12


def test_other_transforms_see_the_function():
    calls = []
    f = make(calls)
    g = lambda x, s: f({"r": x}, s)["a"]
    x = jnp.asarray([1.0, 2.0])
    for got in (
        jax.grad(g)(x, 3.0),
        jax.jit(jax.grad(g))(x, 3.0),
        jax.vmap(jax.grad(g), (None, 0))(x, jnp.full(2, 3.0))[1],
    ):
        np.testing.assert_allclose(got, 9 * x**2)
    closing = lambda s: lx.custom_laplacian(lambda x: s * jnp.sum(x))(x)
    np.testing.assert_allclose(jax.grad(closing)(2.0), 3.0)  # what is closed over takes part
    np.testing.assert_allclose(jax.hessian(g)(x, 1.0), jnp.diag(6 * x))
    assert not calls


def test_rules_that_do_not_fit_are_refused():
    x = jnp.ones(3)
    f = lx.custom_laplacian(jnp.sum)
    with pytest.raises(errors.CustomRuleError, match=r"sum has no rule.*deflaplacian"):
        lx.laplacian(f, x)
    f.deflaplacian(lambda p, j, lap: (p[0], j[0]))
    with pytest.raises(errors.CustomRuleError, match=r"the rule of sum must return a tuple \(out"):
        lx.laplacian(f, x)
    f.deflaplacian(lambda p, j, lap: (jnp.sum(p[0]), jnp.sum(j[0]), jnp.sum(lap[0])))
    with pytest.raises(errors.CustomRuleError, match=r"in the shapes \(\), \(3,\), \(\); got \(\), \(\), \(\)"):
        lx.laplacian(f, x)

    def closing(x):
        f = lx.custom_laplacian(lambda y: jnp.sum(x * y))
        f.deflaplacian(lambda p, j, lap: (0.0, j[0][:, 0], 0.0))
        return f(2 * x)

    with pytest.raises(errors.CustomRuleError, match=r"closes over a value.*Pass the value as an argument"):
        lx.laplacian(closing, x)
