"""`ad.vjp` against the documented example, plain JAX and finite differences; where `VjpFn` may go; what errors say."""

import copy
import functools
import inspect
import pickle
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import liftax
from liftax import _compat, ad
from liftax.errors import ArityError, AuxError, CotangentError

FLOAT0 = np.zeros((), jax.dtypes.float0)
HOME = Path(liftax.__file__).parent


def mlp(params, x):
    h = jnp.tanh(x @ params["w"] + params["b"])
    return {"y": (h, (h**2).sum())}


PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.array([0.1, -0.2, 0.3])}
X = jnp.array([0.5, -1.5])
CT = {"y": (jnp.array([1.0, 2.0, -1.0]), 0.5)}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_documented_example():
    def f(x, y):
        return jnp.sin(x), jnp.cos(y)

    primals_out, vjp_fn = ad.vjp(f, 0.5, 1.0)
    xbar, ybar = vjp_fn((-0.7, 0.3))
    np.testing.assert_allclose(primals_out, (0.47942555, 0.5403023), rtol=1e-6)
    assert f"{xbar:.8f} {ybar:.7f}" == "-0.61430776 -0.2524413"


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"])
def test_equals_jax(wrap):
    def run(vjp):
        return wrap(lambda p, x: (lambda y, b: (y, b(CT)))(*vjp(mlp, p, x)))(PARAMS, X)

    same(run(ad.vjp), run(jax.vjp))


def test_has_aux():
    y, vjp_fn, aux = ad.vjp(lambda x: (x**2, {"note": [x, 1]}), 3.0, has_aux=True)
    assert (y, vjp_fn(1.0)[0]) == (9.0, 6.0)
    assert aux == {"note": [3.0, 1]}


@pytest.mark.parametrize("pair", [lambda a, b: (a, b), lambda a, b: [a, b]])
def test_has_aux_takes_a_tuple_or_list(pair):
    assert ad.vjp(lambda x: pair(x * 2, x), 3.0, has_aux=True)[::2] == (6.0, 3.0)


def test_second_order():
    def f(p, x):
        out, vjp_fn = ad.vjp(mlp, p, x)
        return vjp_fn(jax.tree.map(jnp.ones_like, out))

    check_grads(jax.jit(f), (PARAMS, X), order=2, rtol=2e-2, atol=2e-2)


def test_integer_primal_and_output():
    (y, n), vjp_fn = ad.vjp(lambda x, n: (x * n, n + 1), 2.0, 3)
    assert (y, n) == (6.0, 4)
    for ct in [(1.0, FLOAT0), (1.0, 0), (1.0, 0.0)]:  # all of which JAX accepts
        x_ct, n_ct = vjp_fn(ct)
        assert x_ct == 3.0
        assert n_ct.dtype == jax.dtypes.float0


def test_no_frame_between_the_caller_and_fun_but_vjp():
    def depth(vjp, **kwargs):
        seen = []

        def fun(x):
            seen.extend(f.filename for f in inspect.stack() if Path(f.filename).is_relative_to(HOME))
            return (x, x) if kwargs else x

        vjp(fun, 1.0, **kwargs)
        return len(seen)

    assert depth(ad.vjp) == 1
    assert depth(ad.vjp, has_aux=True) == 1


@pytest.mark.parametrize("kwargs", [{}, {"has_aux": True}])
def test_jax_speaks_of_fun_by_its_name(kwargs):
    def energy(x):
        return (x, x) if kwargs else x

    assert ad.vjp(energy, 1.0, **kwargs)[1].jaxpr.debug_info.func_src_info.startswith("energy at ")


def test_traces_to_the_program_of_jax():
    def run(vjp):
        return str(jax.make_jaxpr(lambda p, x: vjp(mlp, p, x)[1](CT))(PARAMS, X))

    assert run(ad.vjp) == run(jax.vjp)


# --- the backward map is a pytree ------------------------------------------------------------------------------------


def expected():
    return jax.vjp(mlp, PARAMS, X)[1](CT)


def close(a, b):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-6), a, b)


def test_out_of_jit_and_into_jit():
    _, vjp_fn = jax.jit(lambda p, x: ad.vjp(mlp, p, x))(PARAMS, X)
    assert isinstance(vjp_fn, ad.VjpFn)
    close(vjp_fn(CT), expected())
    close(jax.jit(lambda b, ct: b(ct))(vjp_fn, CT), expected())
    close(jax.jit(vjp_fn)(CT), expected())


def test_vmap_over_cotangents():
    _, vjp_fn = ad.vjp(lambda x: jnp.stack([x**2, x**3]), 2.0)
    (rows,) = jax.vmap(vjp_fn)(jnp.eye(2))
    np.testing.assert_allclose(rows, [4.0, 12.0])


