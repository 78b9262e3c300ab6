"""Loops and branches: the pass runs inside of them, and patterns that change are joined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx

from .reference import C, V, W, X, check, trace_of_hessian

STACK = jnp.stack([C[:3, :3]] * 3)


def scanned(x):
    """A carry that starts with an electron's own derivatives, and ends with all."""
    step = lambda c, w: (jnp.tanh(c @ w) + x @ W @ V[:, :3] + c.mean(0), jnp.sum(c**2))
    last, sums = jax.lax.scan(step, x, STACK)
    return jnp.sum(last**2) * jnp.sum(jnp.sin(sums))


def test_scan_and_cond():
    check(
        scanned,
        lambda x: (
            jax.lax.cond(jnp.sum(x) > 0, lambda x: jnp.sum(jnp.sin(x)), lambda x: jnp.sum(x[0] ** 3), x) * jnp.sum(x**2)
        ),
    )


def test_while():
    """JAX has no Hessian of an open loop: the reference is the loop written out."""

    def step(c, x):
        return jnp.sin(c) * 1.3 + x[0]

    def loop(x):
        return jnp.sum(jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, step(c[1], x)), (0, x))[1] ** 2)

    _, lap = jax.jit(lambda x: lx.laplacian(loop, x))(jnp.asarray(X, jnp.float32))
    written = lambda x: jnp.sum(step(step(x, x), x) ** 2)
    wanted = jax.jit(lambda x: trace_of_hessian(written, x))(jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(lap, wanted, rtol=1e-4)


@pytest.mark.long
def test_other_loops_and_branches():
    check(
        lambda x: jnp.sum(
            jax.lax.scan(lambda c, r: (c * jnp.sin(r).sum() + jnp.cos(c), jnp.exp(r) * c), 1.0, x, reverse=True)[1] ** 2
        ),
        lambda x: jax.lax.scan(lambda c, r: ((c[0] + 1, c[1] * r.sum()), c[0]), (0, 1.0), x)[0][1],
        lambda x: jnp.sum(jax.lax.map(lambda r: jnp.sin(r).prod(), x) ** 2),
        lambda x: jnp.sum(jax.lax.fori_loop(0, 3, lambda i, c: c.at[i].multiply(jnp.sum(c)), x)),
        lambda x: jnp.sum(
            jax.lax.switch(jnp.argmax(x[0]), [jnp.sin, lambda x: x[::-1] ** 3, lambda x: jnp.ones_like(x)], x) * x
        ),
        lambda x: jnp.sum(jax.checkpoint(lambda v: jnp.tanh(v @ W) @ V)(x) ** 2),
        sparsities=("auto", False),
    )
