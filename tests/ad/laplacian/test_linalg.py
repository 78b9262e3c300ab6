"""Linear algebra against the trace of the Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx

from .reference import C, V, W, check

EYE = np.eye(4)


def orbitals(x):
    return jnp.tanh(x @ W) @ V[:, :4] + C


def definite(x):
    a = jnp.tanh(x @ W)[:, :4]
    return a @ a.T + 3 * EYE


def mapped(x):
    """Determinants under two vmaps, over axes that are not the first."""
    a = orbitals(x)[:, None, None] * (1 + np.arange(6.0).reshape(2, 3, 1)) + jnp.cos(orbitals(x))[:, None, None]
    return jnp.sum(jax.vmap(jax.vmap(jnp.linalg.slogdet, in_axes=1), in_axes=2)(jnp.tanh(a))[1] ** 2)


def solve_triangular(x):
    lower = jax.scipy.linalg.solve_triangular(definite(x), x, lower=True)
    upper = jax.scipy.linalg.solve_triangular(definite(x), x, trans=1, unit_diagonal=True)
    right = jax.lax.linalg.triangular_solve(definite(x), x.T, left_side=False, lower=True)
    return jnp.sum(lower**2) + jnp.sum(upper**2) + jnp.sum(right**3)


GROUPS = {
    "determinants": [
        lambda x: jnp.linalg.slogdet(orbitals(x))[1],
        lambda x: jnp.linalg.slogdet(orbitals(x).T)[1] * jnp.linalg.det(orbitals(x)),
        lambda x: jnp.linalg.slogdet(orbitals(x + jnp.mean(x, 0)))[1],
        lambda x: jnp.sum(jnp.linalg.slogdet(orbitals(x).reshape(2, 2, 4)[:, :, :2])[1]),
        lambda x: jax.scipy.special.logsumexp(jnp.linalg.slogdet(jnp.stack([orbitals(x), orbitals(2 * x)]))[1]),
        mapped,
        lambda x: jnp.linalg.det(orbitals(x)[:2, :2]) * jnp.linalg.det(orbitals(x)[:3, :3]),
        lambda x: jnp.linalg.slogdet(orbitals(x) + 1j * orbitals(2 * x))[1],
    ],
    "solves": [
        lambda x: jnp.sum(jnp.sin(jnp.linalg.inv(orbitals(x)))),
        lambda x: jnp.sum(jnp.linalg.solve(definite(x), x) ** 2),
        lambda x: jnp.sum(jnp.linalg.solve(EYE + C, x) ** 3),
        solve_triangular,
    ],
    "factors": [
        lambda x: jnp.sum(jnp.sin(jnp.linalg.cholesky(definite(x)))),
        lambda x: (
            jnp.sum(jnp.sin(jax.scipy.linalg.lu(orbitals(x))[1])) + jnp.sum(jax.scipy.linalg.lu(orbitals(x))[2] ** 2)
        ),
        lambda x: jnp.sum(jnp.linalg.eigh(definite(x))[0] ** 2 * np.arange(1.0, 5)),
        lambda x: jnp.sum(jnp.abs(jnp.linalg.eigh(definite(x))[1]) ** 3 * np.arange(1.0, 5)),
        lambda x: jnp.sum(jnp.abs(jnp.linalg.qr(orbitals(x))[1]) ** 3),
    ],
}


def test_one_of_each_kind_against_the_hessian():
    check(GROUPS["determinants"][0], GROUPS["solves"][1], GROUPS["factors"][3], rtol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("group", GROUPS)
def test_against_the_hessian(group):
    check(*GROUPS[group], rtol=1e-7, sparsities=("auto", False))


def flops(f, x):
    return jax.jit(f).lower(x).compile().cost_analysis()["flops"]


def test_a_determinant_of_orbitals_costs_a_fraction_of_the_hessian():
    """Each row depends on its own electron: one row and one term of a trace for each derivative."""
    x, last = jnp.ones((12, 3)), jnp.asarray(np.random.default_rng(0).normal(size=(5, 12)))
    one = lambda x: jnp.linalg.slogdet(jnp.tanh(x @ W) @ last)[1]
    mapped = lambda x: jnp.sum(jax.vmap(jnp.linalg.slogdet)((jnp.tanh(x @ W) @ last)[None])[1])
    whole = flops(lambda x: jnp.trace(jax.hessian(lambda v: one(v.reshape(12, 3)))(x.ravel())), x)
    for f in (one, mapped):
        assert flops(lambda x, f=f: lx.laplacian(f, x)[1], x) < 0.15 * whole
