"""Programs made at random: a tree of modules, transforms one in the other around it, and how it is run.

    programs : a Hypothesis strategy of `Program`
    build    : (nn, Program) -> module, for nn of liftax or of flax.linen

Every module maps a vector to a vector of the same size, so that any of them fits anywhere. What it does besides is its
kind of state, its way of holding its children, and the transforms around the call of each of them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from hypothesis import strategies as st

WIDTH = 3
KEYS = {"params": jax.random.key(1), "dropout": jax.random.key(2), "noise": jax.random.key(3)}
MUTABLE = ["batch_stats", "state", "intermediates", "perturbations"]
SPLIT = {"params": True, "dropout": True, "noise": True}
SAME = {"params": False, "dropout": False, "noise": False}
AXES = {"params": 0, "batch_stats": 0, "state": 0, "intermediates": 0}

UNBOUND = {"parent": None}

HOLDING = ("compact", "named", "setup", "list", "field", "shared", "function", "method")
STATES = ("none", "dense", "statistics", "counter", "dropout", "noise", "sow", "param")


@dataclasses.dataclass(frozen=True)
class Tree:
    """A module: its own state, its children, how it holds them, and the transforms around the call of each."""

    state: str
    holding: str = "compact"
    children: tuple["Tree", ...] = ()
    transforms: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Program:
    """A tree of modules, and the raw transforms of JAX around its `init` and `apply`, outermost first."""

    tree: Tree
    outer: tuple[str, ...] = ()


# --- transforms: (nn, fn) -> a function with the signature of fn, (module, x) -> y ------------------------------------


def _jit(nn: Any, fn: Any) -> Any:
    return nn.jit(fn)


def _remat(nn: Any, fn: Any) -> Any:
    return nn.remat(fn)


def _vjp(nn: Any, fn: Any) -> Any:
    def differentiated(mdl, x):
        y, pull = nn.vjp(fn, mdl, x)
        variables, dx = pull(jnp.cos(y))
        return dx + norm(variables)

    return differentiated


def _grad(nn: Any, fn: Any) -> Any:
    return lambda mdl, x: total(nn.grad(lambda m, x: (fn(m, x) ** 2).sum(), mdl, x))


def _value_and_grad(nn: Any, fn: Any) -> Any:
    def differentiated(mdl, x):
        value, grads = nn.value_and_grad(lambda m, x: jnp.sin(fn(m, x)).sum(), mdl, x)
        return total(grads) * value

    return differentiated


def _jvp(nn: Any, fn: Any) -> Any:
    def differentiated(mdl, x):
        params = jax.tree.map(jnp.ones_like, mdl.variables.get("params", {}))
        y, dy = nn.jvp(fn, mdl, (x,), (jnp.cos(x),), variable_tangents={"params": params})
        return y + dy

    return differentiated


def _vmap(nn: Any, fn: Any) -> Any:
    vmapped = nn.vmap(fn, variable_axes=AXES, split_rngs=SPLIT, in_axes=0, out_axes=0)
    return lambda mdl, x: vmapped(mdl, jnp.stack([x, 2 * x])).mean(0)


def _scan(nn: Any, fn: Any) -> Any:
    def step(mdl, carry, x):
        y = fn(mdl, carry)
        return jnp.tanh(y), y * x

    axes = {"intermediates": 0}
    scanned = nn.scan(
        step, variable_axes=axes, variable_broadcast="params", variable_carry=["batch_stats", "state"],
        split_rngs={**SPLIT, "params": False}, length=2,
    )  # fmt: skip

    def called(mdl, x):
        carry, ys = scanned(mdl, x, jnp.arange(2.0))
        return carry + ys.sum(0)

    return called


def _layers(nn: Any, fn: Any) -> Any:
    def step(mdl, carry, _):
        return jnp.tanh(fn(mdl, carry)), None

    scanned = nn.scan(step, variable_axes=AXES, split_rngs=SPLIT, length=2)
    return lambda mdl, x: scanned(mdl, x, None)[0]


def _cond(nn: Any, fn: Any) -> Any:
    def called(mdl, x):
        if mdl.is_initializing():
            return fn(mdl, x)
        return nn.cond(x.sum() > 0, fn, lambda m, x: -x, mdl, x)

    return called


def _custom_vjp(nn: Any, fn: Any) -> Any:
    def forward(mdl, x):
        return nn.vjp(fn, mdl, x)

    def backward(pull, ct):
        variables, *rest = pull(ct)
        return (jax.tree.map(jnp.sign, variables), *rest)

    return nn.custom_vjp(fn, forward_fn=forward, backward_fn=backward)


def _map_variables(nn: Any, fn: Any) -> Any:
    def called(mdl, x):
        halve, double = (lambda v, c=c: jax.tree.map(lambda w: c * w, v) for c in (0.5, 2.0))
        return nn.map_variables(fn, "params", halve, double, init=mdl.is_initializing(), mutable=True)(mdl, x)

    return called


TRANSFORMS: dict[str, Callable[[Any, Any], Any]] = {
    f.__name__.strip("_"): f
    for f in (_jit, _remat, _vjp, _grad, _value_and_grad, _jvp, _vmap, _scan, _layers, _cond, _custom_vjp,
              _map_variables)
}  # fmt: skip


def total(tree: Any) -> Any:
    """Add up arrays of one vector's size."""
    return sum(jax.tree.leaves(tree))


