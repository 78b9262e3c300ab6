"""Modules of liftax inside models of Linen, NNX, Equinox and Haiku."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from liftax import bridge, errors, nn

KEY, X = jax.random.key(0), jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
RNGS = {"params": KEY, "dropout": jax.random.key(1)}


def block(lib):
    class Block(lib.Module):
        @lib.compact
        def __call__(self, x):
            x = lib.BatchNorm(use_running_average=False)(lib.Dense(3)(x))
            return lib.Dropout(0.5, deterministic=False)(x)

    return Block()


def twice(inner):
    class Twice(linen.Module):
        def setup(self):
            self.inner = inner()

        def __call__(self, x):
            return self.inner(self.inner(x))

    return Twice()


def close(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jnp.allclose(*pair, atol=1e-5) for pair in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_in_linen_it_is_as_the_same_layer_of_linen():
    """Initial values, moved state and dropout masks, called twice: state moves twice, and draws go on."""
    ours, theirs = twice(lambda: bridge.to_linen(block(nn))), twice(lambda: block(linen))
    variables = jax.jit(ours.init)(RNGS, X)
    assert close(variables, jax.jit(theirs.init)(RNGS, X))
    ours, theirs = (
        jax.jit(lambda v, m=m: m.apply(v, X, rngs=RNGS, mutable=["batch_stats"]))(variables) for m in (ours, theirs)
    )
    assert close(ours, theirs)
    assert bool((ours[0] == 0).any())  # dropped, by the same mask


def test_in_nnx():
    model = bridge.to_nnx(block(nn), rngs=nnx.Rngs(params=0, dropout=1)).lazy_init(X)
    before = model.BatchNorm_0["mean"][...]
    assert model(X, mutable=["batch_stats"]).shape == (4, 3)
    assert bool((model.BatchNorm_0["mean"][...] != before).any())
    assert isinstance(model.Dense_0["kernel"], nnx.Param)


def test_in_equinox_state_is_moved_and_only_parameters_are_trained():
    module = block(nn)
    variables = jax.jit(module.init)(RNGS, X)
    make = eqx.nn.make_with_state(bridge.to_equinox)
    model, state = make(module, variables, mutable="batch_stats")
    key = jax.random.key(3)
    out, moved = model(X, state, key=key)
    expected = module.apply(variables, X, rngs={"dropout": key}, mutable="batch_stats")
    assert close((out, jax.tree.leaves(moved)), (expected[0], jax.tree.leaves(expected[1])))
    trained = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    assert close(trained, jax.tree.leaves(variables["params"]))
    with pytest.raises(errors.ModifyScopeVariableError, match="batch_stats"):
        make(module, variables)[0](X, moved, key=key)
    with pytest.raises(errors.ForeignStateError, match="called without its state"):
        model(X, key=key)
    dense = nn.Dense(2)
    params = dense.init(KEY, X)
    chain = eqx.nn.Sequential([bridge.to_equinox(dense, params), eqx.nn.Lambda(jnp.tanh)])
    assert close(chain(X), jnp.tanh(dense.apply(params, X)))


def test_in_haiku_parameters_and_state_are_those_of_haiku():
    module = block(nn)
    net = hk.transform_with_state(lambda x: bridge.to_haiku(module, mutable="batch_stats")(x))
    params, state = net.init(KEY, X)
    assert set(params["block"]) == {
        "Dense_0/kernel", "Dense_0/bias", "BatchNorm_0/scale", "BatchNorm_0/bias",
    }  # fmt: skip
    assert set(state["block"]) == {"batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var"}
    out, moved = net.apply(params, state, KEY, X)
    assert out.shape == (4, 3)
    mean = moved["block"]["batch_stats/BatchNorm_0/mean"]
    hidden = X @ params["block"]["Dense_0/kernel"]
    assert close(mean, 0.01 * hidden.mean(0))  # a momentum of 0.99, from zero
    assert bool((net.apply(params, state, jax.random.key(9), X)[0] != out).any())


def test_a_layer_that_differentiates_itself_goes_out():
    class Slope(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.grad(lambda mdl, x: jnp.sum(jnp.tanh(mdl(x))), nn.Dense(2), x)[0]

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            return bridge.to_linen(Slope(), name="slope")(x)

    params = Model().init(KEY, X[0])["params"]
    expected = jax.grad(lambda x: jnp.tanh(nn.Dense(2).apply({"params": params["slope"]["Dense_0"]}, x)).sum())(X[0])
    assert close(Model().apply({"params": params}, X[0]), expected)


@pytest.mark.parametrize("name", ["to_linen", "to_nnx", "to_equinox", "to_haiku"])
def test_refuses_what_is_not_an_unbound_module(name):
    rest = ({},) if name == "to_equinox" else ()
    dense = nn.Dense(2)
    for wrong in (linen.Dense(2), nn.Dense, dense.bind(jax.eval_shape(dense.init, KEY, X))):
        with pytest.raises(errors.ForeignModuleError, match=rf"bridge\.{name} got .*expected an unbound"):
            getattr(bridge, name)(wrong, *rest)