def test_vmap_output():
    vjp_fns = jax.vmap(lambda x: ad.vjp(jnp.sin, x)[1])(jnp.arange(3.0))
    (cts,) = jax.vmap(lambda b: b(2.0))(vjp_fns)
    np.testing.assert_allclose(cts, 2 * np.cos(np.arange(3.0)), rtol=1e-6)


def test_scan_output():
    _, vjp_fns = jax.lax.scan(lambda c, x: (c, ad.vjp(jnp.sin, x)[1]), 0.0, jnp.arange(3.0))
    (cts,) = jax.vmap(lambda b: b(2.0))(vjp_fns)
    np.testing.assert_allclose(cts, 2 * np.cos(np.arange(3.0)), rtol=1e-6)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint, jax.vmap])
def test_residual_of_custom_vjp(around):
    @jax.custom_vjp
    def signed(p, x):
        return mlp(p, x)

    signed.defvjp(
        lambda p, x: ad.vjp(mlp, p, x),
        lambda vjp_fn, ct: (lambda p_ct, x_ct: (jax.tree.map(jnp.sign, p_ct), x_ct))(*vjp_fn(ct)),
    )
    xs = jnp.stack([X, -X]) if around is jax.vmap else X

    def loss(p):
        g = (lambda x: around(lambda x: signed(p, x))(x))(xs)
        return sum(leaf.sum() for leaf in jax.tree.leaves(g))

    got = jax.grad(loss)(PARAMS)
    each = [jax.vjp(mlp, PARAMS, x)[1]({"y": (jnp.ones(3), 1.0)})[0] for x in (xs if around is jax.vmap else [X])]
    want = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), [jax.tree.map(jnp.sign, g) for g in each])
    close(got, want)


def swap(cotangents):
    return cotangents[::-1]


def test_arrange_shapes_the_result_and_is_static():
    _, vjp_fn = ad.vjp(lambda x, y: x * y, 2.0, 3.0)
    swapped = ad.VjpFn(vjp_fn.jax_vjp, swap)
    assert vjp_fn(1.0) == (3.0, 2.0)
    assert swapped(1.0) == (2.0, 3.0)
    assert jax.jit(lambda b: b)(swapped).arrange is swap
    assert jax.tree.structure(swapped) != jax.tree.structure(vjp_fn)
    assert jax.tree.leaves(swapped) == jax.tree.leaves(vjp_fn)


def test_offers_what_jax_offers():
    _, vjp_fn = ad.vjp(jnp.sin, 1.0)
    of_jax = vjp_fn.jax_vjp
    names = [n for n in dir(of_jax) if not n.startswith("_")]
    assert {"args_res", "jaxpr", "with_refs"} <= set(names)
    for name in names:
        getattr(vjp_fn, name)
    assert vjp_fn.args_res is of_jax.args_res
    with pytest.raises(AttributeError, match="nope"):
        vjp_fn.nope  # noqa: B018


def test_with_refs():
    _, vjp_fn = ad.vjp(lambda x: x * 3.0, jnp.ones(2))
    ref = jax.new_ref(jnp.zeros(2))
    vjp_fn.with_refs(ref)(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(ref[...], [3.0, 6.0])


def test_refs_of_another_structure():
    _, vjp_fn = ad.vjp(lambda x, y: x * y["a"], jnp.ones(2), {"a": jnp.ones(2)})
    ref = jax.new_ref(jnp.zeros(2))
    for refs in ((ref,), (ref, ref), (ref, {"b": ref})):
        with pytest.raises(CotangentError, match=r"with_refs .* expected \('ref', {'a': 'ref'}\), got \('float32"):
            vjp_fn.with_refs(*refs)


def test_copies_and_weak_references():
    _, vjp_fn = ad.vjp(mlp, PARAMS, X)
    assert weakref.ref(vjp_fn)() is vjp_fn
    same(copy.copy(vjp_fn)(CT), vjp_fn(CT))
    with pytest.raises(AttributeError, match="jax_vjp"):  # and not a recursion without end
        ad.VjpFn.__new__(ad.VjpFn).jaxpr  # noqa: B018


def test_pickles_as_far_as_jax_does():
    _, vjp_fn = ad.vjp(lambda x: x, 1.0)
    assert pickle.loads(pickle.dumps(vjp_fn))(2.0) == (2.0,)


def test_repr_shows_the_outputs():
    assert repr(ad.vjp(mlp, PARAMS, X)[1]) == "VjpFn({'y': ('float32[3]', 'float32[]')})"


# --- errors ----------------------------------------------------------------------------------------------------------


def test_types_of_outputs_can_be_read():
    """Texts about cotangents depend on where this version of JAX keeps the types of the outputs."""
    (outputs,) = _compat.vjp_outputs(jax.vjp(mlp, PARAMS, X)[1])
    assert outputs == {"y": (jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32))}
    assert _compat.vjp_outputs(object()) is None


