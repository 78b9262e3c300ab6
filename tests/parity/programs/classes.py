"""Late binding, helpers, inheritance, and the fields of the dataclass."""

import dataclasses
from typing import Any, Generic, TypeVar

import jax.numpy as jnp

from ..table import program

T = TypeVar("T")


@program()
def late_bound(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.late = nn.Dense(3, parent=None)
            self.early = nn.Dense(3)

        def __call__(self, x):
            return self.late(self.early(x))

    return Net()


@program()
def unbound_in_compact(nn: Any) -> Any:
    class Wrap(nn.Module):
        inner: Any

        def __call__(self, x):
            return self.inner(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Wrap(nn.Dense(4, parent=None))(x)

    return Net()


@program()
def copied_in_compact(nn: Any) -> Any:
    class Net(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner.copy()(self.inner.copy(name="second")(x))

    return Net(nn.Dense(3))


@program()
def nowrap_helper(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.nowrap
        def layer(self, width):
            return nn.Dense(width)

        @nn.compact
        def __call__(self, x):
            return self.layer(2)(self.layer(4)(x))

    return Net()


@program()
def plain_helper(nn: Any) -> Any:
    class Net(nn.Module):
        def layer(self, width, x):
            return nn.Dense(width)(x)

        @nn.compact
        def __call__(self, x):
            return self.layer(2, self.layer(4, x))

    return Net()


@program()
def static_and_class_methods(nn: Any) -> Any:
    class Net(nn.Module):
        @staticmethod
        def twice(x):
            return 2 * x

        @classmethod
        def width(cls):
            return 3

        @property
        def depth(self):
            return 2

        @nn.compact
        def __call__(self, x):
            for _ in range(self.depth):
                x = nn.Dense(self.width())(self.twice(x))
            return x

    return Net()


@program()
def cached_property_in_setup(nn: Any) -> Any:
    class Net(nn.Module):
        width: int = 3

        def setup(self):
            self.dense = nn.Dense(self.double)

        @property
        def double(self):
            return 2 * self.width

        @property
        def kernel(self):
            return self.dense.variables["params"]["kernel"]

        def __call__(self, x):
            y = self.dense(x)
            return y, self.kernel

    return Net()


@program()
def super_call(nn: Any) -> Any:
    class Base(nn.Module):
        width: int = 3

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x)

    class Net(Base):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            x = super().__call__(x)
            return nn.Dense(3)(x)

    return Net()


@program()
def super_setup(nn: Any) -> Any:
    class Base(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)

        def __call__(self, x):
            return self.a(x)

    class Net(Base):
        def setup(self):
            super().setup()
            self.b = nn.Dense(3)

        def __call__(self, x):
            return self.b(super().__call__(x))

    return Net()


@program()
def inherited_fields(nn: Any) -> Any:
    class Base(nn.Module):
        width: int
        scale: float = 2.0

    class Net(Base):
        bias: bool = False

        @nn.compact
        def __call__(self, x):
            return self.scale * nn.Dense(self.width, use_bias=self.bias)(x)

    return Net(3, bias=True)


@program()
def kw_only_class(nn: Any) -> Any:
    class Base(nn.Module, kw_only=True):
        scale: float = 2.0

    class Net(Base):
        width: int

        @nn.compact
        def __call__(self, x):
            return self.scale * nn.Dense(self.width)(x)

    return Net(3, scale=1.5)


@program()
def default_factory(nn: Any) -> Any:
    class Net(nn.Module):
        widths: list = dataclasses.field(default_factory=lambda: [4, 2])
        make: Any = dataclasses.field(default_factory=lambda: nn.Dense(3))
        hidden: int = dataclasses.field(default=7, init=False)

        @nn.compact
        def __call__(self, x):
            for width in self.widths:
                x = nn.Dense(width)(x)
            return self.make(x) * self.hidden

    return Net()


@program()
def generic(nn: Any) -> Any:
    class Net(nn.Module, Generic[T]):
        inner: T

        def __call__(self, x):
            return self.inner(x)

    class Special(Net[Any]):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(super().__call__(x))

    return Special(nn.Dense(3))


@program()
def array_fields(nn: Any) -> Any:
    class Net(nn.Module):
        table: Any
        options: Any

        def __call__(self, x):
            return x @ self.table * self.options["scale"]

    return Net(jnp.eye(3), {"scale": 2.0, "names": ["a"]})


@program()
def post_init(nn: Any) -> Any:
    class Net(nn.Module):
        width: int = 2
        total: int = dataclasses.field(default=0, init=False)

        def __post_init__(self):
            self.total = self.width * 2
            super().__post_init__()

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.total)(x)

    return Net()


@program()
def post_init_makes_a_default_module(nn: Any) -> Any:
    class Net(nn.Module):
        inner: Any = None

        def __post_init__(self):
            if self.inner is None:
                self.inner = nn.Dense(3)
            super().__post_init__()

        def __call__(self, x):
            return self.inner(x)

    return Net()


@program()
def default_module_field(nn: Any) -> Any:
    class Net(nn.Module):
        inner: Any = nn.Dense(3)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.inner(x))

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Net()(x) + Net()(x)

    return Two()
