"""The models of the table, in Flax Linen."""

import jax.numpy as jnp
from flax import linen as nn
from tests.bridge.case import KEY, image, sequence, table, wrapped

from liftax import bridge


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(nn.tanh(x)))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.BatchNorm(use_running_average=False)(nn.Conv(2, (3, 3))(x)))
        return x + nn.Conv(2, (3, 3))(h)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(2, dropout_rate=0.3, deterministic=False)(nn.LayerNorm()(x))
        return x + nn.Dense(4)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))


class LSTM(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(nn.OptimizedLSTMCell(3))(x)[:, -1])


class Shared(nn.Module):
    def setup(self):
        self.inner = nn.Dense(3)

    def __call__(self, x):
        return self.inner(nn.tanh(self.inner(x)))


class Counter(nn.Module):
    """State of its own kind: how often it ran, and the sum of what it saw."""

    @nn.compact
    def __call__(self, x):
        seen = self.variable("history", "seen", lambda: jnp.zeros(3))
        if not self.is_initializing():
            seen.value = seen.value + x.sum(0)
        return nn.tanh(nn.Dense(2)(x) + seen.value.sum())


def case(module, x, moved=(), streams=()):
    rngs = dict.fromkeys(streams, KEY)

    def own(variables, x, rngs=rngs):
        return module.apply(variables, x, rngs=rngs, mutable=list(moved))

    return wrapped(bridge.Linen(module), x, own, moved, streams)


CASES = {
    "mlp": lambda: case(MLP(), table(), ("batch_stats",), ("dropout",)),
    "residual": lambda: case(Residual(), image(), ("batch_stats",)),
    "transformer": lambda: case(Transformer(), sequence(4), (), ("dropout",)),
    "lstm": lambda: case(LSTM(), sequence(3)),
    "shared": lambda: case(Shared(), table()),
    "own_state": lambda: case(Counter(), table(), ("history",)),
}
