"""The models of the table, in Flax NNX."""

import jax.numpy as jnp
from flax import nnx
from tests.bridge.case import image, sequence, table, wrapped

from liftax import bridge


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(nnx.tanh(self.norm(self.layers[0](x)))))


class Residual(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = (nnx.Conv(2, 2, (3, 3), rngs=rngs) for _ in range(2))
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x):
        return x + self.second(nnx.tanh(self.norm(self.first(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 4, dropout_rate=0.3, deterministic=False, decode=False, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs)])
        self.up, self.down = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class LSTM(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 3, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


class Shared(nnx.Module):
    def __init__(self, rngs):
        self.first = self.second = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.tanh(self.first(x)))


class Seen(nnx.Variable):
    pass


class Counter(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 2, rngs=rngs)
        self.seen = Seen(jnp.zeros(3))

    def __call__(self, x):
        self.seen[...] = self.seen[...] + x.sum(0)
        return nnx.tanh(self.linear(x) + self.seen[...].sum())


NAMES = {
    nnx.Param: "params",
    nnx.BatchStat: "batch_stats",
    nnx.RngKey: "RngKey",
    nnx.RngCount: "RngCount",
    Seen: "Seen",
}


def case(make, x, moved=()):
    model = make(nnx.Rngs(0))
    graphdef, state = nnx.split(model)

    def own(variables, x, rngs=None):
        flat = []
        for path, leaf in nnx.to_flat_state(state):
            value = variables[NAMES[type(leaf)]]
            for name in path:
                value = value[str(name)]
            flat.append((path, leaf.replace(value)))
        copy = nnx.merge(graphdef, nnx.from_flat_state(flat))
        out = copy(x)
        after: dict = {col: {} for col in moved}
        for path, leaf in nnx.to_flat_state(nnx.state(copy)):
            if NAMES[type(leaf)] in moved:
                tree = after[NAMES[type(leaf)]]
                for name in path[:-1]:
                    tree = tree.setdefault(str(name), {})
                tree[str(path[-1])] = leaf.get_value()
        return out, after

    return wrapped(bridge.NNX(model), x, own, moved)


CASES = {
    "mlp": lambda: case(MLP, table(), ("batch_stats", "RngCount")),
    "residual": lambda: case(Residual, image(), ("batch_stats",)),
    "transformer": lambda: case(Transformer, sequence(4), ("RngCount",)),
    "lstm": lambda: case(LSTM, sequence(3), ("RngCount",)),
    "shared": lambda: case(Shared, table()),
    "own_state": lambda: case(Counter, table(), ("Seen",)),
}
