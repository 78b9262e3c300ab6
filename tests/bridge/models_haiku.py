"""The models of the table, in Haiku."""

import haiku as hk
import jax
import jax.numpy as jnp
from tests.bridge.case import KEY, image, sequence, table, wrapped

from liftax import bridge, core


def mlp(x):
    x = jnp.tanh(hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training=True))
    return hk.Linear(2)(hk.dropout(hk.next_rng_key(), 0.5, x))


def residual(x):
    h = jnp.tanh(hk.BatchNorm(True, True, 0.9)(hk.Conv2D(2, 3)(x), is_training=True))
    return x + hk.Conv2D(2, 3)(h)


def transformer(x):
    h = hk.LayerNorm(-1, True, True)(x)
    h = hk.MultiHeadAttention(2, 2, w_init=hk.initializers.VarianceScaling(1.0))(h, h, h)
    x = x + hk.dropout(hk.next_rng_key(), 0.3, h)
    return x + hk.Linear(4)(jax.nn.gelu(hk.Linear(8)(hk.LayerNorm(-1, True, True)(x))))


def lstm(x):
    cell = hk.LSTM(3)
    out, _ = hk.dynamic_unroll(cell, x, cell.initial_state(len(x)), time_major=False)
    return hk.Linear(2)(out[:, -1])


def shared(x):
    inner = hk.Linear(3)
    return inner(jnp.tanh(inner(x)))


class Counter(hk.Module):
    def __call__(self, x):
        seen = hk.get_state("seen", (3,), init=jnp.zeros) + x.sum(0)
        hk.set_state("seen", seen)
        return jnp.tanh(hk.Linear(2)(x) + seen.sum())


def case(fn, x, moved=(), streams=()):
    transformed = hk.transform_with_state(fn) if moved else hk.transform(fn)
    rngs = dict.fromkeys(streams, KEY)

    def own(variables, x, rngs=rngs):
        key = core.rngs.fold(rngs["dropout"], 1) if streams else None  # the first draw of a root
        if not moved:
            return transformed.apply(variables["params"], key, x), {}
        out, state = transformed.apply(variables["params"], variables["state"], key, x)
        return out, {"state": state}

    return wrapped(bridge.Haiku(transformed), x, own, moved, streams)


CASES = {
    "mlp": lambda: case(mlp, table(), ("state",), ("dropout",)),
    "residual": lambda: case(residual, image(), ("state",)),
    "transformer": lambda: case(transformer, sequence(4), (), ("dropout",)),
    "lstm": lambda: case(lstm, sequence(3)),
    "shared": lambda: case(shared, table()),
    "own_state": lambda: case(lambda x: Counter()(x), table(), ("state",)),
}
