"""`lx` takes all that the installed JAX takes, returns the same, and refuses what JAX refuses, by a like class."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import errors

NAMES = ("vjp", "jvp", "grad", "value_and_grad", "jacfwd", "jacrev", "hessian", "linearize", "linear_transpose")
OPTIONS = set(inspect.signature(jax.vjp).parameters)


@pytest.mark.parametrize("name", NAMES)
def test_signature_of_the_installed_jax(name):
    """Each parameter has its place and its default, or is handed on by name."""
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (lx, jax))
    handed_on = any(p.kind is p.VAR_KEYWORD for p in ours.values())
    for key, parameter in theirs.items():
        if key not in ours:
            assert handed_on and parameter.kind is parameter.KEYWORD_ONLY, f"{name} lacks {key}"
            continue
        assert ours[key].kind is parameter.kind
        assert ours[key].default == parameter.default
    place = lambda ps: [k for k, p in ps.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert place(ours)[: len(place(theirs))] == place(theirs)


def test_options_of_vjp_are_handed_on():
    options = {"saveable_args": (True, False), "in_nzs": (True, False)}
    for name, value in options.items():
        run = lambda m, name=name, value=value: m.vjp(lambda x, w: jnp.sin(x) * w, 2.0, 3.0, **{name: value})[1]
        if name in OPTIONS:
            assert repr(run(lx).args_res) == repr(run(jax).args_res)
            assert run(lx)(1.0) == run(jax)(1.0) if name == "in_nzs" else True
        else:
            with pytest.raises(errors.ArityError, match=rf"vjp got an option '{name}', which .* does not take"):
                run(lx)
    with pytest.raises(errors.ArityError, match=r"vjp got an option 'has_au', .* Did you mean 'has_aux'"):
        lx.vjp(jnp.sin, 1.0, has_au=True)


def test_residuals_are_assigned():
    """What a primal contributes to the backward pass is given anew: the cotangent is that at another point."""
    for m in (jax, lx):
        _, vjp_fn = m.vjp(lambda x, w: jnp.dot(x, w), jnp.arange(3.0), jnp.ones(3))
        x, w = vjp_fn.args_res
        assert np.asarray(x).tolist() == [0.0, 1.0, 2.0]
        vjp_fn.args_res = [10 * x, w]
        np.testing.assert_allclose(vjp_fn(1.0)[1], [0.0, 10.0, 20.0])
        if hasattr(vjp_fn.args_res, "append"):
            vjp_fn.args_res[1] = 5 * w
            np.testing.assert_allclose(vjp_fn(1.0)[0], 5.0)
    assert isinstance(vjp_fn.replace(args_res=[x, w]), lx.ad.VjpFn)
    np.testing.assert_allclose(vjp_fn.replace(args_res=[x, w])(1.0)[1], [0.0, 1.0, 2.0])
    with pytest.raises(AttributeError, match="cannot assign to field 'arrange'"):
        vjp_fn.arrange = None


def test_objects_that_jax_returns_stay_ours():
    _, vjp_fn = lx.vjp(jnp.sin, 1.0)
    if hasattr(vjp_fn.jax_vjp, "with_logs"):
        cotangents, logs = vjp_fn.with_logs(1.0)
        assert isinstance(vjp_fn.with_logs, lx.ad.VjpFn) and logs == {}
        assert cotangents == vjp_fn(1.0)


def test_refs():
    def f(x, ref):
        return jnp.sum((x * ref[...]) ** 2)

    ref = lambda: jax.new_ref(jnp.arange(3.0))
    np.testing.assert_allclose(lx.grad(f)(2.0, ref()), jax.grad(f)(2.0, ref()))
    value, grads = lx.value_and_grad(f)(2.0, ref())
    np.testing.assert_allclose((value, grads), (20.0, 20.0))
    for name, transform in (("grad", lx.grad), ("value_and_grad", lx.value_and_grad), ("jacrev", lx.jacrev)):
        with pytest.raises(
            errors.NonDifferentiablePrimalError, match=rf"{name} can't .* argument 1, a ref: .*with_refs"
        ):
            transform(f, argnums=(0, 1))(2.0, ref())
    g = lambda ref: jnp.sum(ref[...] ** 2)
    _, vjp_fn = lx.vjp(g, ref())
    with pytest.raises(errors.CotangentError, match=r"without refs .*with_refs\(ct_ref"):
        vjp_fn(1.0)

    def accumulated(m):
        ct = jax.new_ref(jnp.zeros(3))
        try:
            m.vjp(g, ref())[1].with_refs(ct)(1.0)
        except ValueError:  # up to JAX 0.10
            return "refused"
        return ct[...].tolist()

    assert accumulated(lx) == accumulated(jax)


X = jnp.asarray([0.5, -1.5])
NOT_ARRAY = object()
PROGRAMS = {
    "grad of a dict with None": lambda m: m.grad(lambda d: d["a"] ** 2)({"a": 3.0, "b": None}),
    "grad, keyword-only": lambda m: m.grad(lambda x, *, k: k * x)(1.0, k=3.0),
    "grad, list of argnums": lambda m: m.grad(lambda x, y: x * y, argnums=[0])(2.0, 3.0),
    "grad, negative argnums": lambda m: m.grad(lambda x, y: x * y, -1)(2.0, 3.0),
    "grad, has_aux": lambda m: m.grad(lambda x: (x**2, {"n": 1}), has_aux=True)(3.0),
    "grad of an integer": lambda m: m.grad(lambda x: x * 2.0)(3),
    "grad, allow_int": lambda m: m.grad(lambda x: x * 2.0, allow_int=True)(3),
    "grad of a vector": lambda m: m.grad(jnp.sin)(X),
    "grad of a complex output": lambda m: m.grad(lambda x: x * 1j)(1.0),
    "grad, holomorphic": lambda m: m.grad(jnp.sin, holomorphic=True)(1.0 + 1.0j),
    "grad, holomorphic of a real": lambda m: m.grad(jnp.sin, holomorphic=True)(1.0),
    "grad of no function": lambda m: m.grad(3),
    "grad of too few": lambda m: m.grad(lambda x, y: x)(1.0),
    "grad, argnums beyond": lambda m: m.grad(lambda x: x, argnums=1)(1.0),
    "grad, argnums of a wrong kind": lambda m: m.grad(lambda x: x, argnums="x"),
    "grad, aux of no pair": lambda m: m.grad(lambda x: x, has_aux=True)(1.0),
    "grad of a string": lambda m: m.grad(lambda x: 1.0)("x"),
    "value_and_grad": lambda m: m.value_and_grad(lambda x: jnp.sum(x**3))(X),
    "value_and_grad, has_aux": lambda m: m.value_and_grad(lambda x: (jnp.sum(x), x), has_aux=True)(X),
    "grad of grad": lambda m: m.grad(m.grad(lambda x: x**3))(2.0),
    "grad under jit": lambda m: jax.jit(m.grad(lambda x: jnp.sum(jnp.sin(x))))(X),
    "grad of float16": lambda m: m.grad(lambda x: x**2)(jnp.float16(3.0)),
    "grad of NumPy": lambda m: m.grad(lambda x: jnp.sum(x**2))(np.arange(3.0)),
    "vjp": lambda m: m.vjp(lambda x, y: {"z": x * y}, X, 2.0)[1]({"z": X}),
    "vjp of no arguments": lambda m: m.vjp(lambda: 3.0)[1](1.0),
    "vjp of a wrong shape": lambda m: m.vjp(jnp.sin, X)[1](jnp.ones(3)),
    "vjp of a wrong tree": lambda m: m.vjp(lambda x: (x, x), X)[1](X),
    "vjp of two cotangents": lambda m: m.vjp(lambda x: (x, x), 1.0)[1](1.0, 1.0),
    "vjp of an integer": lambda m: m.vjp(lambda n, x: n * x, 2, 3.0)[1](1.0)[1],
    "vjp of a string": lambda m: m.vjp(lambda x: x, "x"),
    "vjp, has_aux": lambda m: m.vjp(lambda x: (x, "aux"), 1.0, has_aux=True)[2],
    "jvp": lambda m: m.jvp(lambda x, y: x * y, (X, 2.0), (X, 1.0)),
    "jvp of arrays alone": lambda m: m.jvp(jnp.sin, X, X),
    "jvp of another dtype": lambda m: m.jvp(jnp.sin, (X,), (X.astype(jnp.bfloat16),)),
    "jvp of another shape": lambda m: m.jvp(jnp.sin, (X,), (X[0],)),
    "jvp of another length": lambda m: m.jvp(jnp.sin, (X,), (X, X)),
    "jvp of a list": lambda m: m.jvp(jnp.sin, [X], [X]),
    "jvp of an integer": lambda m: m.jvp(lambda n: n * 2.0, (1,), (1,)),
    "jvp, has_aux": lambda m: m.jvp(lambda x: (x, 2 * x), (1.0,), (1.0,), has_aux=True),
    "jacfwd": lambda m: m.jacfwd(lambda x: {"a": x**2, "b": jnp.sum(x)})(X),
    "jacfwd of complex": lambda m: m.jacfwd(lambda x: x)(1j),
    "jacfwd to complex": lambda m: m.jacfwd(lambda x: x * 1j)(1.0),
    "jacfwd, holomorphic": lambda m: m.jacfwd(jnp.sin, holomorphic=True)(1j),
    "jacfwd of an integer": lambda m: m.jacfwd(lambda x: x * 1.0)(2),
    "jacfwd, several": lambda m: m.jacfwd(lambda x, y: x * y, (0, 1))(X, X),
    "jacrev": lambda m: m.jacrev(lambda x: (x**2, jnp.sum(x)))({"a": X}["a"]),
    "jacrev to an integer": lambda m: m.jacrev(lambda x: jnp.argmax(x))(X),
    "jacrev to complex": lambda m: m.jacrev(lambda x: x * 1j)(1.0),
    "jacrev, allow_int": lambda m: m.jacrev(lambda n: n * 2.0, allow_int=True)(2),
    "jacrev, has_aux": lambda m: m.jacrev(lambda x: (x**2, x), has_aux=True)(X),
    "hessian": lambda m: m.hessian(lambda x: jnp.sum(x**3))(X),
    "hessian of trees": lambda m: m.hessian(lambda t: t["a"] * jnp.sum(t["b"] ** 2))({"a": 2.0, "b": X}),
    "hessian of a vector": lambda m: m.hessian(lambda x: x**3)(X),
    "hessian, several": lambda m: m.hessian(lambda x, y: x * y**2, (0, 1))(2.0, 3.0),
    "linearize": lambda m: m.linearize(jnp.sin, X)[1](X),
    "linear_transpose": lambda m: m.linear_transpose(lambda x: 2 * x, X)(X),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_value_or_same_kind_of_error(name):
    try:
        want = PROGRAMS[name](jax)
    except Exception as error:
        builtin = next(c for c in type(error).__mro__ if c.__module__ == "builtins")
        with pytest.raises(builtin):
            PROGRAMS[name](lx)
        return
    got = PROGRAMS[name](lx)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert type(a) is type(b)
        if hasattr(b, "dtype"):
            assert a.dtype == b.dtype and getattr(a, "weak_type", None) == getattr(b, "weak_type", None)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
