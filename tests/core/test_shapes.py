"""Shapes of initializers, remembered: never another function's, and without running in circles."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import core, errors
from liftax.core import shapes

SIZE = 3


def test_initializer_that_closes_over_itself():
    def init(key, n):
        return jnp.zeros(n) if n < 3 else jnp.concatenate([init(key, n - 1), jnp.zeros(1)])

    assert shapes.initialized_shapes(init, (4,), {}) == [(4,)]


def test_initializer_in_a_list_that_holds_itself():
    options = [2]
    options.append(options)

    def init(key):
        return jnp.zeros(options[0])

    assert shapes.initialized_shapes(init, (), {}) == [(2,)]
    options[0] = 5
    assert shapes.initialized_shapes(init, (), {}) == [(5,)]


def test_global_function_that_is_replaced():
    """A new function in the place of a global one counts, even if it takes the memory of the old one."""
    source = "def init(key):\n    return make()"
    code = compile(source, "<test>", "exec")
    for n in range(1, 12):
        namespace = {"make": eval(f"lambda: zeros({n})", {"zeros": jnp.zeros})}
        exec(code, namespace)
        assert shapes.initialized_shapes(namespace["init"], (), {}) == [(n,)]
        del namespace
        gc.collect()


@pytest.mark.parametrize("n", [2, 5])
def test_what_an_initializer_closes_over_counts(n: int):
    assert shapes.initialized_shapes(lambda key: jnp.zeros(n), (), {}) == [(n,)]
    assert shapes.initialized_shapes(lambda key, m=n: jnp.zeros(m), (), {}) == [(n,)]
    assert shapes.initialized_shapes(lambda key: jnp.zeros(SIZE + n), (), {}) == [(3 + n,)]


def test_remembered_evaluations_run_the_initializer_once(monkeypatch):
    runs = []
    evaluate = shapes._evaluate
    monkeypatch.setattr(shapes, "_evaluate", lambda *call: runs.append(1) or evaluate(*call))
    init = lambda key: _make(7)
    assert [shapes.initialized_shapes(init, (), {}) for _ in range(3)] == [[(7,)]] * 3
    assert len(runs) == 1


def _make(n):
    return jnp.zeros((n,), jnp.float32)


class Config:
    size = 3


def _size():
    return SIZE


def test_what_may_change_is_read_anew(monkeypatch):
    """Attributes of classes, and globals that a function reads which the initializer calls."""
    by_class, by_function = lambda key: jnp.zeros(Config.size), lambda key: jnp.zeros(_size())
    local = Config
    for init, moved in ((by_class, Config), (by_function, None), (lambda key: jnp.zeros(local.size), Config)):
        assert shapes.initialized_shapes(init, (), {}) == [(3,)]
        with monkeypatch.context() as patch:
            if moved:
                patch.setattr(moved, "size", 5)
            else:
                patch.setitem(globals(), "SIZE", 5)
            assert shapes.initialized_shapes(init, (), {}) == [(5,)]


def test_wrong_shape_is_seen_after_a_right_one():
    fn = lambda scope: scope.param("w", lambda key: jnp.zeros(SIZE))
    core.apply(fn)({"params": {"w": jnp.ones(3)}})
    with pytest.raises(errors.ScopeParamShapeError, match=r"shape \(4,\).*expects \(3,\)"):
        core.apply(fn)({"params": {"w": jnp.ones(4)}})
    assert core.init(fn)(jax.random.key(0))[1]["params"]["w"].shape == (3,)


@pytest.mark.parametrize(
    ("start", "given"),
    [
        (lambda key, x: jnp.asarray(x), jnp.arange(4.0)),
        (lambda key, x: jnp.asarray(x), np.arange(4.0, dtype=np.float32)),
        (lambda key, x: x[0], (jnp.arange(4.0),)),
        (lambda key, x: jax.random.uniform(x, (4,)), jax.random.key(0)),
    ],
    ids=["jax", "numpy", "tuple", "key"],
)
def test_array_given_to_an_initializer_is_no_shape(start, given):
    fn = lambda scope, x: scope.param("w", start, x)
    made, variables = core.init(fn)(jax.random.key(0), given)
    for apply in (core.apply(fn), jax.jit(core.apply(fn))):
        np.testing.assert_array_equal(apply(variables, given), made)
    with pytest.raises(errors.ScopeParamShapeError, match=r"shape \(2,\).*expects \(4,\)"):
        core.apply(fn)({"params": {"w": jnp.ones(2)}}, given)


def test_array_as_the_shape():
    fn = lambda scope: scope.param("w", jax.nn.initializers.ones, np.array([2, 3]))
    made, variables = core.init(fn)(jax.random.key(0))
    np.testing.assert_array_equal(core.apply(fn)(variables), made)
