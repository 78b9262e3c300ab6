"""Initializers of JAX run by way of kept traces: the values and programs of plain calls, and keys counted as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

from liftax import core, errors
from liftax.core import rngs
from liftax.core.initial import initialized

MAKERS = {
    "zeros": lambda: initializers.zeros,
    "ones": lambda: initializers.ones,
    "lecun_normal": initializers.lecun_normal,
    "he_uniform": initializers.he_uniform,
    "normal": lambda: initializers.normal(0.5),
    "other normal": lambda: initializers.normal(0.25),
    "constant": lambda: initializers.constant(3.0),
    "orthogonal": initializers.orthogonal,
}


def declared(init_fn, *args):
    """A parameter made by `core.init`, in which it is drawn with the first key."""
    return lambda key: core.init(lambda scope: scope.param("p", init_fn, *args))(key)[0]


def operations(fun, key):
    """The primitives of a trace, those inside of calls in the place of the calls: JAX may inline these late."""

    def inside(jaxpr):
        for eqn in jaxpr.eqns:
            calls = [v for v in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr) if is_jaxpr(v)]
            yield from (name for call in calls for name in inside(call)) if calls else [eqn.primitive.name]

    return list(inside(jax.make_jaxpr(fun)(key)))


def is_jaxpr(x):
    return hasattr(x, "eqns")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
@pytest.mark.parametrize("name", MAKERS)
def test_values_and_programs_are_those_of_a_plain_call(name, dtype):
    key, args = jax.random.key(3), ((4, 2), dtype)
    first = rngs.fold(key, 1)
    for _ in range(2):  # made anew, it is taken for the one before
        own = declared(MAKERS[name](), *args)
        np.testing.assert_array_equal(own(key), MAKERS[name]()(first, *args))
        assert own(key).dtype == dtype
        traced = operations(lambda key: initialized(MAKERS[name](), key, *args), key)
        assert traced == operations(lambda key: MAKERS[name]()(key, *args), key)


def test_the_sign_of_a_zero_counts():
    def traced(value):
        return jax.jit(declared(initializers.constant(value), (1,)))(jax.random.key(0))

    assert not np.signbit(traced(0.0))
    assert np.signbit(traced(-0.0))


def test_an_initializer_that_needs_no_key_is_counted_and_gets_none():
    def two(scope):
        scope.param("a", initializers.zeros, (2,))
        return scope.param("b", initializers.normal(), (2,))

    key = jax.random.key(0)
    expected = initializers.normal()(rngs.fold(key, 2), (2,))
    np.testing.assert_array_equal(core.init(two)(key)[0], expected)
    assert operations(lambda key: core.init(two)(key)[0], key).count("random_fold_in") == 1


def test_an_initializer_that_needs_no_key_asks_for_the_stream_all_the_same():
    with pytest.raises(errors.InvalidRngError, match="'params'"):
        core.init(lambda scope: scope.param("a", initializers.zeros, (2,)))({"dropout": jax.random.key(0)})


def test_what_a_user_wrote_is_called_each_time():
    calls = []

    def init_fn(key, shape):
        calls.append(key)
        return jnp.full(shape, float(len(calls)))

    run = jax.jit(lambda key: (declared(init_fn, (1,))(key), declared(init_fn, (1,))(key)))
    np.testing.assert_array_equal(run(jax.random.key(0)), [[1.0], [2.0]])


@pytest.mark.parametrize("shape", [[2, 3], (2, 3)])
def test_shapes_of_any_kind(shape):
    init_fn = initializers.normal()
    for run in (declared(init_fn, shape), jax.jit(declared(init_fn, shape))):
        assert run(jax.random.key(0)).shape == (2, 3)


def test_a_wrong_shape_is_the_error_of_the_initializer():
    with pytest.raises(ValueError, match="Can't compute input and output sizes"):
        jax.jit(declared(initializers.lecun_normal(), (3,)))(jax.random.key(0))


def test_a_traced_deviation_is_closed_over():
    def run(key, deviation):
        return declared(initializers.normal(deviation), (3,))(key)

    key = jax.random.key(0)
    np.testing.assert_array_equal(jax.jit(run)(key, 2.0), run(key, 2.0))
    np.testing.assert_array_equal(jax.jit(run)(key, 4.0), run(key, 4.0))


def test_keys_mapped_without_a_trace_give_the_values_of_keys_one_by_one():
    keys = jax.random.split(jax.random.key(0), 3)
    run = declared(initializers.lecun_normal(), (4, 2))
    np.testing.assert_array_equal(jax.vmap(run)(keys), jnp.stack([run(key) for key in keys]))
