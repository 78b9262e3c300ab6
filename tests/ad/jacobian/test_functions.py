"""`lx.jacobian` and its kin against JAX's, in chunks and by patterns, and what their options may be."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import liftax as lx
from liftax import errors

U = jnp.linspace(0.1, 1.2, 7)
TREE = {"a": jnp.asarray([[0.3, -0.1], [0.5, 2.0]]), "b": jnp.asarray(0.7), "n": {"c": U[:3]}}


def stencil(u, k=2.0):
    return k * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)) + u**3


def energy(u):
    return jnp.sum((u[1:] - u[:-1]) ** 4) + jnp.sum(jnp.sin(u))


def of_tree(t, s):
    return {"y": t["a"] * t["b"], "z": (s * jnp.sum(t["n"]["c"] ** 2), t["n"]["c"][1:] * s)}


def same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


OPTIONS = {
    "whole": {},
    "one at a time": {"chunk": 1},
    "three at a time": {"chunk": 3},
    "sparse": {"sparsity": "auto"},
    "sparse, two at a time": {"sparsity": "auto", "chunk": 2},
}
CASES = [
    pytest.param(options, id=name, marks=[pytest.mark.asdex] if "sparsity" in options else [])
    for name, options in OPTIONS.items()
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("name", ["jacobian", *(pytest.param(n, marks=pytest.mark.long) for n in ("jacfwd", "jacrev"))])
def test_jacobian_of_trees(name, options):
    def run(jac, **options):
        return jax.jit(jac(of_tree, argnums=(0, 1), **options))(TREE, 3.0)

    same(run(getattr(lx, name), **options), run(jax.jacfwd))


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("mode", ["forward", pytest.param("reverse", marks=pytest.mark.long)])
def test_hessian(mode, options):
    f = lambda t: energy(t["n"]["c"]) * t["b"] + jnp.sum(t["a"] ** 3)
    same(jax.jit(lx.hessian(f, mode=mode, **options))(TREE), jax.jit(jax.hessian(f))(TREE))


@pytest.mark.asdex
def test_has_aux_and_keywords():
    f = lambda u, k: (stencil(u, k), {"sum": jnp.sum(u)})
    for options in ({}, {"chunk": 3}, {"sparsity": "auto"}):
        got, aux = lx.jacobian(f, has_aux=True, **options)(U, k=3.0)
        same(got, jax.jacfwd(lambda u: stencil(u, 3.0))(U))
        np.testing.assert_allclose(aux["sum"], jnp.sum(U))
    assert lx.jacrev(lambda n, x: n * x, allow_int=True)(2, 3.0) == jax.jacrev(lambda n, x: n * x, allow_int=True)(
        2, 3.0
    )


@pytest.mark.asdex
@pytest.mark.long
def test_bcoo_holds_the_pattern_alone():
    got = lx.jacobian(stencil, sparsity="auto", format="bcoo")(U)
    assert isinstance(got, sparse.BCOO) and got.nse == 21
    np.testing.assert_allclose(got.todense(), jax.jacfwd(stencil)(U), rtol=1e-5)
    blocks = lx.hessian(lambda t: energy(t["n"]["c"]) * t["b"], sparsity="auto", format="bcoo")(TREE)
    want = jax.hessian(lambda t: energy(t["n"]["c"]) * t["b"])(TREE)
    assert blocks["a"]["b"].nse == 0 and blocks["n"]["c"]["n"]["c"].nse == 7
    same(jax.tree.map(lambda x: x.todense(), blocks, is_leaf=lambda x: isinstance(x, sparse.BCOO)), want)


@pytest.mark.asdex
def test_fewer_products():
    """One product for each of three colors, where the matrix has many columns."""
    counted = []

    @jax.custom_jvp
    def f(u):
        return stencil(u)

    @f.defjvp
    def _(primals, tangents):
        jax.debug.callback(lambda t: counted.append(t.shape), tangents[0])
        return jax.jvp(stencil, primals, tangents)

    u = jnp.arange(30.0)
    jax.block_until_ready(lx.jacobian(f, sparsity="auto")(u))
    assert len(counted) == 3


@pytest.mark.asdex
def test_of_what_a_function_closes_over():
    """Values tell which places are read; tracers do not have to."""
    places = jnp.asarray([3, 1, 4, 1])
    dense = jax.grad(lambda k: jnp.sum(lx.jacobian(lambda u: stencil(u, k)[places])(U) ** 2))(2.0)
    f = lambda k: jnp.sum(lx.jacobian(lambda u: stencil(u, k)[places], sparsity="auto")(U) ** 2)
    np.testing.assert_allclose(jax.jit(jax.grad(f))(2.0), dense, rtol=1e-5)
    entries = jax.jit(lambda k: lx.jacobian(lambda u: k * u[places], sparsity="auto", format="bcoo")(U))(2.0)
    assert entries.nse == 4
    key = jax.random.key(0)
    drop = lambda key, **kw: lx.jacobian(lambda u: u * jax.random.normal(key, u.shape), **kw)(U)
    np.testing.assert_allclose(jax.jit(lambda key: drop(key, sparsity="auto"))(key), drop(key), rtol=1e-6)


@pytest.mark.asdex
def test_under_vmap():
    us = jnp.stack([U, 2 * U])
    got = jax.vmap(lx.jacobian(stencil, sparsity="auto"))(us)
    np.testing.assert_allclose(got, jax.vmap(jax.jacfwd(stencil))(us), rtol=1e-5)


@pytest.mark.asdex
def test_a_pattern_that_is_known():
    import asdex

    want = jax.jacfwd(stencil)(U)
    pattern = np.asarray(want != 0)
    for given in (
        pattern,
        jnp.asarray(pattern),
        asdex.jacobian_sparsity(stencil, U),
        asdex.jacobian_coloring(stencil, U),
    ):
        np.testing.assert_allclose(lx.jacobian(stencil, sparsity=given)(U), want, rtol=1e-5)
    with pytest.raises(errors.SparsityError, match=r"jacobian got a pattern of shape \(3, 7\), expected \(7, 7\)"):
        lx.jacobian(stencil, sparsity=pattern[:3])(U)
    with pytest.raises(errors.SparsityError, match="jacrev got a coloring for forward mode"):
        lx.jacrev(stencil, sparsity=asdex.jacobian_coloring(stencil, U, mode="fwd"))(U)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"chunk": 0}, "chunk=0, expected how many products"),
        ({"chunk": 2.0}, "chunk=2.0, expected how many products"),
        ({"format": "csr", "sparsity": "auto"}, "format='csr', expected 'dense' or 'bcoo'"),
        ({"format": "bcoo"}, "format='bcoo' without sparsity"),
        ({"sparsity": "no"}, "sparsity='no', expected 'auto' or a pattern"),
        ({"sparsity": True}, r"sparsity=bool \(bool\[\]\), expected 'auto' or a pattern"),
    ],
)
def test_options_are_checked(options, text):
    for name in ("jacobian", "jacfwd", "jacrev", "hessian"):
        with pytest.raises(errors.ArityError, match=f"{name} got {text}"):
            getattr(lx, name)(stencil, **options)
    with pytest.raises(errors.ArityError, match="hessian got mode='backward'"):
        lx.hessian(energy, mode="backward")
    with pytest.raises(errors.ArityError, match="jacrev got allow_int=True beside chunk"):
        lx.jacrev(stencil, allow_int=True, chunk=2)


@pytest.mark.asdex
def test_what_can_not_be_differentiated():
    with pytest.raises(errors.NonDifferentiablePrimalError, match=r"jacobian .*argument 0.*int32\[\]"):
        lx.jacobian(stencil)(3)
    with pytest.raises(errors.NonDifferentiableOutputError, match=r"jacrev .*returned int32\[\]"):
        lx.jacrev(lambda u: jnp.argmax(u))(U)
    with pytest.raises(errors.NonDifferentiableOutputError, match=r"hessian .*scalar.*float32\[7\]"):
        lx.hessian(stencil, sparsity="auto")(U)
    with pytest.raises(errors.ArityError, match=r"jacfwd .* argument 1 "):
        lx.jacfwd(stencil, argnums=1)(U)
    with pytest.raises(errors.AuxError, match="jacobian: with has_aux"):
        lx.jacobian(stencil, has_aux=True)(U)


def test_asdex_that_does_not_fit_this_jax(monkeypatch, tmp_path):
    (tmp_path / "asdex.py").write_text("raise ImportError('cannot import name Gone')")
    monkeypatch.delitem(sys.modules, "asdex", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.JaxVersionError, match=r"asdex \S+ can't be imported with JAX \S+: .*Gone"):
        lx.jacobian(stencil, sparsity="auto")(U)
    sys.modules.pop("asdex", None)


def test_without_asdex(monkeypatch):
    monkeypatch.setitem(sys.modules, "asdex", None)
    with pytest.raises(errors.MissingPackageError, match=r"jacobian: sparsity needs .*pip install liftax\[sparse\]"):
        lx.jacobian(stencil, sparsity="auto")(U)


@jax.custom_vjp
def slope(x):
    return jnp.cos(x)


slope.defvjp(lambda x: (jnp.cos(x), x), lambda x, ct: (-ct * jnp.sin(x),))


@jax.custom_vjp
def ruled(x):
    return jnp.sin(x)


ruled.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * slope(x),))


@pytest.mark.asdex
def test_a_rule_whose_backward_pass_has_one():
    """Forward mode meets the rule in the backward pass; reverse mode over reverse mode does not mind."""
    f = lambda u: jnp.sum(ruled(u) * u)
    with pytest.raises(TypeError, match="forward-mode") as caught:
        lx.hessian(f)(U)
    assert 'mode="reverse"' in "".join(caught.value.__notes__)
    want = jax.hessian(lambda u: jnp.sum(jnp.sin(u) * u))(U)
    for options in ({}, {"chunk": 3}, {"sparsity": "auto"}):
        np.testing.assert_allclose(lx.hessian(f, mode="reverse", **options)(U), want, rtol=1e-5, atol=1e-6)
