"""Transforms of a user's own, written with Linen's `pack` and `lift_transform`: the same programs on both libraries."""

import functools
from types import SimpleNamespace

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import random

from liftax import core, errors, lift, nn

LINEN = SimpleNamespace(nn=linen, lift=flax.core.lift, transforms=linen.transforms)
LIFTAX = SimpleNamespace(nn=nn, lift=lift, transforms=lift)


def rematerialized_with_static_arguments(lib):
    """Language models write their own remat, whose static arguments are held by a closure."""

    def remat(fn, static_argnums=()):
        def inner(scope_fn, repack_fn, variables, keys, *args):
            static = {i: x for i, x in enumerate(args) if i in static_argnums}

            @jax.checkpoint
            def pure(variables, keys, *arrays):
                rest = iter(arrays)
                scope = scope_fn(variables, keys)
                out = fn(scope, *(static[i] if i in static else next(rest) for i in range(len(args))))
                return out, repack_fn(scope)

            return pure(variables, keys, *(x for i, x in enumerate(args) if i not in static))

        return lib.lift.pack(inner, (True,), (True,), (True,), name="remat")

    class Block(lib.nn.Module):
        @lib.nn.compact
        def __call__(self, x, train):
            x = lib.nn.BatchNorm(use_running_average=not train)(lib.nn.Dense(3)(x))
            x = lib.nn.Dropout(0.5, deterministic=not train)(x)
            self.sow("intermediates", "h", x)
            return jnp.tanh(x)

    class Net(lib.nn.Module):
        @lib.nn.compact
        def __call__(self, x):
            layer = lib.transforms.lift_transform(remat, Block, static_argnums=(1,))
            return layer()(layer()(x, True), True)

    return Net()


def ensemble(lib):
    """Mixtures of experts stack copies of a layer, each with keys of its own."""

    def copies(fn, n):
        def inner(scope_fn, repack_fn, variables, keys, x):
            def one(variables, keys):
                scope = scope_fn(variables, keys)
                return fn(scope, x), repack_fn(scope)

            return jax.vmap(one)(variables, jax.tree.map(lambda key: random.split(key, n), keys))

        return lib.lift.pack(inner, (True,), (True,), (True,), name="copies")

    class Net(lib.nn.Module):
        @lib.nn.compact
        def __call__(self, x):
            inner = lib.nn.Dense(3)
            noisy = lib.transforms.lift_transform(copies, lambda m, x: m(x) + random.normal(m.make_rng("dropout")), n=2)
            stacked = lib.transforms.lift_transform(copies, lib.nn.Dense, 4)(2)(x)
            return stacked, noisy(inner, x), lib.nn.Dense(1)(x)

    return Net()


def gradient(lib):
    """Solvers take a function, the module and the arguments right away."""

    def with_gradient(fn, scope, x):
        def inner(scope_fn, repack_fn, variables, keys, x):
            params, rest = variables

            def loss(params, x):
                scope = scope_fn((params, rest), keys)
                return fn(scope, x), repack_fn(scope)

            (y, out), by_x = jax.value_and_grad(loss, argnums=1, has_aux=True)(params, x)
            return (y, by_x), out

        return lib.lift.pack(inner, ("params", True), ("params", True), (True,))(scope, x)

    class Net(lib.nn.Module):
        @lib.nn.compact
        def __call__(self, x):
            dense = lib.nn.Dense(1)
            return lib.transforms.lift_direct_transform(with_gradient, (lambda m, x: (m(x) ** 2).sum(),), dense, x)

    return Net()


def run_twice(lib):
    """Two runs of one call: keys go on from the first to the second. A module is handed in as an argument."""

    def twice(fn):
        def inner(scope_fn, repack_fn, variables, keys, *args):
            first = scope_fn(variables, keys)
            fn(first, *args)
            made = any(scope.is_mutable_collection("params") for scope in jax.tree.leaves(first))
            kept = repack_fn(first)
            second = scope_fn(kept if made else variables, keys)
            return fn(second, *args), repack_fn(second)

        return lib.lift.pack(inner, ("params", True), ("params", True), (True,), name="twice")

    class Net(lib.nn.Module):
        inner: object

        def setup(self):
            self.first = lib.nn.Dense(3)

        def __call__(self, x):
            def body(m, x, other):
                return m.inner(m.first(x)) + other(x) + random.normal(m.make_rng("dropout"))

            return lib.transforms.lift_transform(twice, body)(self, x, self.inner)

    return Net(lib.nn.Dense(3))


