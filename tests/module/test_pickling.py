"""Layers through pickle and deepcopy: equal, and with the same functions in their fields."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

init = nn.initializers
MODULES = [
    nn.Dense(3),
    nn.GRUCell(2),
    nn.MultiHeadDotProductAttention(1),
    nn.Sequential([nn.Dense(2), jnp.tanh, jax.nn.relu, nn.gelu]),
    nn.Dense(3, kernel_init=init.normal(0.1), bias_init=jax.nn.initializers.constant(2.0)),
    nn.Dense(3, kernel_init=init.orthogonal(2.0), bias_init=init.zeros_init()),
    nn.Dense(3, kernel_init=init.truncated_normal(0.1, lower=-1.0)),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_copies_are_equal(module):
    assert pickle.loads(pickle.dumps(module)) == module
    assert copy.deepcopy(module) == module
    assert copy.copy(module) == module


def test_initializer_with_an_array_is_made_again():
    again = pickle.loads(pickle.dumps(nn.Dense(2, bias_init=init.constant(np.array([1.0, 2.0])))))
    np.testing.assert_array_equal(again.init(jax.random.key(0), jnp.ones(1))["params"]["bias"], [1.0, 2.0])
