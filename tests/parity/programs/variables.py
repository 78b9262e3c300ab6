"""Collections, variables, rng streams, sown and captured values."""

from typing import Any

import flax.core
import jax
import jax.numpy as jnp

from ..table import program
from .names_and_setup import automatic_names


def running_mean(nn: Any) -> Any:
    class RunningMean(nn.Module):
        @nn.compact
        def __call__(self, x):
            mean = self.variable("batch_stats", "mean", jnp.zeros, (x.shape[-1],))
            if not self.is_initializing():
                mean.value = 0.5 * mean.value + x.sum(0)
            return (x - mean.value) * self.param("scale", nn.initializers.normal(1.0), (x.shape[-1],))

    return RunningMean


@program(mutable=["stats", "cache"])
def two_mutable_collections(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            a = self.variable("stats", "a", jnp.zeros, (3,))
            b = self.variable("cache", "b", lambda: jnp.ones((3,)))
            c = self.variable("constants", "c", lambda: jnp.full((3,), 2.0))
            if not self.is_initializing():
                a.value = a.value + x.mean(0)
            b.value = a.value * 2
            return x + a.value * c.value

    return Net()


def counter(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            n = self.variable("state", "n", lambda: 0)
            y = running_mean(nn)()(x)
            n.value = n.value + 1
            mutable = [self.is_mutable_collection(c) for c in ("params", "state", "batch_stats", "none")]
            return y, n.value, mutable, n.is_mutable()

    return Net()


program(mutable=True)(counter)


@program(mutable=["batch_stats", "state"])
def mutable_list(nn: Any) -> Any:
    return counter(nn)


@program(mutable=("batch_stats", "state", "absent"))
def mutable_tuple_with_unknown_name(nn: Any) -> Any:
    return counter(nn)


@program(rngs=jax.random.key(5), mutable=True)
def one_key(nn: Any) -> Any:
    return counter(nn)


@program(mutable=["batch_stats", "state"], convert=flax.core.freeze)
def variables_from_a_frozen_dict(nn: Any) -> Any:
    return counter(nn)


@program(rngs=jax.random.PRNGKey(5))
def raw_key(nn: Any) -> Any:
    return automatic_names(nn)


def draws(nn: Any) -> Any:
    class Leaf(nn.Module):
        @nn.compact
        def __call__(self):
            data = lambda *a: jax.random.key_data(self.make_rng(*a))
            return [data("dropout"), data("dropout"), data("noise"), data(), data("params")]

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            leaf = Leaf()
            first = leaf()
            has = [self.has_rng(n) for n in ("dropout", "params", "absent")]
            return first, leaf(), Leaf(name="x")(), jax.random.key_data(self.make_rng("noise")), has

    return Net()


program()(draws)


@program(rngs={"params": jax.random.key(9)})
def draws_fall_back_to_params(nn: Any) -> Any:
    return draws(nn)


@program(mutable=["state"])
def variables_by_hand(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            before = self.has_variable("state", "n"), self.get_variable("state", "n", -1)
            self.put_variable("state", "n", jnp.ones(2) if before[0] else jnp.zeros(2))
            self.put_variable("state", "tree", {"a": {"b": jnp.ones(2)}})
            return before, self.get_variable("state", "n"), self.get_variable("state", "tree")

    return Net()


@program()
def variables_property(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(3)
            y = dense(x)
            self.variable("state", "n", lambda: 1)
            return y, dense.variables, self.variables, dense.path, self.path, dense.name

    return Net()


@program()
def variable_without_init_fn(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            if self.is_initializing():
                self.put_variable("state", "n", jnp.ones(3))
            return x + self.variable("state", "n").value if not self.is_initializing() else x

    return Net()


@program(mutable=["intermediates"])
def sow(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            stored = self.sow("intermediates", "h", x)
            self.sow("intermediates", "h", x * 2)
            return x, stored

    return Net()


@program(mutable=["losses", "intermediates"])
def sow_with_reduction(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(3):
                self.sow("losses", "l", x.sum() + i, init_fn=lambda: 0.0, reduce_fn=lambda a, b: a + b)
            self.sow("intermediates", "last", x, init_fn=lambda: None, reduce_fn=lambda _, b: b)
            return x

    return Net()


@program()
def sow_without_mutable(nn: Any) -> Any:
    return sow(nn)


@program(mutable=["perturbations", "intermediates"])
def perturb(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            x = self.perturb("h", x)
            return self.perturb("g", x * 2, collection="intermediates")

    return Net()


def nested(nn: Any) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.tail(nn.Dense(3)(x)), x.sum()

        def tail(self, x):
            return nn.tanh(x)

    class Net(nn.Module):
        def setup(self):
            self.blocks = [Block(), Block()]

        def __call__(self, x):
            for block in self.blocks:
                x, _ = block(x)
            return x

    return Net()


@program(capture_intermediates=True, mutable=["intermediates"])
def captured(nn: Any) -> Any:
    return nested(nn)


@program(capture_intermediates=lambda m, name: name == "tail" or m.name == "blocks_1", mutable=["intermediates"])
def captured_by_filter(nn: Any) -> Any:
    return nested(nn)


@program(capture_intermediates=True)
def captured_without_mutable(nn: Any) -> Any:
    return nested(nn)


@program()
def nested_apply(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = nn.Dense(3, parent=None)
            variables = inner.init(jax.random.key(4), x)
            y, state = running_mean(nn)(parent=None).init_with_output(jax.random.key(4), x)
            return nn.Dense(2)(inner.apply(variables, x)) + y.sum(), state

    return Net()


@program()
def params_made_by_another_module(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = nn.Dense(3, parent=None)
            params = self.param("inner", lambda key: inner.init(key, x)["params"])
            return inner.apply({"params": params}, x)

    return Net()


@program()
def module_in_a_closure(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(3)
            f = lambda y: dense(y)
            f(x)
            return f(x) + jax.jit(f)(x) if not self.is_initializing() else f(x)

    return Net()


@program()
def module_without_call_used_through_methods(nn: Any) -> Any:
    class Two(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.b = nn.Dense(3)

        def first(self, x):
            return self.a(x)

        def second(self, x):
            return self.b(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            two = Two()
            return two.second(two.first(x))

    return Net()


@program()
def embed_and_attend(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.embed = nn.Embed(5, 3)

        def __call__(self, x):
            return self.embed.attend(self.embed(jnp.arange(2)) + x)

    return Net()


@program()
def dropout_in_loop(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            drop = nn.Dropout(0.5, deterministic=False)
            return [drop(x), drop(x), nn.Dropout(0.5)(x, deterministic=False)]

    return Net()