@pytest.mark.parametrize(
    ("ct", "where", "want", "got"),
    [
        ({"y": (jnp.ones(4), 1.0)}, "['y'][0]", "float32[3]", "float32[4]"),
        ({"y": (jnp.ones((3, 1)), 1.0)}, "['y'][0]", "float32[3]", "float32[3,1]"),
        ({"y": (jnp.ones(3, jnp.bfloat16), 1.0)}, "['y'][0]", "float32[3]", "bfloat16[3]"),
        ({"y": (jnp.ones(3), 1)}, "['y'][1]", "float32[]", "int (int32[])"),
        ({"y": (jnp.ones(3), 1j)}, "['y'][1]", "float32[]", "complex (complex64[])"),
        ({"y": (jnp.ones(3), FLOAT0)}, "['y'][1]", "float32[]", "float0[]"),
        ({"y": (jnp.ones(3), None)}, "['y'][1]", "float32[]", "None"),
        ({"y": (jnp.ones(3), "one")}, "['y'][1]", "float32[]", "a str"),
        ({"y": (jnp.ones(3), (1.0,))}, "['y'][1]", "float32[]", "a tuple of 1"),
        ({"y": (jnp.ones(3),)}, "['y'][1]", "float32[]", "nothing there"),
        ({"y": [jnp.ones(3), 1.0]}, "['y']", "a tuple of 2", "a list of 2"),
        ({"z": (jnp.ones(3), 1.0)}, "['y']", "a tuple of 2", "nothing there"),
        ({"y": (jnp.ones(3), 1.0), "z": {}}, "['z']", "nothing there", "a dict with keys []"),
        (jnp.ones(3), "", "a dict with keys ['y']", "float32[3]"),
    ],
)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_wrong_cotangent(ct, where, want, got, jit):
    _, vjp_fn = (jax.jit(functools.partial(ad.vjp, mlp)) if jit else functools.partial(ad.vjp, mlp))(PARAMS, X)
    with pytest.raises(CotangentError) as e:
        vjp_fn(ct)
    place = f" at {where}" if where else ""
    assert f"The cotangent given to the backward map of vjp does not fit the output{place}: " in str(e.value)
    assert f"expected {want}, got {got}." in str(e.value)


def test_wrong_cotangent_of_a_custom_node():
    @jax.tree_util.register_pytree_node_class
    class Box:
        def __init__(self, value, tag):
            self.value, self.tag = value, tag

        def tree_flatten(self):
            return (self.value,), self.tag

        @classmethod
        def tree_unflatten(cls, tag, children):
            return cls(*children, tag)

    _, vjp_fn = ad.vjp(lambda x: Box(x, "a"), 1.0)
    assert vjp_fn(Box(2.0, "a")) == (2.0,)
    with pytest.raises(CotangentError, match="cotangent"):
        vjp_fn(Box(2.0, "b"))


def test_hints():
    _, vjp_fn = ad.vjp(lambda x: x, 1.0)
    with pytest.raises(CotangentError, match=r"Write 1.0 instead of 1"):
        vjp_fn(1)
    with pytest.raises(CotangentError, match=r"Cast it with `.astype\(float32\)`"):
        vjp_fn(jnp.bfloat16(1))
    with pytest.raises(CotangentError, match=r"takes one cotangent, and got 2.*vjp_fn\(\(a, b\)\)"):
        vjp_fn(1.0, 2.0)


def test_python_scalars_are_cotangents():
    _, vjp_fn = ad.vjp(lambda x: x * 2, jnp.float32(1.0))
    assert vjp_fn(1.5) == (3.0,)


def test_error_of_a_backward_rule_is_left_alone():
    @jax.custom_vjp
    def f(x):
        return x

    def bwd(_, ct):
        raise ValueError("mine")

    f.defvjp(lambda x: (x, None), bwd)
    with pytest.raises(ValueError, match=r"^mine"):
        ad.vjp(f, 1.0)[1](1.0)


def test_wrong_arity():
    with pytest.raises(ArityError, match=r"vjp calls .*mlp\(params, x\) with 1 positional argument, .*missing.*'x'"):
        ad.vjp(mlp, PARAMS)
    with pytest.raises(ArityError, match=r"with 3 positional arguments, .*too many"):
        ad.vjp(mlp, PARAMS, X, X)
    with pytest.raises(ArityError, match="expected a function and got float"):
        ad.vjp(1.0, 1.0)


def test_type_error_of_the_function_is_left_alone():
    def f(x):
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine") as e:
        ad.vjp(f, 1.0)
    assert type(e.value) is TypeError


@pytest.mark.parametrize("out", [jnp.ones(2), (1.0,), (1.0, 2.0, 3.0), {"a": 1.0, "b": 2.0}, 1.0, None, "ab"])
def test_no_pair(out):
    with pytest.raises(AuxError, match=r"has_aux=True the function must return a pair \(output, aux\)"):
        ad.vjp(lambda x: out, 1.0, has_aux=True)