X = jnp.arange(6.0).reshape(2, 3) / 3
PROGRAMS = [
    pytest.param(rematerialized_with_static_arguments, marks=pytest.mark.long),
    pytest.param(ensemble, marks=pytest.mark.long),
    gradient,
    run_twice,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: getattr(p, "__name__", None))
def test_equal_to_linen(program):
    def results(lib):
        model = program(lib)

        @jax.jit
        def run(keys, x):
            variables = model.init(keys, x)

            def loss(params):
                out = model.apply(
                    {**variables, "params": params}, x, rngs=keys, mutable=["batch_stats", "intermediates"]
                )
                return sum(jnp.sum(x) for x in jax.tree.leaves(out[0])), out

            return variables, jax.grad(loss, has_aux=True)(variables["params"])

        return run({"params": random.key(0), "dropout": random.key(1)}, X)

    theirs, ours = results(LINEN), results(LIFTAX)
    assert jax.tree.structure(theirs) == jax.tree.structure(ours)
    jax.tree.map(np.testing.assert_array_equal, theirs, ours)


def test_lifted_transforms_take_scopes_of_modules():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            stacked = lift.lift_transform(
                lift.vmap, nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=2,
                in_axes=None,
            )  # fmt: skip
            direct = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=2,
                             in_axes=None)  # fmt: skip
            return stacked(3, name="a")(x), direct(3, name="b")(x)

    variables = Net().init(random.key(0), X)
    params = variables["params"]
    a, b = Net().apply({"params": {"a": params["b"], "b": params["b"]}}, X)
    np.testing.assert_array_equal(a, b)


def test_a_variable_made_inside_is_new_to_a_derivative_around_it():
    plain = functools.partial(lift.lift_transform, lambda fn: lambda scope, x: _once(fn)(scope, x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            body = plain(lambda mdl, x: (mdl.param("w", nn.initializers.ones, (3,)) * x).sum())
            return nn.grad(body, self, x, vjp_variables="params")[0]

    by_w, variables = Net().init_with_output(random.key(0), X)
    np.testing.assert_allclose(by_w["params"]["w"], X.sum(0))
    np.testing.assert_allclose(Net().apply(variables, X)["params"]["w"], X.sum(0))


def _once(fn):
    def inner(scope_fn, repack_fn, variables, keys, *args):
        scope = scope_fn(variables, keys)
        return fn(scope, *args), repack_fn(scope)

    return lift.pack(inner, (True,), (True,), (True,), name="once")


def test_automatic_names_go_on_after_the_call():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = lift.lift_transform(_once, lambda mdl, x: nn.Dense(3)(x))(self, x)
            return nn.Dense(1)(x)

    assert sorted(Net().init(random.key(0), X)["params"]) == ["Dense_0", "Dense_1"]


def test_out_of_reach_and_unwritten():
    def read_only(fn):
        def inner(scope_fn, repack_fn, variables, keys, *args):
            scope = scope_fn(variables, keys)
            return fn(scope, *args), repack_fn(scope)

        return lift.pack(inner, ("params", "state"), ("params",), (), name="read_only")

    def count(scope):
        scope.variable("state", "n", lambda: 0).value += 1

    with pytest.raises(errors.ModifyScopeVariableError, match="state"):
        core.apply(read_only(count), mutable=True)({"state": {"n": 1}})
    with pytest.raises(errors.InvalidRngError, match="noise"):
        core.apply(read_only(lambda scope: scope.make_rng("noise")))({}, rngs={"noise": random.key(0)})


def test_mistakes():
    dense = nn.Dense(1).bind({"params": {}})
    with pytest.raises(errors.TransformTargetError, match="lift_transform"):
        _once(lambda scope: 0)(dense)
    with pytest.raises(errors.TransformedMethodReturnValueError, match="pair"):
        core.apply(lift.pack(lambda *_: 0, (True,), (True,), (True,)))({})
    with pytest.raises(errors.TransformTargetError, match="tuple of functions"):
        lift.lift_direct_transform(lift.cond, lambda mdl: 0, dense)
    with pytest.raises(errors.TransformTargetError, match="no method 'nothing'"):
        lift.lift_transform(_once, nn.Dense, methods=["nothing"])

    class Pair(nn.Module):
        def setup(self):
            self.a, self.b = nn.Dense(1), nn.Dense(1)

        def __call__(self, x):
            return lift.lift_direct_transform(
                lift.cond, (lambda m, o, x: m(x), lambda m, o, x: o(x)), self.a, self.b, x, multi_scope=False
            )

    with pytest.raises(errors.TransformTargetError, match="multi_scope=True"):
        Pair().init(random.key(0), X)
