"""init, apply, bind and lazy_init of functions of a scope."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import core, errors

normal = jax.nn.initializers.normal(1.0)


def dense(scope, x, features=2):
    kernel = scope.param("kernel", normal, (x.shape[-1], features))
    count = scope.variable("state", "count", lambda: 0)
    if scope.is_mutable_collection("state"):
        count.value += 1
    return x @ kernel


def test_init_then_apply():
    x = jnp.arange(3.0)
    y, variables = core.init(dense)(jax.random.key(0), x, features=4)
    assert variables["state"] == {"count": 1}
    again = core.apply(dense)(variables, x, features=4)
    assert (again == y).all()
    out, state = core.apply(dense, mutable=["state"])(variables, x, features=4)
    assert state == {"state": {"count": 2}}
    assert (out == y).all()


def test_mutable_decides_what_comes_back():
    variables = {"params": {"kernel": jnp.ones((3, 2))}, "state": {"count": 4}, "other": {"a": 1}}
    x = jnp.ones(3)
    assert set(core.apply(dense, mutable=True)(variables, x)[1]) == {"params", "state", "other"}
    assert core.apply(dense, mutable=core.DenyList("params"))(variables, x)[1] == {
        "state": {"count": 5},
        "other": {"a": 1},
    }
    assert core.apply(dense, mutable=[])(variables, x)[1] == {}


def test_init_of_some_collections():
    x = jnp.ones(3)
    fn = lambda scope, x: scope.param("w", normal, (3,)) * x
    assert set(core.init(fn, mutable="params")(jax.random.key(0), x)[1]) == {"params"}
    with pytest.raises(errors.ScopeCollectionNotFound, match="can't be created in this init"):
        core.init(fn, mutable="state")(jax.random.key(0), x)
    assert core.init(lambda scope: 3, mutable=False)(jax.random.key(0)) == (3, {})


def test_flags_reach_the_scope():
    fn = lambda scope: (scope.get_flag("initializing", False), scope.get_flag("mine"))
    assert core.init(fn, flags={"mine": 1})(jax.random.key(0))[0] == (True, 1)
    assert core.apply(fn, flags={"mine": 2})({}) == (False, 2)


def test_any_mapping_is_a_tree_of_variables():
    frozen = types.MappingProxyType({"w": np.ones(3)})
    fn = lambda scope: scope.param("w", normal, (3,)) * 2
    assert (core.apply(fn)(types.MappingProxyType({"params": frozen})) == 2).all()


@pytest.mark.parametrize("wrong", [3, None, [1], {3: {}}])
def test_variables_of_a_wrong_type(wrong):
    with pytest.raises(errors.ApplyScopeInvalidVariablesTypeError, match="Expected a mapping from collection names"):
        core.apply(dense)(wrong, jnp.ones(3))


def test_variables_wrapped_twice():
    with pytest.raises(errors.ApplyScopeInvalidVariablesStructureError, match="wrapped once too often"):
        core.apply(dense)({"params": {"params": {}}}, jnp.ones(3))


def test_init_without_a_key():
    with pytest.raises(errors.InvalidRngError, match="got rngs=None"):
        core.init(dense)(None, jnp.ones(3))


def test_lazy_init_makes_what_init_makes():
    key, struct = jax.random.key(0), jax.ShapeDtypeStruct((1024, 3), jnp.float32)
    lazy = core.lazy_init(dense)(key, struct, features=4)
    eager = core.init(dense)(key, jnp.ones((1024, 3)), features=4)[1]
    assert (lazy["params"]["kernel"] == eager["params"]["kernel"]).all()
    assert lazy["state"] == eager["state"]


def test_lazy_init_that_needs_a_value():
    fn = lambda scope, x, y: scope.param("w", lambda key: y * 2) * x
    with pytest.raises(errors.LazyInitError, match=r"depends on the value of an argument \(.*shape=\(3,\)"):
        core.lazy_init(fn)(jax.random.key(0), jax.ShapeDtypeStruct((1,), jnp.float32), jnp.ones(3))


def test_bind_step_by_step():
    variables = {"state": {"n": 1}}
    scope = core.bind(variables, mutable="state", rngs={"a": jax.random.key(0)}, owner="test")
    scope.put_variable("state", "n", 2)
    assert (scope.get_variable("state", "n"), variables["state"]["n"], scope.has_rng("a")) == (2, 1, True)
    with pytest.raises(errors.ModifyScopeVariableError, match="immutable in this test"):
        scope.put_variable("params", "n", 2)


def test_scope_ends_when_the_function_raises():
    kept = []

    def fn(scope):
        kept.append(scope)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        core.apply(fn)({})
    assert kept[0].invalid


def test_init_and_apply_under_transforms():
    x = jnp.ones((5, 3))
    variables = jax.jit(lambda k, x: core.init(dense)(k, x)[1])(jax.random.key(0), x)
    y = jax.vmap(core.apply(dense), (None, 0))(variables, x)
    assert jnp.allclose(y, core.apply(dense)(variables, x), rtol=1e-6)
    stacked = jax.vmap(lambda k: core.init(dense)(k, x)[1])(jax.random.split(jax.random.key(0), 4))
    assert stacked["params"]["kernel"].shape == (4, 3, 2)
