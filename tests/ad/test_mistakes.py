"""What is no function, no value or no pair: one text for all derivatives of plain functions, by the name called."""

import jax
import jax.numpy as jnp
import pytest

import liftax as lx
from liftax import errors

X = jnp.asarray([0.3, -0.2])


@jax.custom_vjp
def backwards_alone(x):
    return jnp.tanh(x)


backwards_alone.defvjp(lambda x: (jnp.tanh(x), x), lambda x, ct: (ct * (1 - jnp.tanh(x) ** 2),))

CALLS = {
    "vjp": lambda f, x, **options: lx.vjp(f, x, **options),
    "jvp": lambda f, x, **options: lx.jvp(f, (x,), (X,), **options),
    "grad": lambda f, x, **options: lx.grad(f, **options)(x),
    "value_and_grad": lambda f, x, **options: lx.value_and_grad(f, **options)(x),
    "hvp": lambda f, x, **options: lx.hvp(f, (x,), (X,), **options),
    "vhp": lambda f, x, **options: lx.vhp(f, (x,), (X,), **options),
    "laplacian": lx.laplacian,
    "divergence": lx.divergence,
    "fixed_point": lx.fixed_point,
    "root": lx.root,
}


@pytest.mark.parametrize("name", CALLS)
def test_says_what_is_wrong_by_the_name_that_was_called(name):
    call = CALLS[name]
    with pytest.raises(errors.ArityError, match=f"^{name} expected a function and got a str"):
        call("f", X)
    with pytest.raises(errors.ArityError, match=rf"^{name} calls .*\(x, y\) with 1 positional argument.*missing"):
        call(lambda x, y: x, X)
    with pytest.raises(errors.NonDifferentiablePrimalError, match=f"^{name} can't .*got a str"):
        call(lambda x: x, "x")
    with pytest.raises(errors.NonDifferentiableOutputError, match=f"^{name} needs .* a str"):
        call(lambda x: "y", X)
    with pytest.raises(errors.AuxError, match=f"^{name}: with has_aux=True"):
        call(lambda x: x, X, has_aux=True)
    with pytest.raises(TypeError, match="unsupported operand") as own:  # what the function raises stays as it is
        call(lambda x: x + "y", X)
    assert not isinstance(own.value, errors.LiftaxError)


@pytest.mark.parametrize("name", CALLS)
def test_aux_need_not_be_arrays(name):
    scalar = name in ("grad", "value_and_grad", "hvp", "vhp")
    out = CALLS[name](lambda x: (jnp.sum(x) if scalar else 0.5 * x, ("note", 3, x.shape)), X, has_aux=True)
    assert (out[0][1] if name == "value_and_grad" else out[-1]) == ("note", 3, (2,))


@pytest.mark.parametrize("name", ["jvp", "divergence"])
def test_notes_what_serves_where_forward_mode_is_missing(name):
    with pytest.raises(TypeError, match="custom_vjp") as error:
        CALLS[name](backwards_alone, X)
    assert any("custom_jvp, which serves both modes" in note for note in error.value.__notes__)


def test_key():
    for transform in (lx.laplacian, lx.divergence):
        with pytest.raises(errors.InvalidRngError, match=r"got key=int .*jax.random.key\(seed\)"):
            transform(lambda x: x, X, key=7, samples=2)
