"""The width of a recurrent cell's carry, beside flax.linen: the carry that is given says it."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn

KEY = jax.random.key(0)
X = jnp.sin(jnp.arange(3 * 2.0)).reshape(3, 2)
XS = jnp.sin(jnp.arange(3 * 4 * 2.0)).reshape(3, 4, 2)
WIDE = jnp.cos(jnp.arange(3 * 5.0)).reshape(3, 5)
CELLS = ["SimpleCell", "GRUCell", "MGUCell", "LSTMCell", "OptimizedLSTMCell"]


def carry(name):
    return (WIDE, -WIDE) if "LSTM" in name else WIDE


def agree(ours, linens, *args, **kwargs):
    """Check that both have variables of the same shapes, and equal outputs up to rounding; return ours."""
    shapes = [jax.eval_shape(layer.init, KEY, *args, **kwargs) for layer in (ours, linens)]
    assert shapes[0] == shapes[1]
    variables = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size)).reshape(x.shape), shapes[0])
    outs = [jax.jit(layer.apply)(variables, *args, **kwargs) for layer in (ours, linens)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), *outs)
    return outs[0]


@pytest.mark.parametrize("name", CELLS)
def test_cell_is_as_wide_as_its_carry(name):
    _, y = agree(getattr(nn, name)(4), getattr(flax.linen, name)(4), carry(name), X)
    assert y.shape == (3, 5)


@pytest.mark.parametrize("name", ["SimpleCell", "LSTMCell", "OptimizedLSTMCell"])
def test_rnn_is_as_wide_as_its_initial_carry(name):
    layers = (lib.RNN(getattr(lib, name)(4)) for lib in (nn, flax.linen))
    assert agree(*layers, XS, initial_carry=carry(name)).shape == (3, 4, 5)


def test_state_of_a_convolution_may_be_of_another_width():
    c, h = jnp.ones((1, 4, 3)), jnp.ones((1, 4, 5))
    (_, y) = agree(nn.ConvLSTMCell(3, (3,)), flax.linen.ConvLSTMCell(3, (3,)), (c, h), jnp.ones((1, 4, 2)))
    assert y.shape == (1, 4, 3)


def test_parameters_of_another_width():
    cell = nn.GRUCell(4)
    variables = jax.tree.map(lambda x: jnp.ones(x.shape), jax.eval_shape(cell.init, KEY, WIDE[:, :4], X))
    with pytest.raises(errors.ScopeParamShapeError, match=r"at /ir has shape \(2, 4\).* expects \(2, 5\)"):
        cell.apply(variables, WIDE, X)