def norm(tree: Any) -> Any:
    """Return a number that depends on every floating-point array of a tree, on each in its own way."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return sum((i + 1) * (x**2).sum() for i, x in enumerate(leaves)) if leaves else 0.0


# --- modules ----------------------------------------------------------------------------------------------------------


def _own(nn: Any, state: str, mdl: Any, x: Any) -> Any:
    """What a module does itself: to be called in a `@compact` method."""
    if state == "dense":
        return nn.Dense(WIDTH, name="own")(x)
    if state == "statistics":
        return nn.BatchNorm(use_running_average=False, name="own")(x[None] * jnp.ones((2, 1)))[0] + x
    if state == "counter":
        n = mdl.variable("state", "n", lambda: jnp.zeros(()))
        if not mdl.is_initializing():
            n.value = n.value + 1.0
        return x * (1 + n.value)
    if state == "dropout":
        return nn.Dropout(0.5, deterministic=False, name="own")(x)
    if state == "noise":
        return x + jax.random.uniform(mdl.make_rng("noise"), x.shape)
    if state == "sow":
        mdl.sow("intermediates", "seen", x)
        return jnp.sin(x)
    if state == "param":
        return x * mdl.param("scale", nn.initializers.normal(), (WIDTH,))
    return x


def build(nn: Any, program: Program) -> Any:
    """Return the module of a program."""
    return _module(nn, program.tree)


def _module(nn: Any, tree: Tree, **name: Any) -> Any:
    if not tree.children:
        return _leaf(nn)(tree.state, **name)
    return _HOLDERS[tree.holding](nn, tree, **name)


def _leaf(nn: Any) -> Any:
    class Leaf(nn.Module):
        state: str

        @nn.compact
        def __call__(self, x):
            return jnp.tanh(_own(nn, self.state, self, x))

    return Leaf


def _around(nn: Any, tree: Tree, fn: Any = None) -> Any:
    fn = fn or (lambda mdl, x: mdl(x))
    for name in reversed(tree.transforms):
        fn = TRANSFORMS[name](nn, fn)
    return fn


def _through(nn: Any, tree: Tree, children: Any, x: Any) -> Any:
    for child, module in zip(tree.children, children, strict=True):
        x = x + _around(nn, child)(module, x)
    return x


def _compact(nn: Any, tree: Tree, names: bool = False, **name: Any) -> Any:
    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = _own(nn, tree.state, self, x)
            for i, child in enumerate(tree.children):
                x = x + _around(nn, child)(_module(nn, child, **({"name": f"child{i}"} if names else {})), x)
            return x

    return Compact(**name)


def _setup(nn: Any, tree: Tree, in_list: bool = False, **name: Any) -> Any:
    class Setup(nn.Module):
        def setup(self):
            children = [_module(nn, child) for child in tree.children]
            if in_list:
                self.children = children
            else:
                for i, child in enumerate(children):
                    setattr(self, f"child{i}", child)

        def __call__(self, x):
            children = self.children if in_list else [getattr(self, f"child{i}") for i in range(len(tree.children))]
            return _through(nn, tree, children, x)

    return Setup(**name)


def _field(nn: Any, tree: Tree, **name: Any) -> Any:
    class Held(nn.Module):
        layers: tuple[Any, ...]

        @nn.compact
        def __call__(self, x):
            return _through(nn, tree, self.layers, _own(nn, tree.state, self, x))

    return Held(tuple(_module(nn, child, **UNBOUND) for child in tree.children), **name)


def _shared(nn: Any, tree: Tree, **name: Any) -> Any:
    class User(nn.Module):
        layer: Any

        @nn.compact
        def __call__(self, x):
            return self.layer(nn.Dense(WIDTH)(x))

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = _own(nn, tree.state, self, x)
            children = [_module(nn, child) for child in tree.children]
            x = _through(nn, tree, children, x)
            return x + User(children[0])(x)

    return Shared(**name)


def _function(nn: Any, tree: Tree, **name: Any) -> Any:
    """The transforms of the first child stand around a function of the module itself."""

    class OfSelf(nn.Module):
        def setup(self):
            self.layers = [_module(nn, child) for child in tree.children]

        def __call__(self, x):
            def body(mdl, x):
                for layer in mdl.layers:
                    x = x + layer(x)
                return x

            return _around(nn, tree.children[0], body)(self, x)

    return OfSelf(**name)


def _method(nn: Any, tree: Tree, **name: Any) -> Any:
    class Methods(nn.Module):
        def setup(self):
            self.layers = [_module(nn, child) for child in tree.children]

        def body(self, x):
            for layer in self.layers:
                x = x + layer(x)
            return x

        def __call__(self, x):
            return self.body(x) + _around(nn, tree.children[0], type(self).body)(self, x)

    return Methods(**name)


_HOLDERS: dict[str, Callable[..., Any]] = {
    "compact": _compact,
    "named": functools.partial(_compact, names=True),
    "setup": _setup,
    "list": functools.partial(_setup, in_list=True),
    "field": _field,
    "shared": _shared,
    "function": _function,
    "method": _method,
}

# --- strategies -------------------------------------------------------------------------------------------------------

OUTER = ("jit", "grad", "vmap", "checkpoint", "jvp")

_around_child = st.lists(st.sampled_from(sorted(TRANSFORMS)), max_size=3).map(tuple)
_leaves = st.builds(Tree, st.sampled_from(STATES), transforms=_around_child)
_trees = st.recursive(
    _leaves,
    lambda children: st.builds(
        Tree, st.sampled_from(STATES), st.sampled_from(HOLDING), st.lists(children, min_size=1, max_size=2).map(tuple),
        _around_child,
    ),
    max_leaves=4,
)  # fmt: skip
programs = st.builds(
    Program,
    st.builds(
        Tree, st.sampled_from(STATES), st.sampled_from(HOLDING), st.lists(_trees, min_size=1, max_size=2).map(tuple)
    ),
    st.lists(st.sampled_from(OUTER), max_size=2).map(tuple),
)
