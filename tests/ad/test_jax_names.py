"""The names of the family that JAX serves as they are."""

import jax
import jax.numpy as jnp
import pytest

import liftax as lx


@pytest.mark.parametrize(
    "name",
    ["custom_gradient", "custom_jvp", "custom_vjp", "linear_transpose", "linearize"],
)
def test_objects_of_jax(name):
    assert getattr(lx, name) is getattr(lx.ad, name) is getattr(jax, name)


def test_stop_gradient():
    assert jax.grad(lambda x: x * lx.stop_gradient(x))(jnp.asarray(3.0)) == 3.0
