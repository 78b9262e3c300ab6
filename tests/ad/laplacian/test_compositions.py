"""Programs put together at random, and under transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import liftax as lx

from .reference import C, V, W, X, check

STEPS = {
    "tanh": jnp.tanh,
    "square": lambda h: h**2 / 3,
    "dense": lambda h: h @ (V[: h.shape[-1]] / 2),
    "mean": lambda h: h - jnp.mean(h, 0),
    "norm": lambda h: h / jnp.sqrt(1 + jnp.sum(h**2, -1, keepdims=True)),
    "pairs": lambda h: jnp.sum(jnp.sin(h[:, None] - h[None]), 1),
    "gather": lambda h: h[np.array([2, 0, 3, 1])] * h,
    "concatenate": lambda h: jnp.concatenate([h[:2], jnp.cos(h[2:])]),
    "where": lambda h: jnp.where(h > 0, h, jnp.sin(h)),
    "attention": lambda h: jax.nn.softmax(h @ h.T / 3) @ h,
    "scan": lambda h: jax.lax.scan(lambda c, w: (jnp.tanh(c * w + h), None), h, np.arange(2.0))[0],
    "silu": jax.nn.silu,
    "reshape": lambda h: h.reshape(2, -1).T.reshape(h.shape),
    "solve": lambda h: jnp.linalg.solve(3 * np.eye(4) + jnp.tanh(h @ h.T), h),
    "jit": jax.jit(lambda h: h * jnp.exp(-(h**2))),
}


def program(names):
    def f(x):
        h = x @ W[:, :3]
        for name in names:
            h = STEPS[name](h)
        return jnp.linalg.slogdet(h @ h.T + 3 * np.eye(4))[1] + jnp.sum(jnp.sin(h))

    return f


PROGRAMS = st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=5)


@pytest.mark.long
@given(PROGRAMS)
@settings(max_examples=2)
def test_any_composition(names):
    check(program(names), rtol=1e-7)


@pytest.mark.long
@given(PROGRAMS)
@settings(max_examples=60)
def test_many_compositions(names):
    check(program(names), rtol=1e-7, sparsities=("auto", True, False))


def test_under_vmap_grad_and_scan():
    """The gradient of a mean of local energies with respect to a parameter, of points in turn and together."""

    def mean(laplacian, each):
        def value(w, xs):
            f = lambda x: jnp.linalg.slogdet(jnp.tanh(x @ w) @ V[:, :4] + C)[1]
            return jnp.mean(each(lambda x: laplacian(f, x), xs))

        return jax.grad(value)

    ours = lambda f, x: lx.laplacian(f, x)[1]
    whole = lambda f, x: jnp.trace(jax.hessian(lambda v: f(v.reshape(x.shape)))(x.ravel()))
    together, turn = lambda f, xs: jax.vmap(f)(xs), jax.lax.map
    with jax.enable_x64(True):
        xs, w = jnp.asarray(X[None] * np.linspace(0.8, 1.2, 3)[:, None, None]), jnp.asarray(W)
        programs = jax.jit(lambda w, xs: [mean(*p)(w, xs) for p in ((ours, together), (ours, turn), (whole, together))])
        a, b, c = programs(w, xs)
    np.testing.assert_allclose(a, c, rtol=1e-8)
    np.testing.assert_allclose(b, c, rtol=1e-8)
