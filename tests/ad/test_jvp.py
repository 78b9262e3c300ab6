"""`ad.jvp` against plain JAX and finite differences, and what its errors say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from liftax import ad
from liftax.errors import ArityError, AuxError, TangentError


def f(p, x):
    return {"y": jnp.sin(p["a"] * x)}


P, X = {"a": jnp.array([0.5, -2.0])}, jnp.array([1.0, 3.0])
P_DOT, X_DOT = {"a": jnp.array([1.0, 0.25])}, jnp.array([-1.0, 2.0])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, jax.vmap])
def test_equals_jax(wrap):
    got = wrap(lambda *a: ad.jvp(f, a[:2], a[2:]))(P, X, P_DOT, X_DOT)
    want = wrap(lambda *a: jax.jvp(f, a[:2], a[2:]))(P, X, P_DOT, X_DOT)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_hand_value():
    y, y_dot = ad.jvp(lambda x: x**3, (2.0,), (0.5,))
    assert (y, y_dot) == (8.0, 6.0)


@pytest.mark.parametrize(("ps", "ts"), [([2.0], [0.5]), ([2.0], (0.5,)), ((2.0,), [0.5])])
def test_lists_and_tuples(ps, ts):
    assert ad.jvp(lambda x: x**3, ps, ts) == (8.0, 6.0)


def test_has_aux():
    assert ad.jvp(lambda x: (x**2, "note"), (3.0,), (1.0,), has_aux=True) == (9.0, 6.0, "note")
    assert ad.jvp(lambda x: [x**2, x], (3.0,), (1.0,), True) == (9.0, 6.0, 3.0)


def test_integer_primal():
    y, y_dot = ad.jvp(lambda x, n: x * n, (2.0, 3), (1.0, np.zeros((), jax.dtypes.float0)))
    assert (y, y_dot) == (6.0, 3.0)


def test_second_order():
    check_grads(jax.jit(lambda p, x: ad.jvp(f, (p, x), (P_DOT, X_DOT))), (P, X), order=2, rtol=2e-2, atol=2e-2)


def test_over_vjp():
    def hvp(x):
        return ad.jvp(lambda x: ad.vjp(lambda x: (x**3).sum(), x)[1](1.0)[0], (x,), (X_DOT,))[1]

    np.testing.assert_allclose(jax.jit(hvp)(X), 6 * X * X_DOT, rtol=1e-6)


@pytest.mark.parametrize(
    ("ps", "ts", "text"),
    [
        ((P, X), (P_DOT, jnp.ones(3)), r"at \[1\]: expected float32\[2\], got float32\[3\]"),
        ((P, X), ({"b": X}, X), r"at \[0\]\['a'\]: expected float32\[2\], got nothing there"),
        ((P, X), (P_DOT,), r"at \[1\]: expected float32\[2\], got nothing there"),
        ((P, 2.0), (P_DOT, 1), r"at \[1\]: expected float32\[\], got int \(int32\[\]\).* Write 1.0 instead of 1"),
        ((P, 2), (P_DOT, 1.0), r"at \[1\]: expected float0\[\], got float"),
        ((P, X), (P_DOT, None), r"at \[1\]: expected float32\[2\], got None"),
        (X, X, r"primals as a tuple or list.*The call is jvp\(f, \(x,\), \(x_dot,\)\)"),
        ((P, X), X, "tangents as a tuple or list"),
    ],
)
def test_wrong_tangent(ps, ts, text):
    with pytest.raises(TangentError, match=text):
        ad.jvp(f, ps, ts)


def test_wrong_arity_and_aux():
    with pytest.raises(ArityError, match=r"jvp calls f\(p, x\) with 1 positional argument"):
        ad.jvp(f, (P,), (P_DOT,))
    with pytest.raises(ArityError, match="expected a function"):
        ad.jvp(X, (X,), (X,))
    with pytest.raises(AuxError, match="jvp: with has_aux=True"):
        ad.jvp(f, (P, X), (P_DOT, X_DOT), has_aux=True)


def test_error_of_the_function_is_left_alone():
    def bad(x, error):
        raise error

    for error in (TypeError("mine"), ValueError("mine")):
        with pytest.raises(type(error), match=r"^mine") as e:
            ad.jvp(functools.partial(bad, error=error), (1.0,), (1.0,))
        assert e.value is error
