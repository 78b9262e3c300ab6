"""Corners of modules: fields, containers, late binding, sown, perturbed, boxed and frozen values."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import flax.core
import jax.numpy as jnp

from ..table import program
from .options import step


@program()
def dataclass_fields_by_keyword(nn: Any) -> Any:
    class Net(nn.Module):
        a: int = dataclasses.field(kw_only=True)
        b: int = 3
        c: Any = dataclasses.field(default_factory=list, repr=False, compare=False)
        _: dataclasses.KW_ONLY
        d: int = 4

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.a + self.b + self.d)(x)

    return Net(5, a=2, d=1)


@program()
def kw_only_in_the_middle(nn: Any) -> Any:
    class Base(nn.Module):
        a: int = 1

    class Mid(Base, kw_only=True):
        b: int
        c: float = 2.0

    class Net(Mid):
        d: Any = None

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.b)(x) * self.c

    return Net(b=3, c=4.0)


@program()
def class_variable(nn: Any) -> Any:
    from typing import ClassVar

    class Net(nn.Module):
        k: ClassVar[int] = 3
        w: int = 2

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.w + self.k)(x)

    return Net(1)


@program()
def generic_with_bound(nn: Any) -> Any:
    M = TypeVar("M", bound=nn.Module)

    class Net(nn.Module, Generic[M]):
        make: Callable[..., M]

        @nn.compact
        def __call__(self, x):
            return self.make(3)(x)

    class Sub(Net[Any]):
        k: int = 2

    return Sub(nn.Dense)


@program(method="twice")
def mixin_method(nn: Any) -> Any:
    class Mix:
        def twice(self, x):
            return self(self(x))

    class Net(Mix, nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    return Net()


@program()
def two_bases_with_setup(nn: Any) -> Any:
    class A(nn.Module):
        a: int = 3

        def setup(self):
            self.da = nn.Dense(self.a)

    class B(nn.Module):
        b: int = 3

        def setup(self):
            super().setup()
            self.db = nn.Dense(self.b)

    class C(B, A):
        c: int = 1

        def setup(self):
            super().setup()
            self.dc = nn.Dense(self.c)

        def __call__(self, x):
            return self.dc(self.db(self.da(x)))

    return C()


@program()
def made_in_a_while_loop(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            i = 0
            while x.shape[-1] > 1:
                x = nn.Dense(x.shape[-1] - 1)(x)
                i += 1
            return x

    return Net()


@program()
def nested_containers_in_setup(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.l = [{"a": nn.Dense(3), "b": (nn.Dense(3), [nn.Dense(3)])}, None, 3]
            self.t = nn.Dense(3), nn.Dense(3)
            self.d = {"x": {"y": {"z": nn.Dense(3)}}}
            self.e = []

        def __call__(self, x):
            for m in [self.l[0]["a"], self.l[0]["b"][0], self.l[0]["b"][1][0], *self.t, self.d["x"]["y"]["z"]]:
                x = m(x)
            return x

    return Net()


@program()
def integer_keys_in_setup(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.d = {1: nn.Dense(3), 2: nn.Dense(3)}

        def __call__(self, x):
            return self.d[2](self.d[1](x))

    return Net()


@program()
def one_module_twice_in_setup(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            d = nn.Dense(3)
            self.a = d
            self.b = [d, nn.Dense(3)]

        def __call__(self, x):
            return self.b[1](self.b[0](self.a(x)))

    return Net()


@program()
def clone_bound_by_parent(nn: Any) -> Any:
    class Net(nn.Module):
        base: nn.Module

        @nn.compact
        def __call__(self, x):
            c = self.base.clone(features=3, name="c", parent=self)
            return c(x), self.base(x)

    return Net(nn.Dense(4))


@program()
def partial_with_parent(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            f = functools.partial(nn.Dense, 3, parent=self, name="f")
            return f()(x)

    return Net()


@program()
def one_module_in_siblings(nn: Any) -> Any:
    class C(nn.Module):
        other: Any

        @nn.compact
        def __call__(self, x):
            return self.other(x) + nn.Dense(3)(x)

    class Net(nn.Module):
        def setup(self):
            self.d = nn.Dense(3)
            self.c = [C(self.d), C(self.d)]

        def __call__(self, x):
            return self.c[1](self.c[0](x))

    return Net()


@program(mutable=["c"])
def sow_init_and_reduce(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            a = self.sow("c", "a", x, init_fn=lambda: jnp.zeros_like(x), reduce_fn=lambda a, b: a + b)
            self.sow("c", "b", {"q": x}, reduce_fn=lambda a, b: b, init_fn=lambda: 0)
            self.sow("c", "t", 1)
            self.sow("c", "t", 2)
            return a

    return Net()


@program(mutable=["perturbations", "pp"])
def perturb_trees(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = self.perturb("h", {"a": nn.Dense(3)(x), "b": x})
            g = self.perturb("g", h["a"] * 2, collection="pp")
            return g.sum() + h["b"].sum()

    return Net()


@program(mutable=["perturbations"])
def perturb_in_a_module_called_twice(nn: Any) -> Any:
    class In(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.perturb("p", nn.Dense(3)(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            i = In()
            return i(i(x)).sum()

    return Net()


@program(capture_intermediates=True, mutable=["intermediates"], long=True)
def captured_in_transforms(nn: Any) -> Any:
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, c, _):
            return nn.Dense(3)(c), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x, _ = nn.scan(nn.remat(Cell), {"params": 0, "intermediates": 0}, split_rngs={"params": True}, length=2)()(
                x, None
            )
            return nn.jit(nn.Dense)(3)(x)

    return Net()


@program(long=True)
def boxes_stacked_twice(nn: Any) -> Any:
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, c, _):
            return nn.Dense(
                3, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out")), bias_init=lg_b(nn)
            )(c), None

    def lg_b(nn):
        return nn.with_logical_partitioning(nn.initializers.zeros, ("out",))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            Sc = nn.scan(
                nn.remat(Cell),
                {"params": 1},
                split_rngs={"params": True},
                length=2,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            V = nn.vmap(
                Sc,
                {"params": 0},
                {"params": True},
                in_axes=(None, None),
                axis_size=2,
                metadata_params={nn.PARTITION_NAME: "heads"},
            )
            return V()(x, None)[0]

    return Net()


@program(mutable=["s"])
def boxes_of_variables(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            v = self.variable("s", "v", nn.with_partitioning(lambda: jnp.ones(3), ("a",)))
            v.value = v.value * 2
            p = self.param("p", nn.with_partitioning(nn.initializers.ones, ("a",)), (3,))
            return v.value + p, self.get_variable("s", "v").names

    return Net()


@program(convert=flax.core.freeze, mutable=["s"])
def frozen_values_of_variables(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            t = self.variable("s", "t", lambda: flax.core.freeze({"a": jnp.ones(2)}))
            self.put_variable("s", "u", flax.core.freeze({"b": {"c": x}}))
            q = self.param("q", lambda k: flax.core.freeze({"w": jnp.ones(3)}))
            return t.value["a"], self.get_variable("s", "u")["b"]["c"], q["w"]

    return Net()


@program(convert=flax.core.freeze, long=True)
def frozen_options_of_transforms(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            V = nn.vmap(
                nn.Dense, variable_axes=flax.core.freeze({"params": 0}), split_rngs=flax.core.freeze({"params": True})
            )
            S = nn.scan(
                step(nn),
                variable_axes=flax.core.freeze({"params": 0}),
                split_rngs=flax.core.freeze({"params": True}),
                length=2,
            )
            return V(3)(x), S()(x, None)[0]

    return Net()


@program(convert=flax.core.freeze)
def frozen_arguments_of_transforms(nn: Any) -> Any:
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, d):
            return flax.core.freeze({"y": nn.Dense(2)(d["x"])})

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            a = nn.remat(Inner)()(flax.core.freeze({"x": x}))
            b = nn.jit(Inner)()(flax.core.freeze({"x": x}))
            i = Inner(name="k")
            i({"x": x})
            c = nn.cond(x.sum() > 0, lambda m, d: m(d), lambda m, d: m(d), i, flax.core.freeze({"x": x}))
            return a, b, c, type(a).__name__

    return Net()


@program()
def frozen_results(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return flax.core.freeze({"y": nn.Dense(2)(x)})

    return Net()
