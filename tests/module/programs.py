"""Small programs over modules, written once for a namespace `nn`: that of liftax, or that of flax.linen.

`PROGRAMS` are modules to initialize and apply, `SCRIPTS` are whatever can be compared, `MISTAKES` raise.
"""

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)
KEYS = {"params": jax.random.key(1), "dropout": jax.random.key(2), "noise": jax.random.key(3)}
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Program:
    """A module, and how to run it.

    Attributes:
        build: nn -> module.
        args: arguments of the method.
        rngs: keys.
        options: keywords of `init` and `apply`: `method`, `capture_intermediates`, …
        mutable: that of `apply`.
        frozen: hand the variables to `apply` as Flax's FrozenDict.
    """

    build: Callable[[Any], Any]
    args: tuple[Any, ...] = (X,)
    rngs: Any = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    mutable: Any = False
    frozen: bool = False


PROGRAMS: dict[str, Program] = {}
SCRIPTS: dict[str, Callable[[Any], Any]] = {}
MISTAKES: dict[str, Callable[[Any], Any]] = {}


def program(*args: Any, rngs: Any = KEYS, mutable: Any = False, frozen: bool = False, **options: Any) -> Any:
    """Add a program to the table."""

    def add(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
        assert build.__name__ not in PROGRAMS
        PROGRAMS[build.__name__] = Program(build, args or (X,), rngs, options, mutable, frozen)
        return build

    return add


def script(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add a script to the table."""
    assert run.__name__ not in SCRIPTS
    SCRIPTS[run.__name__] = run
    return run


def mistake(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add a program that raises to the table."""
    assert run.__name__ not in MISTAKES
    MISTAKES[run.__name__] = run
    return run


# --- names -----------------------------------------------------------------------------------------------------------


@program()
def automatic_names(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4)(x)
            x = nn.Dropout(0.5, deterministic=True)(x)
            x = nn.Sequential([nn.Dense(4)])(x)
            return nn.Dense(2)(x)

    return Net()


@program()
def explicit_names(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="out")(nn.Dense(4, name="in")(x))

    return Net()


@program()
def explicit_and_automatic_names(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="first")(x)
            x = nn.Dense(4)(x)
            x = nn.Dense(4, name="mid")(x)
            return nn.Dense(2)(x)

    return Net()


@program()
def made_in_another_order_than_called(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            a, b = nn.Dense(3), nn.Dense(3)
            return a(b(x))

    return Net()


@program()
def made_in_a_loop(nn: Any) -> Any:
    class Net(nn.Module):
        widths: tuple = (4, 3, 2)

        @nn.compact
        def __call__(self, x):
            for i, width in enumerate(self.widths):
                x = nn.tanh(nn.Dense(width, name=f"layer{i}")(x))
            return x

    return Net()


@program()
def same_name_param_in_two_collections(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("w", nn.initializers.normal(1.0), (3,))
            s = self.variable("stats", "w", jnp.ones, (3,))
            return x * w + s.value

    return Net()


@program(mutable=["stats"])
def three_levels(nn: Any) -> Any:
    class Leaf(nn.Module):
        @nn.compact
        def __call__(self, x):
            n = self.variable("stats", "n", lambda: jnp.zeros(()))
            n.value += 1
            return x * self.param("s", nn.initializers.normal(1.0), (x.shape[-1],))

    class Mid(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Leaf()(nn.Dense(3)(Leaf()(x)))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Mid()(Mid(name="m")(x))

    return Net()


# --- setup -----------------------------------------------------------------------------------------------------------


@program()
def setup_only(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(4)
            self.b = nn.Dense(2)

        def __call__(self, x):
            return self.b(self.a(x))

    return Net()


@program()
def setup_with_compact(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(4)
            self.w = self.param("w", nn.initializers.normal(1.0), (4,))

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.a(x) * self.w)

    return Net()


@program()
def setup_lists(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.layers = [nn.Dense(4), nn.Dense(2)]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    return Net()


@program()
def setup_nested_containers(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.parts = {"b": [nn.Dense(3), (nn.Dense(3),)], "a": {"x": nn.Dense(3)}}

        def __call__(self, x):
            return self.parts["a"]["x"](self.parts["b"][1][0](self.parts["b"][0](x)))

    return Net()


@program()
def setup_with_explicit_name(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3, name="other")
            self.b = nn.Dense(3)

        def __call__(self, x):
            return self.b(self.a(x))

    return Net()


@program()
def setup_shares_an_attribute(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.b = self.a

        def __call__(self, x):
            return self.b(self.a(x))

    return Net()


@program()
def setup_unused_submodule(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.used = nn.Dense(3)
            self.unused = nn.Dense(5)

        def __call__(self, x):
            return self.used(x)

    return Net()


@program()
def setup_called_in_reverse_order(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.b = nn.Dense(3)
            self.a = nn.Dense(3)
            self.p = self.param("p", nn.initializers.normal(1.0), (3,))
            self.q = self.variable("state", "q", lambda: self.make_rng("noise"))

        def __call__(self, x):
            return self.b(self.a(x)) * self.p, jax.random.key_data(self.q.value)

    return Net()


@program()
def setup_uses_a_submodule(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.y = self.a(jnp.ones((1, 3)))

        def __call__(self, x):
            return self.a(x) + self.y

    return Net()


@program()
def setup_of_setup(nn: Any) -> Any:
    class Inner(nn.Module):
        def setup(self):
            self.d = nn.Dense(3)
            self.width = 3

        def __call__(self, x):
            return self.d(x)

    class Net(nn.Module):
        def setup(self):
            self.inner = Inner()
            self.k = self.inner.width

        def __call__(self, x):
            return self.inner(x) * self.k

    return Net()


@program()
def setup_variable_handles(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.n = self.variable("state", "n", jnp.zeros, (3,))
            self.list = [self.param(f"p{i}", nn.initializers.normal(1.0), (3,)) for i in range(2)]

        def __call__(self, x):
            return x * self.list[0] + self.list[1] + self.n.value

    return Net()


@program()
def setup_helper_method(nn: Any) -> Any:
    class Net(nn.Module):
        def make(self, width):
            return nn.Dense(width)

        def setup(self):
            self.a = self.make(4)
            self.b = [self.make(2)]

        def __call__(self, x):
            return self.b[0](self.a(x))

    return Net()


# --- modules as fields -----------------------------------------------------------------------------------------------


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


# --- late binding, helpers, inheritance ------------------------------------------------------------------------------


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


# --- methods ---------------------------------------------------------------------------------------------------------


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


# --- variables and rngs ----------------------------------------------------------------------------------------------


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


@program(mutable=["batch_stats", "state"], frozen=True)
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


# --- objects ---------------------------------------------------------------------------------------------------------


def _net(nn: Any) -> Any:
    class Net(nn.Module):
        width: int = 3
        inner: Any = None

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x if self.inner is None else self.inner(x))

    return Net


@script
def bind_and_use(nn: Any) -> Any:
    model = auto_encoder(nn)
    variables = model.init(KEYS["params"], X)
    bound = model.bind(variables)
    z = bound.encode(X)
    return z, bound.decode(z), bound.variables, bound.down.variables, bound.down(X)


@script
def bind_mutable(nn: Any) -> Any:
    model = counter(nn)
    variables = model.init(KEYS["params"], X)
    bound = model.bind(variables, mutable=["state", "batch_stats"])
    outs = bound(X), bound(X)
    return outs, bound.variables, variables


@script
def bind_with_rngs(nn: Any) -> Any:
    bound = draws(nn).bind({}, rngs=KEYS)
    return bound(X), bound(X)


@script
def unbind(nn: Any) -> Any:
    model = auto_encoder(nn)
    variables = model.init(KEYS["params"], X)
    down, own = model.bind(variables).down.unbind()
    return own, down.apply(own, X), down.name, down.features


@script
def clone_with_updates(nn: Any) -> Any:
    model = nn.Dense(3).clone(features=4, use_bias=False)
    return model.init(KEYS["params"], X), model.features, model.name, nn.Dense(3, name="x").clone().name


@script
def copy_outside(nn: Any) -> Any:
    model = nn.Dense(3, name="a")
    return model.copy().name, model.copy(name="b").name, model.copy(features=7).features


@script
def copies_by_python(nn: Any) -> Any:
    model = _net(nn)(2, nn.Dense(3))
    variables = model.init(KEYS["params"], X)
    return [m.apply(variables, X) for m in (copy.copy(model), copy.deepcopy(model), dataclasses.replace(model))]


@script
def pickled_layer(nn: Any) -> Any:
    before = nn.Sequential([nn.Dropout(0.5, name="d")], name="s")
    model = pickle.loads(pickle.dumps(before))
    return model == before, model.name, model.layers[0].rate, model.layers[0].name


@script
def cloudpickled(nn: Any) -> Any:
    import cloudpickle

    model = _net(nn)(2, nn.Dense(3))
    variables = model.init(KEYS["params"], X)
    return cloudpickle.loads(cloudpickle.dumps(model)).apply(variables, X)


@script
def equality_and_hash(nn: Any) -> Any:
    a, b, c = nn.Dense(3), nn.Dense(3), nn.Dense(4)
    named = nn.Dense(3, name="n")
    net = _net(nn)
    return [
        a == b, a == c, hash(a) == hash(b), a == named, len({a, b, c}), a != b, a == 3,
        net(2, nn.Dense(3)) == net(2, nn.Dense(3)), hash(net(2, nn.Dense(3))) == hash(net(2, nn.Dense(3))),
    ]  # fmt: skip


@script
def static_argument_of_jit(nn: Any) -> Any:
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, variables, x):
        traces.append(model.features)
        return model.apply(variables, x)

    variables = nn.Dense(3).init(KEYS["params"], X)
    return run(nn.Dense(3), variables, X), run(nn.Dense(3), variables, X), traces


@script
def repr_unbound(nn: Any) -> Any:
    return repr(nn.Dense(3)), repr(_net(nn)(2, nn.Dense(3, name="d"))), str(nn.Dropout(0.5))


@script
def repr_bound(nn: Any) -> Any:
    class Net(nn.Module):
        width: int

        def setup(self):
            self.dense = nn.Dense(self.width)

        def __call__(self, x):
            return self.dense(x)

    model = Net(3)
    bound = model.bind(model.init(KEYS["params"], X))
    bound(X)
    return repr(bound)


@script
def init_in_several_ways(nn: Any) -> Any:
    model = auto_encoder(nn)
    k = KEYS["params"]
    return (
        model.init(k, X), model.init({"params": k}, X), model.init({"params": k, "other": k}, X),
        model.init_with_output(k, X), model.init(k, X, method="encode"), model.init(k, X, method=model.encode),
        model.init(k, X, method=type(model).encode), model.init(k, X, mutable=["params"]),
        model.init(k, X, mutable=True), model.init(k, x=X),
    )  # fmt: skip


@script
def lazy_init(nn: Any) -> Any:
    struct = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    return auto_encoder(nn).lazy_init(KEYS["params"], struct), auto_encoder(nn).lazy_init(KEYS["params"], x=X)


@script
def init_under_jit(nn: Any) -> Any:
    return jax.jit(counter(nn).init)(KEYS, X), jax.eval_shape(counter(nn).init, KEYS, X)


@script
def apply_under_vmap(nn: Any) -> Any:
    variables = jax.vmap(lambda k: nn.Dense(3).init(k, X))(jax.random.split(jax.random.key(0), 2))
    return variables, jax.vmap(nn.Dense(3).apply, (0, None))(variables, X)


@script
def init_sows_on_request(nn: Any) -> Any:
    k = KEYS["params"]
    return (
        sow(nn).init(k, X), sow(nn).init(k, X, mutable=True), sow(nn).init(k, X, capture_intermediates=True),
        sow(nn).init_with_output(k, X, mutable=["params", "intermediates"]),
    )  # fmt: skip


@script
def mutable_deny_list(nn: Any) -> Any:
    model = counter(nn)
    variables = model.init(KEYS["params"], X)
    init = model.init(KEYS["params"], X, mutable=nn.DenyList(["absent"]))
    return init, model.apply(variables, X, mutable=nn.DenyList(["params"]))


@script
def perturb_gives_gradients_of_intermediates(nn: Any) -> Any:
    model = perturb(nn)
    variables = model.init(KEYS["params"], X)
    params, eps = {"params": variables["params"]}, {"perturbations": variables["perturbations"]}
    grads = jax.grad(lambda eps: (model.apply({**params, **eps}, X) ** 2).sum())(eps)
    return variables, grads, model.apply(params, X)


@script
def input_is_not_changed(nn: Any) -> Any:
    model = counter(nn)
    variables = model.init(KEYS["params"], X)
    before = copy.deepcopy(variables)
    model.apply(variables, X, mutable=True)
    return variables, before


@script
def apply_with_extra_and_foreign_variables(nn: Any) -> Any:
    variables = nn.Dense(3).init(KEYS["params"], X)
    more = {"params": {**variables["params"], "extra": {"w": np.ones(2)}}, "other": {"a": 1}}
    return nn.Dense(3).apply(more, X), nn.Dense(3).apply(more, X, mutable=True)


@script
def boxed_params(nn: Any) -> Any:
    import flax.linen

    boxed = lambda init: lambda *a: flax.linen.Partitioned(init(*a), ("in", "out"))
    model = nn.Dense(2, kernel_init=boxed(nn.initializers.lecun_normal()))
    variables = model.init(KEYS["params"], X)
    grads = jax.grad(lambda v: model.apply(v, X).sum())(variables)
    return variables, model.apply(variables, X), grads, variables["params"]["kernel"].names


@script
def param_without_unboxing(nn: Any) -> Any:
    import flax.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            make = lambda *a: flax.linen.Partitioned(jnp.ones(3), ("a",))
            p = self.param("p", make, unbox=False)
            v = self.variable("state", "v", make)
            w = self.variable("state", "w", make, unbox=False)
            v.value = v.value * 2
            return type(p).__name__, p.value, v.value, type(w.value).__name__

    (out, variables) = Net().init_with_output(KEYS["params"], X)
    return out, variables


@script
def merge_param(nn: Any) -> Any:
    return nn.merge_param("a", None, 1), nn.merge_param("a", False, None)


@script
def methods_of_an_unbound_module(nn: Any) -> Any:
    class Net(nn.Module):
        width: int = 3

        def double(self):
            return 2 * self.width

        @nn.nowrap
        def triple(self):
            return 3 * self.width

        @property
        def quadruple(self):
            return 4 * self.width

    return Net().double(), Net().triple(), Net().quadruple, Net(4).width


@script
def fields_of_a_module(nn: Any) -> Any:
    class Net(nn.Module):
        a: int
        b: Any = dataclasses.field(default_factory=dict)

    names = [f.name for f in dataclasses.fields(Net)]
    return names, Net.__name__, Net(1).__dict__["a"]


@script
def attributes_are_frozen_containers(nn: Any) -> Any:
    seen = []

    class Net(nn.Module):
        options: Any

        def setup(self):
            self.made = [1, {"b": [2]}]

        def __call__(self, x):
            seen.extend([type(self.options).__name__, type(self.options["l"]).__name__, type(self.made).__name__])
            return x + self.options["l"][0]

    model = Net({"l": [1, 2]})
    return model.apply({}, X), seen, type(model.options).__name__


@script
def named_tuple_field(nn: Any) -> Any:
    import collections

    pair = collections.namedtuple("pair", ["a", "b"])

    class Net(nn.Module):
        layers: Any

        def __call__(self, x):
            return self.layers.b(self.layers.a(x))

    return Net(pair(nn.Dense(3), nn.Dense(2))).init(KEYS["params"], X)


# --- interceptors, shared scopes, free functions ---------------------------------------------------------------------


@program()
def compact_name_scopes(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(5)(nn.Dense(4)(x))

        @nn.compact_name_scope
        def down(self, x):
            return nn.Dense(3)(x)

        def __call__(self, x):
            return self.down(self.up(x)) + self.down(self.up(x))

    return Net()


@program(method="up")
def compact_name_scope_as_method(nn: Any) -> Any:
    return PROGRAMS["compact_name_scopes"].build(nn)


@program()
def compact_name_scope_in_compact(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)

        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(3)(self.first(x))

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.up(nn.Dense(3)(x))), self.up(x)

    return Net()


@program()
def share_scope_with_a_field(nn: Any) -> Any:
    class Adapted(nn.Module):
        base: Any

        def setup(self):
            nn.share_scope(self, self.base)

        @nn.compact
        def __call__(self, x):
            a = self.param("A", nn.initializers.normal(1.0), (x.shape[-1], 2))
            return self.base(x) + (x @ a).sum()

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Adapted(nn.Dense(3))(Adapted(nn.Dense(3))(x))

    return Net()


@program()
def share_scope_with_a_child(nn: Any) -> Any:
    class Adapted(nn.Module):
        def setup(self):
            self.child = nn.Dense(3)
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            a = self.param("A", nn.initializers.normal(1.0), (x.shape[-1], 2))
            return self.child(x) + (x @ a).sum()

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Adapted()(x)

    return Net()


def recorder(log: list[Any]) -> Callable[..., Any]:
    """Return an interceptor that logs calls and doubles the outputs of Dense."""

    def interceptor(next_fun, args, kwargs, context):
        log.append((type(context.module).__name__, context.method_name, len(args), sorted(kwargs)))
        out = next_fun(*args, **kwargs)
        return out * 2 if type(context.module).__name__ == "Dense" and context.method_name == "__call__" else out

    return interceptor


@script
def interceptors(nn: Any) -> Any:
    log: list[Any] = []
    model = auto_encoder(nn)
    with nn.intercept_methods(recorder(log)):
        variables = model.init(KEYS["params"], X)
        y = model.apply(variables, X)
    return log, variables, y, model.apply(variables, X)


@script
def interceptors_in_order(nn: Any) -> Any:
    order: list[Any] = []

    def named(name, skip=False):
        def interceptor(next_fun, args, kwargs, context):
            order.append(name)
            return context.orig_method(*args, **kwargs) if skip else next_fun(*args, **kwargs)

        return interceptor

    model = nn.Dropout(0.5, deterministic=True)
    with nn.intercept_methods(named("a")), nn.intercept_methods(named("b")):
        model.apply({}, X)
    with nn.intercept_methods(named("c", skip=True)), nn.intercept_methods(named("d")):
        model.apply({}, X)
    return order


@script
def interceptors_of_unbound_modules_and_nowrap(nn: Any) -> Any:
    log: list[Any] = []

    class Net(nn.Module):
        def double(self, x):
            return 2 * x

        @nn.nowrap
        def triple(self, x):
            return 3 * x

    with nn.intercept_methods(recorder(log)):
        return Net().double(1), Net().triple(x=1), log


@script
def interceptors_inside_vjp_of_grad(nn: Any) -> Any:
    log: list[Any] = []

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(1)
            y, vjp_fn = nn.vjp(lambda m, x: m(x).sum(), dense, x)
            return y, vjp_fn(jnp.ones(()))

    model = Net()
    variables = model.init(KEYS["params"], X)
    with nn.intercept_methods(recorder(log)):
        return model.apply(variables, X), sorted({entry[0] for entry in log})


@script
def capture_everything(nn: Any) -> Any:
    model = auto_encoder(nn)
    variables = model.init(KEYS["params"], X)
    return model.apply(variables, X, mutable=["intermediates"], capture_intermediates=lambda m, n: n != "setup")


@script
def free_functions(nn: Any) -> Any:
    model = auto_encoder(nn)
    fn = lambda m, x, scale=1.0: m.decode(m.encode(x)) * scale
    variables = nn.init(fn, model)(KEYS["params"], X)
    out = nn.init_with_output(fn, model, mutable=["params"])(KEYS["params"], X, scale=2.0)
    captured = nn.apply(fn, model, capture_intermediates=True)(variables, X)
    return variables, out, captured, nn.apply(fn, model, mutable=["params"])(variables, X, scale=3.0)


# --- mistakes --------------------------------------------------------------------------------------------------------


def compact_net(nn: Any, body: Callable[..., Any], **kwargs: Any) -> Any:
    """Return a module whose compact `__call__(self, x)` is `body(self, x)`."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return body(self, x)

    return Net(**kwargs)


def setup_net(nn: Any, body: Callable[..., Any]) -> Any:
    """Return a module whose `setup` is `body`."""

    class Net(nn.Module):
        def setup(self):
            body(self)

        def __call__(self, x):
            return x

    return Net()


@mistake
def two_submodules_of_one_name(nn: Any) -> Any:
    compact_net(nn, lambda m, x: nn.Dense(3, name="a")(nn.Dense(3, name="a")(x))).init(KEYS, X)


@mistake
def param_named_like_a_submodule(nn: Any) -> Any:
    def body(m, x):
        m.param("a", nn.initializers.zeros, ())
        return nn.Dense(3, name="a")(x)

    compact_net(nn, body).init(KEYS, X)


@mistake
def two_params_of_one_name(nn: Any) -> Any:
    def body(m, x):
        return m.param("a", nn.initializers.zeros, ()) + m.param("a", nn.initializers.zeros, ())

    compact_net(nn, body).init(KEYS, X)


@mistake
def two_variables_of_one_name(nn: Any) -> Any:
    compact_net(nn, lambda m, x: [m.variable("s", "a", lambda: 0) for _ in range(2)]).init(KEYS, X)


@mistake
def submodule_named_like_a_param_of_setup(nn: Any) -> Any:
    def body(m):
        m.a = m.param("b", nn.initializers.zeros, ())
        m.b = nn.Dense(3)

    setup_net(nn, body).init(KEYS, X)


@mistake
def field_named_like_a_submodule(nn: Any) -> Any:
    class Net(nn.Module):
        a: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="a")(self.a(x))

    Net(nn.Dense(3)).init(KEYS, X)


@mistake
def compact_method_of_an_unbound_module(nn: Any) -> Any:
    nn.Dense(3)(X)


@mistake
def setup_method_of_an_unbound_module(nn: Any) -> Any:
    auto_encoder(nn)(X)


@mistake
def setup_called_by_hand(nn: Any) -> Any:
    setup_net(nn, lambda m: None).setup()


@mistake
def attribute_set_in_call(nn: Any) -> Any:
    def body(m, x):
        m.y = x

    compact_net(nn, body).init(KEYS, X)


@mistake
def attribute_set_on_a_bound_module(nn: Any) -> Any:
    nn.Dense(3).bind({}).features = 4


@mistake
def field_set_in_setup(nn: Any) -> Any:
    class Net(nn.Module):
        width: int = 3

        def setup(self):
            self.width = 4

        def __call__(self, x):
            return x

    Net().init(KEYS, X)


@mistake
def submodule_made_in_a_plain_method(nn: Any) -> Any:
    class Net(nn.Module):
        def __call__(self, x):
            return nn.Dense(3)(x)

    Net().init(KEYS, X)


@mistake
def param_made_in_a_plain_method(nn: Any) -> Any:
    class Net(nn.Module):
        def __call__(self, x):
            return self.param("w", nn.initializers.zeros, ())

    Net().init(KEYS, X)


@mistake
def parent_annotated(nn: Any) -> Any:
    class Net(nn.Module):
        parent: int

    Net()


@mistake
def name_annotated(nn: Any) -> Any:
    class Net(nn.Module):
        name: int

    Net()


@mistake
def init_on_the_class(nn: Any) -> Any:
    nn.Dense.init(KEYS, X)


@mistake
def apply_on_the_class(nn: Any) -> Any:
    nn.Dense.apply({}, X)


@mistake
def bind_on_the_class(nn: Any) -> Any:
    nn.Dense.bind({}, X)


@mistake
def post_init_without_super(nn: Any) -> Any:
    class Net(nn.Module):
        def __post_init__(self):
            pass

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    Net().init(KEYS, X)


@mistake
def params_missing(nn: Any) -> Any:
    nn.Dense(3).apply({}, X)


@mistake
def param_missing(nn: Any) -> Any:
    nn.Dense(3).apply({"params": {"bias": jnp.ones(3)}}, X)


@mistake
def param_of_another_shape(nn: Any) -> Any:
    nn.Dense(3).apply(nn.Dense(4).init(KEYS, X), X)


@mistake
def variable_missing(nn: Any) -> Any:
    model = counter(nn)
    variables = model.init(KEYS, X)
    model.apply({**variables, "state": {"m": 1}}, X)


@mistake
def collection_missing(nn: Any) -> Any:
    model = counter(nn)
    model.apply({"params": model.init(KEYS, X)["params"]}, X)


@mistake
def immutable_collection_written(nn: Any) -> Any:
    model = counter(nn)
    model.apply(model.init(KEYS, X), X)


@mistake
def params_wrapped_twice(nn: Any) -> Any:
    nn.Dense(3).apply({"params": nn.Dense(3).init(KEYS, X)}, X)


@mistake
def variables_of_a_wrong_type(nn: Any) -> Any:
    nn.Dense(3).apply([1, 2], X)


@mistake
def no_rng(nn: Any) -> Any:
    nn.Dropout(0.5).apply({}, X, deterministic=False)


@mistake
def rng_of_a_wrong_type(nn: Any) -> Any:
    nn.Dense(3).init({"params": "a key"}, X)


@mistake
def rngs_of_a_wrong_type(nn: Any) -> Any:
    nn.Dense(3).init(3.0, X)


@mistake
def no_params_rng(nn: Any) -> Any:
    nn.Dense(3).init({"dropout": KEYS["dropout"]}, X)


@mistake
def method_that_is_no_function(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, X, method=3)


@mistake
def method_without_arguments(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, method=lambda: 0)


@mistake
def method_that_does_not_exist(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, X, method="absent")


@mistake
def method_that_is_a_field(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, X, method="features")


@mistake
def attribute_of_setup_from_outside(nn: Any) -> Any:
    auto_encoder(nn).down  # noqa: B018


@mistake
def attribute_that_does_not_exist(nn: Any) -> Any:
    compact_net(nn, lambda m, x: m.absent).init(KEYS, X)


@mistake
def property_with_a_bug(nn: Any) -> Any:
    class Net(nn.Module):
        @property
        def width(self):
            return self.absent

        def __call__(self, x):
            return self.width

    Net().init(KEYS, X)


@mistake
def unbind_of_an_unbound_module(nn: Any) -> Any:
    nn.Dense(3).unbind()


@mistake
def variables_of_an_unbound_module(nn: Any) -> Any:
    nn.Dense(3).variables  # noqa: B018


@mistake
def param_of_an_unbound_module(nn: Any) -> Any:
    nn.Dense(3).param("w", nn.initializers.zeros, ())


@mistake
def hash_of_a_bound_module(nn: Any) -> Any:
    hash(nn.Dense(3).bind({}))


@mistake
def module_that_escaped(nn: Any) -> Any:
    module = compact_net(nn, lambda m, x: nn.Dense(3)).apply({}, X)
    module(X)


@mistake
def name_that_is_no_string(nn: Any) -> Any:
    compact_net(nn, lambda m, x: m.param(3, nn.initializers.zeros, ())).init(KEYS, X)


@mistake
def mutable_that_is_no_filter(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, X, mutable=3)


@mistake
def parent_that_is_no_module(nn: Any) -> Any:
    nn.Dense(3, parent=3)


@mistake
def argument_missing(nn: Any) -> Any:
    nn.Dense(3).init(KEYS)


@mistake
def merge_param_twice(nn: Any) -> Any:
    nn.merge_param("a", 1, 1)


@mistake
def merge_param_never(nn: Any) -> Any:
    nn.merge_param("a", None, None)


@mistake
def share_scope_of_unbound_modules(nn: Any) -> Any:
    nn.share_scope(nn.Dense(3), nn.Dense(3))


@mistake
def compact_name_scope_of_an_unbound_module(nn: Any) -> Any:
    PROGRAMS["compact_name_scopes"].build(nn).up(X)
