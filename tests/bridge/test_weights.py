"""The values of a model as variables, and back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from liftax import bridge, errors

KEY, X = jax.random.key(0), jnp.ones(3)


def doubled(tree):
    return jax.tree.map(lambda x: 2 * x if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


def test_nnx_there_and_back():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    kernel = model.kernel[...]
    variables = bridge.variables(model)
    assert (variables["params"]["kernel"] == kernel).all()
    assert (bridge.load(model, doubled(variables)).kernel[...] == 2 * kernel).all()
    assert (model.kernel[...] == kernel).all()


def test_equinox_there_and_back():
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    variables = bridge.variables(model, state)
    assert set(variables) == {"params", "state"}
    new, new_state = bridge.load(model, doubled(variables), state)
    assert (new.weight == 2 * model.weight).all()
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    params = {"params": {"weight": jnp.zeros((1, 3)), "bias": jnp.ones(1)}}
    assert bridge.load(eqx.nn.Linear(3, 1, key=KEY), params)(X) == 1


def test_says_what_has_no_counterpart():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    with pytest.raises(errors.ForeignStateError, match=r"params/w; missing in the variables: .*params/kernel"):
        bridge.load(model, {"params": {"w": X, "bias": jnp.ones(2)}})
    with pytest.raises(errors.ForeignStateError, match=r"kernel has shape \(3,\).*\(3, 2\)"):
        bridge.load(model, {"params": {"kernel": X, "bias": jnp.ones(2)}})
    with pytest.raises(errors.ForeignModuleError, match="are trees already"):
        bridge.variables(linen.Dense(2))
