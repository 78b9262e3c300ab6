"""Modules as fields, in containers, shared between modules, and called more than once."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ..table import program


@program()
def module_field(nn: Any) -> Any:
    class Net(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.inner(x))

    return Net(nn.Dense(4))


@program()
def module_field_with_name(nn: Any) -> Any:
    class Net(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    return Net(nn.Dense(4, name="mine"))


@program()
def module_field_unused(nn: Any) -> Any:
    class Net(nn.Module):
        inner: Any
        other: Any = None

        def __call__(self, x):
            return self.inner(x)

    return Net(nn.Dense(4), nn.Dense(3))


@program()
def list_field(nn: Any) -> Any:
    class Net(nn.Module):
        layers: Any

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    return Net([nn.Dense(4), nn.tanh, nn.Dense(2)])


@program()
def dict_field(nn: Any) -> Any:
    class Net(nn.Module):
        layers: Any

        def __call__(self, x):
            return self.layers["b"][0](self.layers["a"](x))

    return Net({"b": (nn.Dense(2),), "a": nn.Dense(4)})


@program()
def nested_field(nn: Any) -> Any:
    class Net(nn.Module):
        inner: Any = None

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            return x if self.inner is None else self.inner(x)

    return Net(Net(Net()))


@program()
def one_module_in_two_fields(nn: Any) -> Any:
    class Net(nn.Module):
        a: Any
        b: Any

        def __call__(self, x):
            return self.b(self.a(x))

    dense = nn.Dense(3)
    return Net(dense, dense)


@program()
def one_module_in_two_modules(nn: Any) -> Any:
    class Half(nn.Module):
        shared: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.shared(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = nn.Dense(3)
            return Half(shared)(Half(shared)(x))

    return Net()


@program()
def one_module_in_two_modules_from_outside(nn: Any) -> Any:
    class Half(nn.Module):
        shared: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.shared(x))

    class Net(nn.Module):
        a: Any
        b: Any

        def __call__(self, x):
            return self.b(self.a(x))

    shared = nn.Dense(3)
    return Net(Half(shared), Half(shared))


@program()
def shared_in_setup_and_passed_on(nn: Any) -> Any:
    class Half(nn.Module):
        shared: Any

        def setup(self):
            self.own = nn.Dense(3)

        def __call__(self, x):
            return self.own(self.shared(x))

    class Net(nn.Module):
        def setup(self):
            self.shared = nn.Dense(3)
            self.halves = [Half(self.shared), Half(self.shared)]

        def __call__(self, x):
            return self.halves[1](self.halves[0](x))

    return Net()


@program()
def passed_on_before_assigned(nn: Any) -> Any:
    class Half(nn.Module):
        shared: Any

        def __call__(self, x):
            return self.shared(x)

    class Net(nn.Module):
        def setup(self):
            shared = nn.Dense(3)
            self.half = Half(shared)
            self.other = Half(shared)

        def __call__(self, x):
            return self.other(self.half(x))

    return Net()


@program()
def sequential_in_compact(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])(x)

    return Net()


@program()
def sequential_in_setup(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.seq = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])

        def __call__(self, x):
            return self.seq(x)

    return Net()


@program()
def sequential_alone(nn: Any) -> Any:
    return nn.Sequential([nn.Dense(4), nn.relu, nn.Sequential([nn.Dense(2)])])


@program()
def sequential_of_attributes(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(4)
            self.b = nn.Dense(2)
            self.seq = nn.Sequential([self.a, self.b])

        def __call__(self, x):
            return self.seq(x)

    return Net()


@program()
def called_twice(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(3)
            return dense(dense(x))

    return Net()


@program()
def compact_submodule_called_twice(nn: Any) -> Any:
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Dense(3)(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = Inner()
            return inner(inner(x))

    return Net()


@program()
def made_by_a_field_function(nn: Any) -> Any:
    class Net(nn.Module):
        make: Callable[..., Any]

        @nn.compact
        def __call__(self, x):
            return self.make(3)(self.make(4)(x))

    return Net(functools.partial(nn.Dense, use_bias=False))


@program()
def class_as_field(nn: Any) -> Any:
    class Net(nn.Module):
        cls: Any
        act: Callable[..., Any]

        @nn.compact
        def __call__(self, x):
            return self.act(self.cls(2)(x))

    return Net(nn.Dense, jnp.sin)
