"""`ad.grad` and `ad.value_and_grad` against `jax.grad`, and what their errors say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from liftax import ad
from liftax.errors import (
    ArityError,
    AuxError,
    NonDifferentiableOutputError,
    NonDifferentiablePrimalError,
    ReduceAxesError,
)


def f(x, y, *, scale=1.0):
    return scale * (jnp.sin(x["a"]) * y**2).sum()


X, Y = {"a": jnp.array([0.5, -1.0])}, jnp.array([2.0, 3.0])


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("argnums", [0, 1, -1, (0,), (0, 1), [1, 0], (-1, 0), np.int64(1)])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_equals_jax(argnums, wrap):
    for name in ("grad", "value_and_grad"):
        got = wrap(getattr(ad, name)(f, argnums))(X, Y, scale=2.0)
        same(got, wrap(getattr(jax, name)(f, argnums))(X, Y, scale=2.0))


@pytest.mark.parametrize("argnums", [0, (0, 1)])
def test_has_aux(argnums):
    def g(x, y):
        return f(x, y), {"y": y}

    same(ad.grad(g, argnums, has_aux=True)(X, Y), jax.grad(g, argnums, has_aux=True)(X, Y))
    same(
        ad.value_and_grad(g, argnums, has_aux=True)(X, Y),
        jax.value_and_grad(g, argnums, has_aux=True)(X, Y),
    )


def test_aux_need_not_be_an_array():
    assert ad.grad(lambda x: (x**2, "note"), has_aux=True)(3.0) == (6.0, "note")


def test_keyword_arguments_are_not_differentiated():
    assert ad.grad(lambda x, *, n: x**n)(2.0, n=3) == 12.0


def test_holomorphic():
    z = 1.0 + 2.0j
    np.testing.assert_allclose(ad.grad(lambda z: z**3, holomorphic=True)(z), 3 * z**2, rtol=1e-6)


def test_complex_input_of_a_real_function():
    z = jnp.array(1.0 + 2.0j)
    same(ad.grad(lambda z: jnp.abs(z) ** 2)(z), jax.grad(lambda z: jnp.abs(z) ** 2)(z))


def test_allow_int():
    x_ct, n_ct = ad.grad(lambda x, n: x * n, argnums=(0, 1), allow_int=True)(2.0, 3)
    assert x_ct == 3.0
    assert n_ct.dtype == jax.dtypes.float0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_output(dtype):
    x = jnp.asarray(3.0, dtype)
    g = ad.grad(lambda x: x * x)(x)
    assert (g, g.dtype) == (6.0, dtype)


def test_constant_and_python_outputs():
    assert ad.value_and_grad(lambda x: 2.0)(3.0) == (2.0, 0.0)


def test_second_order_and_composition():
    check_grads(jax.jit(ad.grad(f, argnums=(0, 1))), (X, Y), order=2, rtol=2e-2, atol=2e-2)
    assert ad.grad(ad.grad(ad.grad(lambda x: x**4)))(2.0) == 48.0
    np.testing.assert_allclose(jax.vmap(ad.grad(lambda x: x**3))(Y), 3 * Y**2)
    np.testing.assert_allclose(jax.hessian(lambda y: ad.grad(f, 1)(X, y).sum())(Y), jnp.zeros((2, 2)), atol=1e-6)


def test_keeps_the_name_and_the_docstring():
    def energy(x):
        """Return the energy."""
        return x

    assert (ad.grad(energy).__name__, ad.grad(energy).__doc__) == ("energy", "Return the energy.")


def test_reduce_axes_sums_shared_arguments():
    def per_example(w, x):
        return ad.value_and_grad(lambda w, x: w * x**2, argnums=(0, 1), reduce_axes="batch")(w, x)

    xs = jnp.array([1.0, 2.0, 3.0])
    run = jax.vmap(per_example, in_axes=(None, 0), out_axes=(0, (None, 0)), axis_name="batch")
    loss, (w_ct, x_ct) = run(0.5, xs)
    np.testing.assert_allclose(loss, 0.5 * xs**2)
    np.testing.assert_allclose(w_ct, 14.0)
    np.testing.assert_allclose(x_ct, xs)


def test_reduce_axes_of_undifferentiated_arguments_do_not_matter():
    run = jax.vmap(ad.grad(lambda w, x: w * x, reduce_axes=("batch",)), (None, 0), None, axis_name="batch")
    assert run(2.0, jnp.arange(4.0)) == 6.0


# --- errors ----------------------------------------------------------------------------------------------------------


def backward_is_not_built(f):
    """Return `f` with a rule that fails when JAX asks for its backward pass."""

    @jax.custom_vjp
    def marked(x):
        return f(x)

    def bwd(*_):
        raise AssertionError("the backward pass was built")

    marked.defvjp(lambda x: (f(x), None), bwd)
    return marked


@pytest.mark.parametrize(
    ("out", "text"),
    [
        (lambda x: x * jnp.ones(2), r"returned float32\[2\].*\.sum\(\)"),
        (lambda x: x.reshape(1), r"returned float32\[1\].*\.sum\(\)"),
        (lambda x: (x, x), "returned a tuple of 2.*has_aux=True"),
        (lambda x: {"loss": x}, r"returned a dict with keys \['loss'\]"),
        (lambda x: None, "returned None"),
        (lambda x: jnp.int32(3), r"returned int32\[\].*no derivative"),
        (lambda x: x > 0, r"returned bool\[\].*no derivative"),
        (lambda x: x * 1j, r"returned complex64\[\].*real part.*holomorphic=True"),
    ],
)
@pytest.mark.parametrize("transform", [ad.grad, ad.value_and_grad])
def test_output_is_no_real_scalar(out, text, transform):
    with pytest.raises(NonDifferentiableOutputError, match=f"^{transform.__name__} needs .*{text}"):
        transform(backward_is_not_built(out))(jnp.float32(1.0))


def test_holomorphic_output_must_be_complex():
    with pytest.raises(NonDifferentiableOutputError, match=r"complex scalar.*Drop holomorphic"):
        ad.grad(lambda z: jnp.real(z), holomorphic=True)(1j)


@pytest.mark.parametrize(
    ("x", "kwargs", "text"),
    [
        (3, {}, r"argument 0: expected floating-point or complex, got int \(int32\[\]\)"),
        (True, {}, r"argument 0: .* got bool"),
        ({"w": [1.0, jnp.arange(2)]}, {}, r"argument 0\['w'\]\[1\]: .* got int32\[2\].*allow_int=True"),
        ("x", {}, "argument 0: expected a floating-point array, got a str"),
        ("x", {"allow_int": True}, "argument 0: expected a floating-point array, got a str"),
        (1.0, {"holomorphic": True}, "argument 0: expected complex, got float"),
    ],
)
def test_input_has_no_derivative(x, kwargs, text):
    def untouched(x):
        raise AssertionError("the function was run")

    with pytest.raises(NonDifferentiablePrimalError, match=text):
        ad.grad(untouched, **kwargs)(x)


def test_key_has_no_derivative():
    with pytest.raises(NonDifferentiablePrimalError, match=r"argument 1: .* got key<"):
        ad.grad(lambda x, key: x, argnums=(0, 1))(1.0, jax.random.key(0))


def test_argnums():
    with pytest.raises(ArityError, match=r"positional argument 2 \(argnums=2\), and the call has 1 positional arg"):
        ad.grad(lambda x: x, 2)(1.0)
    with pytest.raises(ArityError, match="positional argument -2"):
        ad.grad(lambda x: x, (0, -2))(1.0)
    with pytest.raises(ArityError, match=r"argnums=\(0, -1\), which names an argument twice"):
        ad.grad(lambda x: x, (0, -1))(1.0)
    with pytest.raises(ArityError, match="argnums=True, expected an integer"):
        ad.grad(lambda x: x, True)
    with pytest.raises(ArityError, match="argnums='x', expected an integer"):
        ad.grad(lambda x: x, "x")


def test_arity_aux_and_axes():
    with pytest.raises(ArityError, match=r"grad calls .* with 2 positional arguments, k=…"):
        ad.grad(lambda x: x)(1.0, 2.0, k=1)
    with pytest.raises(ArityError, match="value_and_grad expected a function and got float32"):
        ad.value_and_grad(jnp.ones(2))
    with pytest.raises(AuxError, match="grad: with has_aux=True"):
        ad.grad(lambda x: x, has_aux=True)(1.0)
    with pytest.raises(ReduceAxesError, match="grad got reduce_axes with 'batch'"):
        ad.grad(lambda x: x, reduce_axes="batch")(1.0)
