"""When the solvers stop: at a tolerance scaled by dtype, at the limit of rounding, or where they get nowhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import errors

C = 50 + jnp.arange(64.0)


def sines(x, c):
    return 0.5 * jnp.sin(x) + c


def test_a_tolerance_that_the_dtype_can_reach():
    x, info = lx.fixed_point(sines, jnp.zeros(64), C)
    assert info.converged and info.steps < 20
    exact = np.asarray(C, np.float64)
    for _ in range(100):
        exact = 0.5 * np.sin(exact) + np.asarray(C, np.float64)
    np.testing.assert_allclose(x, exact, rtol=1e-6)
    x, info = lx.root(lambda x: x**2 - 2e8, 1e4)
    assert info.converged and info.steps < 8
    np.testing.assert_allclose(x, 2e8**0.5, rtol=1e-7)


@pytest.mark.parametrize(
    "dtype", [*(pytest.param(d, marks=pytest.mark.long) for d in (jnp.bfloat16, jnp.float16)), jnp.float64]
)
def test_each_dtype(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        c = jnp.asarray([50.0, 7.0], dtype)
        x, info = lx.fixed_point(sines, jnp.zeros(2, dtype), c)
        r, root_info = lx.root(lambda x: x**2 - c, c)
        assert info.converged and root_info.converged and x.dtype == r.dtype == dtype
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(r.astype(float), np.sqrt([50.0, 7.0]), rtol=2 * eps)
        assert float(info.error) <= 8 * eps * 51


@pytest.mark.parametrize(
    "solve", [lx.fixed_point, lambda f, *args, **kw: lx.root(lambda x, c: f(x, c) - x, *args, **kw)]
)
def test_a_tolerance_that_rounding_keeps_out_of_reach(solve):
    _, info = solve(sines, jnp.zeros(64), C, rtol=0.0, atol=0.0, max_steps=500)
    assert info.converged and info.steps < 100


def test_tolerances_are_those_of_the_caller():
    slow = lambda **kw: lx.fixed_point(lambda x: 0.5 * x + 1e-12, 0.0, **kw)
    x, info = slow()
    assert info.steps == 0 and info.converged  # 1e-12 is nothing beside the absolute tolerance
    x, info = slow(atol=0.0)
    np.testing.assert_allclose(x, 2e-12, rtol=1e-5)
    coarse = jax.jit(lambda rtol: lx.fixed_point(sines, jnp.zeros(64), C, rtol=rtol)[1])(1e-2)
    assert coarse.converged and coarse.steps < 3


def test_each_array_has_its_own_scale():
    def step(x):
        return {"far": 0.5 * x["far"] + 1e7, "near": 0.5 * x["near"] + 1e-2 * x["far"] / 2e7}

    x, info = lx.fixed_point(step, {"far": jnp.zeros(()), "near": jnp.zeros(())})
    assert info.converged
    np.testing.assert_allclose((x["far"], x["near"]), (2e7, 0.02), rtol=1e-4)


@pytest.mark.parametrize(
    ("f", "most"),
    [(lambda x: 2 * x + 1, 101), (lambda x: 1 - x, 101), (lambda x: jnp.exp(x), 10), (lambda x: 0.999 * x + 1, 1000)],
    ids=["diverges", "turns in a circle", "overflows", "is slow"],
)
def test_no_solution(f, most):
    x, info = lx.fixed_point(f, 3.0)
    assert not info.converged and info.steps <= most and jnp.isnan(x)


def test_newton_without_a_root():
    x, info = lx.root(lambda x: x**2 + 1, 3.0)
    assert not info.converged and info.steps == 50 and jnp.isnan(x)
    x, info = lx.root(lambda x: (x - 1) ** 2, 3.0)  # a double root, where it converges linearly
    assert info.converged and abs(x - 1) < 1e-5


def test_examples_of_a_batch_stop_by_themselves():
    x, info = jax.vmap(lambda a: lx.fixed_point(lambda x: a * x + 1, 0.0))(jnp.asarray([0.0, 0.5, 2.0]))
    assert info.converged.tolist() == [True, True, False]
    assert info.steps[0] < info.steps[1] < 30
    np.testing.assert_allclose(x, [1.0, 2.0, np.nan], rtol=1e-6)


@pytest.mark.parametrize("solver", [lx.fixed_point, lx.root])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rtol": "3"}, "rtol=a str, expected a number"),
        ({"atol": [1.0]}, "atol=a list of 1, expected a number"),
        ({"max_steps": "3"}, "max_steps=a str, expected a number"),
        ({"max_steps": 0}, "max_steps=0, expected a number of steps"),
        ({"solver": "anderson"}, r"solver=a str, expected a solver: .*lx\.Anderson"),
        ({"linear_solver": lx.Newton()}, r"linear_solver=a Newton, expected lx\.Direct"),
        ({"on_failure": "NaN"}, "on_failure='NaN', expected 'nan', 'raise' or 'return'"),
    ],
)
def test_options_are_checked(solver, options, text):
    with pytest.raises(errors.ArityError, match=f"{solver.__name__} got {text}"):
        solver(lambda x: 0.5 * x, 1.0, **options)
