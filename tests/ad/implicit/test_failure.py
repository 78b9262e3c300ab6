"""What is returned where there is no solution: NaN in values and derivatives, an error, or what was reached."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import liftax as lx
from liftax import errors, nn


def line(a, **options):
    """Return the fixed point 1 / (1 - a) of a line, which is found where abs(a) < 1."""
    return lx.fixed_point(lambda x: a * x + 1, 3.0, max_steps=60, **options)[0]


def test_nan_reaches_the_derivatives():
    f = jax.jit(jax.value_and_grad(line))
    assert jnp.isnan(jnp.stack(f(2.0))).all()
    assert jnp.isnan(jax.jvp(line, (2.0,), (1.0,))[1])
    np.testing.assert_allclose(f(0.5), (2.0, 4.0), rtol=1e-5)


def test_nan_of_aux():
    f = lambda a: lx.fixed_point(lambda x: (a * x + 1, 2 * x), 3.0, max_steps=60, has_aux=True)[2]
    assert jnp.isnan(f(2.0))
    np.testing.assert_allclose(jax.grad(f)(0.5), 8.0, rtol=1e-5)


def test_return():
    x, info = lx.fixed_point(lambda x: 2 * x + 1, 1.0, max_steps=3, on_failure="return")
    assert x == 15.0 and not info.converged


def test_raise():
    f = lambda a: line(a, on_failure="raise")
    np.testing.assert_allclose(f(0.5), 2.0, rtol=1e-6)
    for call in (f, jax.grad(f)):
        with pytest.raises(errors.ConvergenceError, match=r"fixed_point .* after 60 steps .*max_steps.*on_failure"):
            call(2.0)
    with pytest.raises(ArithmeticError, match=r"root found no solution"):
        lx.root(lambda x: x**2 + 1, 3.0, on_failure="raise")


@pytest.mark.parametrize("around", [lambda f: f, jax.grad], ids=["value", "gradient"])
def test_raise_inside_jit_is_checked_by_checkify(around):
    f = checkify.checkify(jax.jit(around(lambda a: line(a, on_failure="raise"))))
    assert f(0.5)[0].get() is None
    assert "fixed_point found no solution: it ended after 60 steps" in f(2.0)[0].get()


def test_lifted():
    class Layer(nn.Module):
        on_failure: str

        @nn.compact
        def __call__(self, x):
            a = self.param("a", nn.initializers.ones, ())
            step = lambda mdl, z: a * z + x
            return nn.fixed_point(step, self, x, max_steps=30, solver=lx.Picard(), on_failure=self.on_failure)[0]

    run = lambda how, a: Layer(how).apply({"params": {"a": a}}, jnp.ones(2))
    assert jnp.isnan(run("nan", 2.0)).all()
    assert jnp.isfinite(run("return", 2.0)).all()
    with pytest.raises(errors.ConvergenceError):
        run("raise", 2.0)
    np.testing.assert_allclose(run("raise", 0.5), 2.0, rtol=1e-5)
