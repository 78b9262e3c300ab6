"""Steps of each solver, those of Optimistix and Lineax included, towards the same solutions and derivatives."""

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix as optx
import pytest

import liftax as lx
from liftax import errors

A = jnp.asarray([[0.3, -0.1, 0.2], [0.0, 0.4, 0.1], [-0.2, 0.1, 0.3]])
B = jnp.asarray([0.5, 1.0, -0.5])


def loss(b, solve, **options):
    x, info = solve(lambda x: jnp.tanh(A @ x) + b - (x if solve is lx.root else 0), jnp.zeros(3), **options)
    return jnp.sum(jnp.sin(x)), info


@pytest.fixture(scope="module")
def expected():
    steps = lambda b: jax.lax.fori_loop(0, 60, lambda _, x: jnp.tanh(A @ x) + b, jnp.zeros(3))
    slope = jnp.linalg.solve(jnp.eye(3) - A.T * (1 - jnp.tanh(A @ steps(B)) ** 2), jnp.cos(steps(B)))
    return jnp.sum(jnp.sin(steps(B))), slope


@pytest.mark.parametrize(
    ("solve", "solver", "most"),
    [
        (lx.fixed_point, lx.Picard(), 20),
        pytest.param(lx.fixed_point, lx.Picard(damping=0.7), 40, marks=pytest.mark.long),
        (lx.fixed_point, lx.Anderson(depth=3), 9),
        (lx.fixed_point, lx.Newton(), 4),
        (lx.fixed_point, optx.FixedPointIteration(1e-6, 1e-6), 30),
        (lx.root, lx.Newton(), 5),
        (lx.root, optx.Newton(1e-6, 1e-6), 30),
        pytest.param(lx.fixed_point, optx.Newton(1e-5, 1e-5), 30, marks=pytest.mark.long),
        pytest.param(lx.root, optx.LevenbergMarquardt(1e-5, 1e-5), 30, marks=pytest.mark.long),
    ],
    ids=lambda x: getattr(x, "__name__", type(x).__name__),
)
def test_solvers(solve, solver, most, expected):
    (value, info), slope = jax.jit(jax.value_and_grad(lambda b: loss(b, solve, solver=solver), has_aux=True))(B)
    assert info.converged and 0 < info.steps <= most
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-4)


@pytest.mark.parametrize(
    "solver",
    [
        lx.GMRES(restart=3),
        lineax.LU(),
        *(pytest.param(s, marks=pytest.mark.long) for s in (lx.Direct(), lineax.GMRES(1e-6, 1e-6))),
    ],
)
def test_linear_solvers(solver, expected):
    f = lambda b: loss(b, lx.root, linear_solver=solver)[0]
    np.testing.assert_allclose(jax.jit(jax.grad(f))(B), expected[1], rtol=1e-4)


@pytest.mark.long
def test_a_linear_solver_that_fails_gives_nan():
    """Shifting by one place: GMRES gains nothing before its last step."""
    shift = lambda **kw: jax.jacfwd(lambda b: lx.fixed_point(lambda x: x - jnp.roll(x, 1) + b, b, **kw)[0])(jnp.ones(6))
    assert jnp.isnan(shift(linear_solver=lx.GMRES(restart=3, max_restarts=1))).all()
    np.testing.assert_allclose(shift(solver=lx.Newton()), jnp.roll(jnp.eye(6), -1, axis=0), atol=1e-6)
    kept = shift(linear_solver=lx.GMRES(restart=3, max_restarts=1), on_failure="return")
    assert jnp.isfinite(kept).all()


def test_anderson_where_the_contraction_is_weak():
    x, info = lx.fixed_point(lambda x: 0.999 * x + 1, 0.0, solver=lx.Anderson())
    assert info.converged and info.steps < 5
    np.testing.assert_allclose(x, 1000.0, rtol=1e-3)
    rates = jnp.linspace(0.0, 0.97, 40)
    solve = lambda solver: lx.fixed_point(lambda x: rates * x + 1, jnp.zeros(40), solver=solver)
    (fast, fast_info), (_, slow_info) = solve(lx.Anderson()), solve(lx.Picard())
    np.testing.assert_allclose(fast, 1 / (1 - rates), rtol=1e-4)
    assert 4 * fast_info.steps < slow_info.steps


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize("solver", [lx.Anderson(), lx.Newton()], ids=lambda s: type(s).__name__)
def test_dtypes(solver, dtype):
    x, info = lx.fixed_point(lambda x: 0.5 * x + jnp.asarray(1, dtype), {"x": jnp.zeros(2, dtype)}["x"], solver=solver)
    assert x.dtype == dtype and info.converged
    np.testing.assert_allclose(x.real.astype(float), 2.0, rtol=0.05 if dtype == jnp.bfloat16 else 1e-5)


def test_what_a_solver_is_for():
    for solver in (lx.Picard(), lx.Anderson()):
        with pytest.raises(errors.ArityError, match=r"root got solver=\w+\(.*towards a fixed point"):
            lx.root(lambda x: x, 1.0, solver=solver)
    with pytest.raises(errors.ArityError, match=r"tolerances of its own\. Give them to FixedPointIteration"):
        lx.fixed_point(lambda x: x, 1.0, solver=optx.FixedPointIteration(1e-6, 1e-6), rtol=1e-3)
