"""`remat`, `vmap`, `scan` and `jit` of modules."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..blocks import ALL, SAME, SPLIT, block, cell, top, transformed
from ..table import Rounding


@transformed()
def remat_class(nn: Any) -> Any:
    return top(nn, lambda self, x: nn.remat(block(nn))()(nn.remat(block(nn))()(x)))


@transformed()
def remat_static_policy(nn: Any) -> Any:
    class Branching(nn.Module):
        @nn.compact
        def __call__(self, x, double):
            return nn.Dense(4)(x) * (2 if double else 1)

    Remat = nn.remat(Branching, static_argnums=(2,), policy=jax.checkpoint_policies.everything_saveable)
    return top(nn, lambda self, x: Remat()(Remat(name="named")(x, False), True))


@transformed()
def remat_function(nn: Any) -> Any:
    def body(self, x):
        mdl = block(nn)()
        return nn.remat(lambda mdl, x: mdl(x) + mdl(x))(mdl, x)

    return top(nn, body)


@transformed()
def remat_decorator(nn: Any) -> Any:
    class Decorated(nn.Module):
        @nn.remat
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4)(x)
            return nn.Dense(4)(x) + jax.random.normal(self.make_rng("noise"), ())

    return top(nn, lambda self, x: Decorated()(Decorated()(x)))


@transformed()
def remat_methods(nn: Any) -> Any:
    return top(nn, lambda self, x: nn.remat(block(nn), methods=["__call__", "helper"])().helper(x))


@transformed(long=True)
def remat_methods_options(nn: Any) -> Any:
    methods = {"__call__": {"prevent_cse": False}, "helper": {"rngs": True}}
    return top(nn, lambda self, x: nn.remat(block(nn), methods=methods)().helper(x))


@transformed()
def remat_partial(nn: Any) -> Any:
    return top(nn, lambda self, x: nn.remat(functools.partial(block(nn), 4))()(x))


@transformed()
def remat_setup(nn: Any) -> Any:
    class WithSetup(nn.Module):
        def setup(self):
            self.w = self.param("w", nn.initializers.normal(), (4,))
            self.layer = nn.Dense(4)

        def __call__(self, x):
            return self.layer(x) * self.w

    return top(nn, lambda self, x: nn.remat(WithSetup)()(x))


@transformed()
def remat_shared(nn: Any) -> Any:
    def body(self, x):
        shared = nn.Dense(4)
        return nn.remat(block(nn))(4, shared)(x) + nn.remat(block(nn))(4, shared)(x) + shared(x)

    return top(nn, body)


@transformed()
def remat_module_argument(nn: Any) -> Any:
    class Uses(nn.Module):
        @nn.compact
        def __call__(self, x, other):
            return nn.Dense(4)(other(x))

    return top(nn, lambda self, x: nn.remat(Uses)()(x, nn.Dense(4, name="other")))


@transformed()
def vmap_split(nn: Any) -> Any:
    return top(nn, lambda self, x: nn.vmap(block(nn), variable_axes=ALL, split_rngs=SPLIT)()(x))


@transformed()
def vmap_axes(nn: Any) -> Any:
    axes = {"params": 1, "state": 0, "intermediates": -1}
    Mapped = nn.vmap(block(nn), variable_axes=axes, split_rngs=SPLIT, in_axes=1, out_axes=-1)
    return top(nn, lambda self, x: Mapped()(x))


@transformed(long=True)
def vmap_shared_parameters(nn: Any) -> Any:
    axes = {"params": None, "state": 0, "intermediates": 0}
    rngs = {"params": False, "dropout": True, "noise": False}
    return top(nn, lambda self, x: nn.vmap(block(nn), variable_axes=axes, split_rngs=rngs)()(x))


@transformed()
def vmap_axis_size(nn: Any) -> Any:
    Mapped = nn.vmap(nn.Dense, {"params": 0}, {"params": True}, in_axes=None, out_axes=0, axis_size=5)
    return top(nn, lambda self, x: Mapped(features=2)(x))


@transformed(
    rounding=(
        Rounding(
            ("apply", "grads/out", "grads/x", "scale", "kernel"),
            "Linen averages the stacked moments over the axis, liftax each moment: XLA adds in another order",
            ulps=500,
        ),
        Rounding(
            ("Dense_0/bias",), "the exact gradient is zero, as batch norm subtracts the bias: rounding alone", 1e4
        ),
    )
)
def vmap_axis_name(nn: Any) -> Any:
    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False, axis_name="batch")(nn.Dense(4)(x))

    axes = {"params": None, "batch_stats": None}
    Mapped = nn.vmap(Normalized, axes, {"params": False}, axis_name="batch")
    return top(nn, lambda self, x: Mapped()(x))


@transformed()
def vmap_function_two_arguments(nn: Any) -> Any:
    def body(self, x):
        mapped = nn.vmap(lambda mdl, x, y: mdl(x, y), ALL, SPLIT, in_axes=(0, None))
        return mapped(block(nn)(), x, jnp.arange(4.0))

    return top(nn, body)


@transformed(long=True)
def vmap_of_remat_of_vmap(nn: Any) -> Any:
    inner = nn.remat(nn.vmap(block(nn), variable_axes=ALL, split_rngs=SPLIT))
    Nested = nn.vmap(inner, variable_axes=ALL, split_rngs=SPLIT, in_axes=None, axis_size=2)
    return top(nn, lambda self, x: Nested()(x))


@transformed()
def scan_layers(nn: Any) -> Any:
    Scanned = nn.scan(cell(nn), variable_axes=ALL, split_rngs=SPLIT, length=3)
    return top(nn, lambda self, x: Scanned()(x, None))


@transformed(long=True)
def scan_axes_reversed(nn: Any) -> Any:
    axes = {"params": 1, "state": 0, "intermediates": 1}
    Scanned = nn.scan(cell(nn), axes, split_rngs=SPLIT, in_axes=1, out_axes=1, reverse=True, unroll=2)
    return top(nn, lambda self, x: Scanned()(x, jnp.arange(9.0).reshape(3, 3, 1)))


@transformed()
def scan_shared_parameters(nn: Any) -> Any:
    Scanned = nn.scan(
        cell(nn), {"state": 0, "intermediates": 0}, variable_broadcast="params",
        split_rngs={"params": False, "dropout": True, "noise": True},
    )  # fmt: skip
    return top(nn, lambda self, x: Scanned()(x[0], x))


@transformed(long=True)
def scan_twice_then_draw(nn: Any) -> Any:
    Scanned = nn.scan(
        cell(nn), {"state": 0, "intermediates": 0}, variable_broadcast="params", split_rngs=SAME, length=2
    )

    def body(self, x):
        scanned = Scanned()
        return scanned(scanned(x, None)[0], None)

    return top(nn, body)


@transformed()
def scan_carried_state(nn: Any) -> Any:
    class Counts(nn.Module):
        @nn.compact
        def __call__(self, c, x):
            n = self.variable("state", "n", lambda: jnp.zeros(()))
            n.value = n.value + x.sum()
            return nn.Dense(4)(c) * n.value, n.value

    def body(self, x):
        mdl = Counts()
        if self.is_initializing():
            return mdl(x[0], x[0])
        return nn.scan(lambda mdl, c, x: mdl(c, x), variable_broadcast="params", variable_carry="state")(mdl, x[0], x)

    return top(nn, body)


@transformed()
def scan_broadcast(nn: Any) -> Any:
    def body(self, x):
        step = lambda mdl, c, x, y: (mdl(c) + y, (x, y * 2))
        return nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=(0, nn.broadcast),
            out_axes=(0, nn.broadcast),
        )(nn.Dense(4), x[0], x, x[1])  # fmt: skip

    return top(nn, body)


@transformed(long=True)
def scan_of_remat(nn: Any) -> Any:
    Scanned = nn.scan(nn.remat(cell(nn)), variable_axes=ALL, split_rngs=SPLIT, length=2)
    return top(nn, lambda self, x: Scanned()(x, None))


@transformed(long=True)
def scan_unchecked(nn: Any) -> Any:
    Scanned = nn.scan(cell(nn), ALL, split_rngs=SPLIT, length=2, check_constancy_invariants=False)
    return top(nn, lambda self, x: Scanned()(x, None))


@transformed(long=True)
def remat_scan_class(nn: Any) -> Any:
    return top(nn, lambda self, x: nn.remat_scan(block(nn), lengths=(2, 3))()(x))


@transformed()
def jit_class(nn: Any) -> Any:
    Jitted = nn.jit(block(nn))

    def body(self, x):
        twice = Jitted()
        return Jitted()(twice(twice(x)))

    return top(nn, body)


@transformed()
def jit_decorator(nn: Any) -> Any:
    class Decorated(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x) + jax.random.normal(self.make_rng("noise"), ())

    return top(nn, lambda self, x: Decorated()(Decorated()(x)))


@transformed(long=True)
def jit_shared(nn: Any) -> Any:
    def body(self, x):
        shared = block(nn)()
        return nn.jit(block(nn))(4, shared)(x) + shared(x)

    return top(nn, body)


@transformed()
def jit_static(nn: Any) -> Any:
    class Branching(nn.Module):
        @nn.compact
        def __call__(self, x, double, triple=False):
            return nn.Dense(4)(x) * (2 if double else 1) * (3 if triple else 1)

    Jitted = nn.jit(Branching, static_argnums=(2,), static_argnames=("triple",))
    return top(nn, lambda self, x: Jitted()(Jitted()(x, True), False, triple=True))


@transformed(long=True)
def jit_of_scan_of_jit(nn: Any) -> Any:
    inner = nn.scan(nn.jit(cell(nn)), variable_axes=ALL, split_rngs=SPLIT, length=2)
    return top(nn, lambda self, x: nn.jit(inner)()(x, None))


@transformed(long=True)
def vmap_of_jit(nn: Any) -> Any:
    Mapped = nn.vmap(nn.jit(block(nn)), variable_axes=ALL, split_rngs=SPLIT)
    return top(nn, lambda self, x: Mapped()(x))
