"""The rules of primitives against the trace of the Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx

from .reference import V, W, X, check, widest

ROWS, COLUMNS = np.triu_indices(4, 1)
NEIGHBOURS = np.array([[1, 2], [0, 3], [3, 1], [2, 0]])
KERNEL = np.random.default_rng(1).normal(size=(2, 1, 3, 2))


def net(x):
    return jnp.tanh(x @ W)


GROUPS = {
    "pointwise": [
        lambda x: jnp.sum(jnp.where(x > 0, x**2, jnp.sin(x[::-1]))),
        lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(jnp.abs(x)), 0) + jnp.clip(x**2, 0.1, x[0])),
        lambda x: jnp.sum(x[0, 0] * x**2 / x[1, 1] + jnp.arctan2(x, x[::-1]) + jnp.logaddexp(x, x[::-1])),
        lambda x: jnp.sum(x**-2 + (1 + x**2) ** x[::-1] - jnp.maximum(x, x[::-1]) ** 2 - x[0]),
        lambda x: jnp.sum(jnp.abs(jnp.exp(1j * x) @ W) ** 2 + jnp.angle(jnp.exp(1j * x[0, 0]) * (1 + 2j))),
    ],
    "structural": [
        lambda x: jnp.sum(jnp.concatenate([x.reshape(2, 6).T, jnp.ones((6, 1)), jnp.flip(x.reshape(6, 2), 1)], 1) ** 3),
        lambda x: jnp.sum(jax.lax.pad(x, x.dtype.type(0), [(1, 2, 0), (-1, 0, 1)]) ** 3),
        lambda x: jnp.sum(jnp.roll(x, 1, 0) * x**2),
        lambda x: jnp.sum(jnp.pad(x, 1, mode="wrap")[::2, 1::2] ** 3 * x[:3, :2]),
        lambda x: jnp.sum(jnp.repeat(x, 2, 0) * jnp.tile(x, (2, 1)) ** 2),
        lambda x: jnp.sum(jnp.split(x, 2)[0] ** 2 * jnp.split(x, 2)[1]) + jnp.sum(x**3),
    ],
    "gathers": [
        lambda x: jnp.sum(jnp.exp(-jnp.linalg.norm(x[ROWS] - x[COLUMNS], axis=-1))),
        lambda x: jnp.sum(jnp.tanh(jnp.sum(jnp.tanh((x[NEIGHBOURS] - x[:, None]) @ W), 1) @ V) ** 2),
        lambda x: jnp.sum(x.at[jnp.array([5, 1, -1])].get(mode="fill", fill_value=2.0) ** 3 * x[:3]),
        lambda x: jnp.sum(x.at[jnp.array([5, 1, -9])].get(mode="clip") ** 3 * x[:3]),
        lambda x: jnp.sum(jnp.take_along_axis(x, jnp.array([[0, 2, 1], [1, 1, 0]]), 0) ** 3 * x[:2]),
        lambda x: jnp.sum(x[jnp.argsort(x[:, 1])][:2] ** 3 * x[:2]) + jnp.sum(jnp.diagonal(x[:3] @ x[:3].T) ** 2),
        lambda x: jnp.sum(jax.lax.dynamic_slice(x, (jnp.argmax(x[:, 0]), 1), (2, 2)) ** 3 * x[:2, :2]),
    ],
    "scatters": [
        lambda x: jnp.sum(jnp.zeros((6, 3)).at[np.array([0, 2, 2, 5])].add(x**2) ** 2),
        lambda x: jnp.sum(x.at[1].set(x[0] * x[2]) ** 3) + jnp.sum(x.at[0].multiply(x[1]) ** 2),
        lambda x: jnp.sum(jax.lax.dynamic_update_slice(x, x[:2, :2] ** 2, (1, 0)) ** 3),
    ],
    "contractions": [
        lambda x: jnp.sum(1 / (1 + jnp.sum((x[:, None] - x[None]) ** 2, -1))),
        lambda x: jnp.sum(jnp.tanh(jnp.sum(jnp.tanh((x[:, None] - x[None]) @ W), 1) @ V) ** 2),
        lambda x: jnp.sum((x @ x.T) @ (x @ x.T) * jnp.sin(x[:, 0])),
        lambda x: jnp.sum(jnp.einsum("ic,ic->i", net(x) @ V, jnp.cos(net(x))) ** 3),
        lambda x: jnp.sum(jnp.einsum("ic,jc->ij", x, net(x)[:, :3]) * jnp.einsum("ij,jk->ki", x @ x.T, x @ x.T) ** 2),
        lambda x: jnp.sum(jax.nn.softmax((x @ W) @ net(x).T) @ x) * jnp.max(x**2) * jnp.min(x),
        lambda x: jnp.sum(((x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.1)) ** 3),
        lambda x: jnp.sum(jnp.cumsum(x**2, 1) ** 2) + jnp.sum(jnp.sort(x, 0) ** 3 * jnp.arange(4.0)[:, None]),
    ],
    "other primitives": [
        lambda x: jnp.prod(1 + x**2) + jnp.sum(jnp.cumprod(x, 0)),
        lambda x: jnp.sum(jnp.tanh(jax.lax.conv(jnp.sin(x)[None, None], KERNEL, (1, 1), "SAME")) ** 2),
        lambda x: jnp.sum(jnp.tanh(jax.lax.conv(x[None, None], jnp.sin(x)[None, None, :2, :2], (1, 1), "SAME"))),
        lambda x: jnp.sum(jnp.abs(jnp.fft.fft(net(x))) ** 2),
        lambda x: jnp.tanh(jnp.sum(net(x) ** 2, 0)),
    ],
}


def test_one_of_each_kind_against_the_hessian():
    check(*(group[0] for group in GROUPS.values()))


@pytest.mark.long
@pytest.mark.parametrize("group", GROUPS)
def test_against_the_hessian(group):
    check(*GROUPS[group], sparsities=("auto", True, False))


@pytest.mark.long
def test_single_precision():
    functions = [GROUPS["contractions"][1], GROUPS["gathers"][1]]
    x = jnp.asarray(X, jnp.float32)
    for f in functions:
        found = jax.jit(lambda x, f=f: lx.laplacian(f, x)[1])(x)
        assert found.dtype == jnp.float32
        with jax.enable_x64(True):
            np.testing.assert_allclose(found, lx.laplacian(f, jnp.asarray(X))[1], rtol=2e-4)


def test_an_electrons_features_hold_three_derivatives():
    f = lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ W) @ V))
    x = jnp.ones((8, 3))
    assert widest(f, x, 3) == 3
    assert widest(lambda x: f(x.T.reshape(3, 8).T), x, 3) == 3  # through transposes and reshapes
    assert widest(lambda x: f(jnp.concatenate([x[:4], x[4:][::-1]])), x, 3) == 3
    assert widest(lambda x: f(x[np.array([3, 1, 0, 2, 5, 4, 7, 6])]), x, 3) == 3
    assert widest(lambda x: f(x + jnp.mean(x, 0)), x, 3) >= 24  # given up
    pairs = lambda x: jnp.sum(jnp.tanh((x[:, None] - x[None]) @ W))
    assert widest(pairs, x, 4) == 6
    dense = jax.make_jaxpr(lambda x: lx.laplacian(f, x, sparsity=False))(x)
    assert any(v.aval.shape == (24, 8, 5) for e in dense.jaxpr.eqns for v in e.outvars)
