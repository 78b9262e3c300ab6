"""A program written for Flax Linen. It writes what it computed to standard output, pickled."""

import functools
import pickle
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, struct, traverse_util
from flax.core import FrozenDict, freeze, meta
from flax.core.scope import Scope
from flax.errors import CursorFindError, FlaxError, ScopeParamNotFoundError
from flax.linen import initializers, partitioning
from flax.linen.attention import dot_product_attention_weights
from flax.training.train_state import TrainState


@struct.dataclass
class Batch:
    x: jax.Array


class Model(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, train=False):
        kernel = nn.with_partitioning(initializers.lecun_normal(), (None, "model"))
        x = nn.Dense(self.width, kernel_init=kernel)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(1)(nn.tanh(x)).sum()


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jax.value_and_grad(Model())(x)


def main():
    batch = Batch(jnp.linspace(-1.0, 1.0, 6).reshape(2, 3))
    variables = Model().init(jax.random.key(0), batch.x)
    flat = traverse_util.flatten_dict(meta.unbox(variables), sep="/")
    saved = serialization.to_bytes(freeze(variables))
    restored = serialization.from_bytes(freeze(jax.tree.map(jnp.zeros_like, variables)), saved)
    assert type(restored) is FrozenDict
    jax.tree.map(np.testing.assert_array_equal, restored.unfreeze(), variables)
    optimizer = types.SimpleNamespace(init=lambda params: (), update=None)
    state = TrainState.create(apply_fn=Model().apply, params=variables["params"], tx=optimizer)
    train = functools.partial(state.apply_fn, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])
    loss, stats = jax.jit(train)({**variables, "params": state.params}, batch.x)
    out, pull = Net().init_with_output(jax.random.key(0), batch.x)[0]
    found = ""
    try:
        Model().apply({"params": {}}, batch.x)
    except (FlaxError, ScopeParamNotFoundError) as error:
        found = type(error).__name__
    leaves = [*flat.values(), *jax.tree.leaves(stats), loss, out, pull]
    return {
        "module": Model.__mro__[1].__module__,
        "names": sorted(flat),
        "values": [np.asarray(x).tobytes().hex() for x in leaves],
        "error": found,
        "others": [issubclass(CursorFindError, FlaxError), Scope.__module__, partitioning.__name__],
        "argv": sys.argv[1:],
        "weights": dot_product_attention_weights.__module__,
    }


if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps(main()))
