"""Methods other than `__call__`, and what they are called with."""

from typing import Any

import jax
import jax.numpy as jnp

from ..table import program


def auto_encoder(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.down = nn.Dense(2)
            self.up = nn.Dense(3)

        def encode(self, x):
            return self.down(x)

        def decode(self, z):
            return self.up(z)

        def __call__(self, x):
            return self.decode(self.encode(x))

    return Net()


program()(auto_encoder)


@program(method="encode")
def method_by_name(nn: Any) -> Any:
    return auto_encoder(nn)


@program(method=lambda m, x: m.decode(m.encode(x) * 2))
def method_as_function(nn: Any) -> Any:
    return auto_encoder(nn)


@program(method=lambda m, x: m.down(x))
def method_reads_setup_attribute(nn: Any) -> Any:
    return auto_encoder(nn)


@program(method="run")
def compact_method_that_is_not_call(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def run(self, x, *, scale=2.0):
            return nn.Dense(3)(x) * scale

    return Net()


@program()
def two_compact_methods(nn: Any) -> Any:
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

        @nn.compact
        def other(self, x):
            return nn.Dense(3)(nn.Dense(3)(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            two = Two()
            return two(x), two.other(x)

    return Net()


@program(scale=3.0)
def keyword_arguments(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, scale=2.0):
            return nn.Dense(3)(x) * scale

    return Net()


@program(nothing := None)
def no_argument(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, _):
            return self.param("w", nn.initializers.normal(1.0), (2, 2))

    return Net()


@program()
def module_passed_as_argument(nn: Any) -> Any:
    class Use(nn.Module):
        @nn.compact
        def __call__(self, x, other):
            return nn.Dense(3)(other(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Use()(x, nn.Dense(3))

    return Net()


@program()
def param_with_keyword_arguments(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("w", lambda key, shape, scale: scale * jax.random.normal(key, shape), (3,), scale=3.0)
            tree = self.param("t", lambda key: {"a": jax.random.normal(key, (3,)), "b": (jnp.ones(3),)})
            return x * w + tree["a"] + tree["b"][0]

    return Net()


@program()
def same_method_calls_itself(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, depth=2):
            x = nn.Dense(3)(x)
            return self(x, depth - 1) if depth else x

    return Net()
