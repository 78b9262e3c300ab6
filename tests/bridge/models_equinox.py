"""The models of the table, in Equinox. They work on one example; `batched` runs them on a batch."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from tests.bridge.case import KEY, image, sequence, table, wrapped

from liftax import bridge, core


class MLP(eqx.Module):
    layers: list
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    act: Callable

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.layers = [eqx.nn.Linear(3, 4, key=a), eqx.nn.Linear(4, 2, key=b)]
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="ema")
        self.dropout, self.act = eqx.nn.Dropout(0.5), jnp.tanh

    def __call__(self, x, state, key):
        x, state = self.norm(self.layers[0](x), state)
        return self.layers[1](self.dropout(self.act(x), key=key)), state


class Residual(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.first = eqx.nn.Conv2d(2, 2, 3, padding=1, key=a)
        self.second = eqx.nn.Conv2d(2, 2, 3, padding=1, key=b)
        self.norm = eqx.nn.BatchNorm(2, "batch", mode="batch")

    def __call__(self, x, state):
        h, state = self.norm(self.first(x), state)
        return x + self.second(jnp.tanh(h)), state


class Transformer(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norms: tuple
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(2, 4, dropout_p=0.3, key=a)
        self.norms = eqx.nn.LayerNorm(4), eqx.nn.LayerNorm(4)
        self.up, self.down = eqx.nn.Linear(4, 8, key=b), eqx.nn.Linear(8, 4, key=c)

    def __call__(self, x, key):
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h, key=key)
        return x + jax.vmap(lambda y: self.down(jax.nn.gelu(self.up(self.norms[1](y)))))(x)


class LSTM(eqx.Module):
    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.cell, self.head = eqx.nn.LSTMCell(3, 3, key=a), eqx.nn.Linear(3, 2, key=b)

    def __call__(self, x):
        step = lambda carry, x: (self.cell(x, carry), None)
        return self.head(jax.lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), x)[0][0])


class Shared(eqx.Module):
    pair: eqx.nn.Shared

    def __init__(self, key):
        layers = eqx.nn.Linear(3, 3, key=key), eqx.nn.Linear(3, 3, key=key)
        self.pair = eqx.nn.Shared(layers, lambda p: p[1].weight, lambda p: p[0].weight)

    def __call__(self, x):
        first, second = self.pair()
        return second(jnp.tanh(first(x)))


class Counter(eqx.Module):
    linear: eqx.nn.Linear
    seen: eqx.nn.StateIndex

    def __init__(self, key):
        self.linear = eqx.nn.Linear(3, 2, key=key)
        self.seen = eqx.nn.StateIndex(jnp.zeros(3))

    def __call__(self, x, state):
        seen = state.get(self.seen) + jax.lax.psum(x, "batch")
        return jnp.tanh(self.linear(x) + seen.sum()), state.set(self.seen, seen)


def mapped(model, x):
    return jax.vmap(model)(x)


def mapped_with_key(model, x, key):
    return jax.vmap(model)(x, jax.random.split(key, len(x)))


def stateful(model, x, state, key=None):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


def stateful_with_key(model, x, state, key):
    axes = {"axis_name": "batch", "in_axes": (0, None, 0), "out_axes": (0, None)}
    return jax.vmap(model, **axes)(x, state, jax.random.split(key, len(x)))


def array(tree, path):
    for step in path:
        tree = tree[str(getattr(step, "name", getattr(step, "idx", None)))]
    return tree


def case(cls, x, batched, moved=(), streams=()):
    model, state = eqx.nn.make_with_state(cls)(jax.random.key(7))
    rngs = dict.fromkeys(streams, KEY)
    state_leaves, state_treedef = jax.tree.flatten(state)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(model)

    def own(variables, x, rngs=rngs):
        keys = {"key": core.rngs.fold(rngs["dropout"], 1)} if streams else {}  # the first draw of a root
        copy = treedef.unflatten([array(variables["params"], path) if eqx.is_array(x) else x for path, x in leaves])
        if not state_leaves:
            return batched(copy, x, **keys), {}
        given = state_treedef.unflatten(jax.tree.leaves(variables["state"]))
        out, after = batched(copy, x, state=given, **keys)
        return out, {"state": jax.tree.unflatten(jax.tree.structure(variables["state"]), jax.tree.leaves(after))}

    return wrapped(bridge.Equinox(model, jax.tree.map(lambda x: x, state), method=batched), x, own, moved, streams)


CASES = {
    "mlp": lambda: case(MLP, table(), stateful_with_key, ("state",), ("dropout",)),
    "residual": lambda: case(Residual, jnp.moveaxis(image(), -1, 1), stateful, ("state",)),
    "transformer": lambda: case(Transformer, sequence(4), mapped_with_key, (), ("dropout",)),
    "lstm": lambda: case(LSTM, sequence(3), mapped),
    "shared": lambda: case(Shared, table(), mapped),
    "own_state": lambda: case(Counter, table(), functools.partial(stateful), ("state",)),
}
