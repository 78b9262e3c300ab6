"""Each feature that uses private JAX, with each private name removed in turn: liftax imports, derivatives are right.

Names are removed by hiding them from `_compat._private`, the one place that looks for them: JAX itself needs them.
"""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import _compat, errors, jaxprs, nn

TREE = ast.parse(Path(_compat.__file__).read_text())
NAMES = sorted({
    (node.args[0].value, node.args[1].value)
    for node in ast.walk(TREE)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_private" and len(node.args) > 1
    and isinstance(node.args[0], ast.Constant)
})  # fmt: skip
X = jnp.arange(3.0)


def test_every_private_name_is_looked_up_in_one_place():
    assert len(NAMES) >= 10
    imported = [n.name for node in ast.walk(TREE) if isinstance(node, ast.Import) for n in node.names]
    assert not [name for name in imported if name.startswith(("jax._src", "jax.extend", "jax.interpreters"))]


def test_names_are_there():
    """On the JAX that is installed nothing falls back."""
    for module, name in NAMES:
        assert _compat._private(module, name) is not None


SCRIPT = textwrap.dedent(
    """
    import sys

    import jax, jax.numpy as jnp, numpy as np

    import liftax._compat as compat

    found = compat._private
    missing = object()

    def hidden(module, name, default=missing):
        if (module, name) == gone:
            if default is missing:
                raise compat.JaxVersionError(f"{module}.{name}")
            return default
        return found(module, name, *(() if default is missing else (default,)))

    x = jnp.arange(3.0)
    for gone in NAMES:
        for name in [m for m in sys.modules if m.startswith("liftax") and m not in ("liftax._compat", "liftax.errors")]:
            del sys.modules[name]
        for cached in (compat._state_of, compat._refusals):
            cached.cache_clear()
        compat._private = hidden
        from liftax import nn

        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                dense = nn.Dense(2)
                y, pull = nn.vjp(lambda mdl, x: mdl(x), dense, x)
                (slope,) = nn.grad(lambda mdl, x: jnp.sum(mdl(x) ** 2), dense, x)
                return y, pull(jnp.ones_like(y)), slope

        (y, (variables_ct, x_ct), slope), variables = jax.jit(Net().init_with_output)(jax.random.key(0), x)
        kernel = variables["params"]["Dense_0"]["kernel"]
        np.testing.assert_allclose(y, x @ kernel, rtol=1e-5)
        np.testing.assert_allclose(x_ct, kernel.sum(1), rtol=1e-5)
        np.testing.assert_allclose(slope, 2 * kernel @ (x @ kernel), rtol=1e-5)
        np.testing.assert_allclose(variables_ct["params"]["kernel"], np.tile(x[:, None], (1, 2)), rtol=1e-5)
    print("derivatives are right without each of", len(NAMES))
    """
)


@pytest.mark.long
def test_derivatives_without_each_private_name():
    run = subprocess.run([sys.executable, "-c", f"NAMES = {NAMES!r}\n{SCRIPT}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert str(len(NAMES)) in run.stdout


# --- each feature, switched off --------------------------------------------------------------------------------------


@pytest.fixture
def nothing_private(monkeypatch):
    """Hide all private names."""

    def hidden(module, name, default=_compat._MISSING):
        if default is _compat._MISSING:
            raise errors.JaxVersionError(f"{module}.{name}")
        return default

    monkeypatch.setattr(_compat, "_private", hidden)
    for cached in (_compat._state_of, _compat._refusals):
        cached.cache_clear()
    yield
    for cached in (_compat._state_of, _compat._refusals):
        cached.cache_clear()


def test_trace_state(nothing_private):
    assert _compat.trace_state() is None
    assert _compat.unknown(X, None) is None
    assert nn.Dense(2).init(jax.random.key(0), X)["params"]["kernel"].shape == (3, 2)


def test_traces(nothing_private):
    assert _compat.traces() == []
    assert not _compat.staging()
    assert not _compat.foreign(X)
    with _compat.barred([]):
        assert jnp.sum(X) == 3


def test_bound_axis_names(nothing_private):
    assert _compat.bound_axis_names() == ()


def test_refused_raises_at_once(nothing_private):
    with pytest.raises(KeyError, match="mine"):
        _compat.refused(X, KeyError("mine"))


def test_refused_raises_where_it_is_used():
    x = _compat.refused(X, KeyError("mine"))
    assert x.shape == X.shape
    with pytest.raises(KeyError, match="mine"):
        jnp.sin(x)


def test_features_that_need_private_names_say_so(nothing_private):
    with pytest.raises(errors.JaxVersionError):
        _compat.linear_in_first("p", run=lambda x, y: x, primal=None, transpose=lambda ct, y: ct, batch=lambda *a: a)
    with pytest.raises(errors.JaxVersionError):
        _compat.opaque_call("p", run=lambda called: called, batch=lambda called, dims: called)
    with pytest.raises(errors.JaxVersionError):
        _compat.maximum_dtype(jnp.float32)


def test_text_of_a_missing_name():
    with pytest.raises(errors.JaxVersionError, match=r"needs jax\._src\.core\.gone, .* supports jax 0\.10\.2 to"):
        _compat._private("jax._src.core", "gone")


def test_run_equation_without_bind_parameters():
    (eqn,) = jax.make_jaxpr(jnp.sin)(X).eqns

    class Old:
        def __getattr__(self, name):
            if name == "ctx":
                raise AttributeError(name)
            return getattr(eqn, name)

    for equation in (eqn, Old()):
        np.testing.assert_allclose(_compat.run_equation(equation, [X])[0], np.sin(X), rtol=1e-6)


def test_derivatives_of_plain_functions(nothing_private):
    y, pull = lx.vjp(jnp.sin, X)
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0], np.cos(X), rtol=1e-6)


# --- reading jaxprs --------------------------------------------------------------------------------------------------


def outs_that_depend(fun, *unknown):
    jaxpr = jax.make_jaxpr(fun)(*[X] * len(unknown)).jaxpr
    return jaxprs.depends(jaxpr, unknown)


def test_depends():
    assert outs_that_depend(lambda a, b: (a + 1, a * b, b), False, True) == [False, True, True]
    assert outs_that_depend(jax.jit(lambda a, b: (a + 1, b)), False, True) == [False, True]

    def looped(a, b):
        return jax.lax.scan(lambda c, x: ((c[0] + x, c[1] * 2), (c[1], c[0])), (b, a), a)

    (shifted, doubled), (kept, moved) = jax.tree.unflatten(
        jax.tree.structure(((0, 0), (0, 0))), outs_that_depend(looped, False, True)
    )
    assert (shifted, doubled, kept, moved) == (True, False, False, True)
    chosen = lambda a, b: jax.lax.cond(a[0] > 0, lambda a, b: (a, b), lambda a, b: (2 * a, a), a, b)
    assert outs_that_depend(chosen, False, True) == [False, True]
    assert outs_that_depend(chosen, True, False) == [True, True]


def test_partial_eval_runs_what_the_result_needs():
    def fun(known, unknown):
        return jax.jit(lambda a, b: (a * 2, jnp.linalg.inv(b)))(known, unknown)[0]

    out, depends = jaxprs.partial_eval(fun, X, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    assert not depends
    np.testing.assert_array_equal(out, 2 * X)
    out, depends = jaxprs.partial_eval(lambda a, b: a + b.sum(), X, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    assert out is None
    assert [d.shape for d in depends] == [(2, 2)]
