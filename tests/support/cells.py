"""The transform matrix: modules with every kind of state, each beside the same function on explicit parameters.

A cell is a transform (`nn.vjp`, …), a kind of state, a phase (`init` or `apply`) and a raw JAX transform around the
whole `apply`. Its program and its reference have one signature, `(params, state, x, key) -> (outputs, new_state)`, so
the outer transform and the check of the gradients through it are written once and wrap either.
"""

import hashlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from liftax import nn

FEATURES = 2
BATCH = 3
MOMENTUM = 0.5
RATE = 0.5

TRANSFORMS = ("vjp", "jvp", "grad", "value_and_grad", "custom_vjp")
KINDS = ("plain", "batch_stats", "dropout", "sown", "shared", "field")
PHASES = ("apply", "init")
OUTERS = ("none", "jit", "vmap", "grad", "jvp", "checkpoint", "scan", "cond", "itself")

Tree = Any
Program = Callable[[Tree, Tree, jax.Array, jax.Array], tuple[Tree, Tree]]


# --- rng streams, as Linen folds them --------------------------------------------------------------------------------


def fold(key: jax.Array, *path: str | int) -> jax.Array:
    """Return the key that a module at `path` draws from a stream, the last entry being the count of the draw."""
    digest = hashlib.sha1()
    for part in path:
        digest.update(part.encode() if isinstance(part, str) else part.to_bytes((part.bit_length() + 7) // 8, "big"))
    return jax.random.fold_in(key, np.uint32(int.from_bytes(digest.digest()[:4], "big")))


# --- the modules -----------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Parameters alone."""

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(FEATURES)(x)) * x


class Normed(nn.Module):
    """Parameters, and statistics that every call in training changes."""

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.BatchNorm(use_running_average=False, momentum=MOMENTUM)(nn.Dense(FEATURES)(x)))


class Noisy(nn.Module):
    """Draws from the dropout stream, in a child and twice by itself."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dropout(RATE, deterministic=False)(nn.Dense(FEATURES)(x))
        kept = jax.random.bernoulli(self.make_rng("dropout"), 0.7, x.shape)
        noise = jax.random.normal(self.make_rng("dropout"), x.shape)
        return jnp.tanh(h + jnp.where(kept, x, 0.0)) + noise * h


class Sown(nn.Module):
    """Sows two values under one name."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.Dense(FEATURES)(x))
        self.sow("intermediates", "h", h)
        self.sow("intermediates", "h", h * x)
        return h * h + x


class Shared(nn.Module):
    """Calls a submodule that lives elsewhere, twice, and one of its own."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(FEATURES, name="out")(jnp.tanh(self.inner(x))) + jnp.sin(self.inner(x))


class Field(nn.Module):
    """Calls a submodule that it adopted through a field."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(self.inner(x)) * x


class Host(nn.Module):
    """Makes the block of a kind and differentiates it, inside its own call."""

    transform: str
    kind: str
    twice: bool = False

    @nn.compact
    def __call__(self, x):
        if self.kind == "shared":
            dense = nn.Dense(FEATURES, name="dense")
            x = x + jnp.sin(dense(x))
            block = Shared(dense, name="block")
        elif self.kind == "field":
            block = Field(nn.Dense(FEATURES, parent=None), name="block")
        else:
            block = {"plain": Plain, "batch_stats": Normed, "dropout": Noisy, "sown": Sown}[self.kind](name="block")
        fn = lambda mdl, x: mdl(x)
        if self.twice:
            fn = lambda mdl, x: lifted(self.transform, self.kind, lambda mdl, x: mdl(x), mdl, x)
        return lifted(self.transform, self.kind, fn, block, x)


# --- the transforms: lifted, and on explicit parameters --------------------------------------------------------------

WRITTEN = {"batch_stats": "batch_stats", "sown": "intermediates"}


def total(tree: Tree) -> jax.Array:
    """Return one number that depends on every floating-point leaf, on each in another way."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    return sum((jnp.sum(jnp.sin(leaf + 0.3 * i)) for i, leaf in enumerate(leaves)), start=jnp.zeros(()))


def cotangent_of(y: Tree) -> Tree:
    """Return a cotangent that depends on `y`, so that second derivatives see the backward map too."""
    return jax.tree.map(lambda v: jnp.cos(v) + 0.5, y)


def params_of(mdl: nn.Module) -> Tree:
    """Return the parameters of a target as a transform shows them: what a field holds appears under the field."""
    own = dict(mdl.variables.get("params", {}))
    if isinstance(mdl, Shared):
        own["inner"] = mdl.inner.variables["params"]
    return own


def scaled(factor: float, tree: Tree) -> Tree:
    """Return `tree` times `factor`."""
    return jax.tree.map(lambda v: factor * v, tree)


def lifted(transform: str, kind: str, fn: Callable[..., Tree], mdl: nn.Module, x: jax.Array) -> Tree:
    """Return what the lifted `transform` of `fn(mdl, x)` gives."""
    if transform == "vjp":
        y, bwd = nn.vjp(fn, mdl, x)
        return y, *bwd(cotangent_of(y))
    if transform == "jvp":
        tangents = {} if mdl.is_initializing() else {"params": scaled(0.5, params_of(mdl))}
        return nn.jvp(fn, mdl, (x,), (jnp.cos(x),), variable_tangents=tangents)
    if transform == "grad":
        return nn.grad(lambda mdl, x: total(fn(mdl, x)), mdl, x)
    if transform == "value_and_grad":
        return nn.value_and_grad(lambda mdl, x: total(fn(mdl, x)), mdl, x)
    if kind not in WRITTEN or mdl.is_initializing():
        rule = nn.custom_vjp(fn, forward_fn=lambda mdl, x: nn.vjp(fn, mdl, x), backward_fn=backward)
        return rule(mdl, x)
    collection = WRITTEN[kind]

    def forward(mdl, x):
        def with_state(mdl, x):
            y = fn(mdl, x)
            return y, mdl.variables[collection]

        (y, _), bwd = nn.vjp(with_state, mdl, x)
        return y, bwd

    def backward_with_state(bwd, y_ct, state_ct):
        return backward(bwd, (y_ct, state_ct[collection]))

    return nn.custom_vjp(fn, forward, backward_with_state, state_cotangents=True)(mdl, x)


def backward(bwd: Callable[[Tree], tuple[Tree, Tree]], ct: Tree) -> tuple[Tree, Tree]:
    """A backward rule that JAX would not find by itself."""
    params_ct, x_ct = bwd(ct)
    return scaled(2.0, params_ct), scaled(3.0, x_ct)


def plain(transform: str, pure: Program, p: Tree, s: Tree, x: jax.Array, key: jax.Array, init: bool):
    """Return what `lifted` should, `pure(p, s, x, key)` being the block on explicit parameters."""
    if transform == "vjp":
        y, bwd, new = jax.vjp(lambda p, x: pure(p, s, x, key), p, x, has_aux=True)
        p_ct, x_ct = bwd(cotangent_of(y))
        return (y, {"params": p_ct}, x_ct), new
    if transform == "jvp":
        p_dot = scaled(0.0 if init else 0.5, p)
        out, out_dot, new = jax.jvp(lambda p, x: pure(p, s, x, key), (p, x), (p_dot, jnp.cos(x)), has_aux=True)
        return (out, out_dot), new
    if transform in ("grad", "value_and_grad"):

        def scalar(x):
            y, new = pure(p, s, x, key)
            return total(y), new

        (value, new), x_grad = jax.value_and_grad(scalar, has_aux=True)(x)
        return ((x_grad,), new) if transform == "grad" else ((value, (x_grad,)), new)
    rule = jax.custom_vjp(pure)

    def forward(p, s, x, key):
        return jax.vjp(lambda p, x: pure(p, s, x, key), p, x)

    def backward_all(bwd, ct):
        p_ct, x_ct = backward(bwd, ct)
        return p_ct, None, x_ct, None

    rule.defvjp(forward, backward_all)
    return rule(p, s, x, key)


# --- the blocks on explicit parameters -------------------------------------------------------------------------------


def dense(p: Tree, x: jax.Array) -> jax.Array:
    """A dense layer."""
    return x @ p["kernel"] + p["bias"]


def block(kind: str, init: bool, p: Tree, s: Tree, x: jax.Array, key: jax.Array) -> tuple[jax.Array, Tree]:
    """Return the block's output and the collections it wrote."""
    if kind == "plain":
        return jnp.tanh(dense(p["Dense_0"], x)) * x, {}
    if kind == "batch_stats":
        h, old = dense(p["Dense_0"], x), s["batch_stats"]["BatchNorm_0"]
        mean = h.mean(0)
        var = jnp.maximum(0.0, (h * h).mean(0) - mean * mean)
        y = (h - mean) * jax.lax.rsqrt(var + 1e-5) * p["BatchNorm_0"]["scale"] + p["BatchNorm_0"]["bias"]
        now = {"mean": mean, "var": var}
        kept = old if init else {k: MOMENTUM * old[k] + (1 - MOMENTUM) * now[k] for k in old}
        return jnp.tanh(y), {"batch_stats": {"BatchNorm_0": kept}}
    if kind == "dropout":
        h = dense(p["Dense_0"], x)
        h = jnp.where(jax.random.bernoulli(fold(key, "block", "Dropout_0", 1), 1 - RATE, h.shape), h / (1 - RATE), 0.0)
        kept = jax.random.bernoulli(fold(key, "block", 1), 0.7, x.shape)
        noise = jax.random.normal(fold(key, "block", 2), x.shape)
        return jnp.tanh(h + jnp.where(kept, x, 0.0)) + noise * h, {}
    if kind == "sown":
        h = jnp.tanh(dense(p["Dense_0"], x))
        return h * h + x, {} if init else {"intermediates": {"h": (h, h * x)}}
    if kind == "shared":
        h = dense(p["inner"], x)
        return dense(p["out"], jnp.tanh(h)) + jnp.sin(h), {}
    return jnp.tanh(dense(p["inner"], x)) * x, {}


def initial(kind: str, key: jax.Array) -> tuple[Tree, Tree]:
    """Return the parameters and the state that Linen gives the host for the `params` key `key`."""

    def layer(*path):
        kernel = jax.nn.initializers.lecun_normal()(fold(key, *path, 1), (FEATURES, FEATURES), jnp.float32)
        return {"kernel": kernel, "bias": jnp.zeros(FEATURES)}

    if kind == "shared":
        return {"dense": layer("dense"), "block": {"out": layer("block", "out")}}, {}
    if kind == "field":
        return {"block": {"inner": layer("block", "inner")}}, {}
    params = {"Dense_0": layer("block", "Dense_0")}
    if kind != "batch_stats":
        return {"block": params}, {}
    params["BatchNorm_0"] = {"scale": jnp.ones(FEATURES), "bias": jnp.zeros(FEATURES)}
    stats = {"mean": jnp.zeros(FEATURES), "var": jnp.ones(FEATURES)}
    return {"block": params}, {"batch_stats": {"block": {"BatchNorm_0": stats}}}


# --- the two sides of a cell -----------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """One cell of the matrix."""

    transform: str
    kind: str
    phase: str
    outer: str

    def __str__(self) -> str:
        return "-".join(self)

    @property
    def init(self) -> bool:
        return self.phase == "init"

    def program(self, params: Tree, state: Tree, x: jax.Array, key: jax.Array) -> tuple[Tree, Tree]:
        """The module's side: `Host.init_with_output` or `Host.apply`."""
        host = Host(self.transform, self.kind, self.outer == "itself")
        if self.init:
            out, made = host.init_with_output({"params": key, "dropout": jax.random.fold_in(key, 7)}, x)
            return out, jax.lax.stop_gradient(made)  # a rule takes no cotangent for what was created inside it
        variables = {"params": params, **state}
        rngs = {"dropout": key} if self.kind == "dropout" else None
        if self.kind not in WRITTEN:
            return host.apply(variables, x, rngs=rngs), {}
        return host.apply(variables, x, rngs=rngs, mutable=[WRITTEN[self.kind]])

    def reference(self, params: Tree, state: Tree, x: jax.Array, key: jax.Array) -> tuple[Tree, Tree]:
        """The same on explicit parameters, in plain JAX."""
        if self.init:
            params, state = initial(self.kind, key)
            key = jax.random.fold_in(key, 7)
        inner_params = params["block"]
        if self.kind == "shared":
            x = x + jnp.sin(dense(params["dense"], x))
            inner_params = {"inner": params["dense"], "out": params["block"]["out"]}

        def pure(p, s, x, key):
            return block(self.kind, self.init, p, s, x, key)

        def pure_twice(p, s, x, key):
            return plain(self.transform, pure, p, s, x, key, self.init)

        inner_state = {collection: tree["block"] for collection, tree in state.items()}
        fn = pure_twice if self.outer == "itself" else pure
        out, new = plain(self.transform, fn, inner_params, inner_state, x, key, self.init)
        if self.init:
            return out, {"params": params, **state}
        return out, {collection: {"block": tree} for collection, tree in new.items()}

    def arguments(self) -> tuple[Tree, Tree, jax.Array, jax.Array]:
        """Return `(params, state, x, key)`: at init there are no parameters and no state."""
        rows = 2 if self.outer in ("vmap", "scan") else 0
        x = jnp.asarray(np.random.default_rng(1).normal(size=(rows or 1, BATCH, FEATURES)), jnp.float32)
        keys = jax.random.split(jax.random.key(5), rows or 1)
        x, keys = (x, keys) if rows else (x[0], keys[0])
        if self.init:
            return {}, {}, x, keys
        params, state = initial(self.kind, jax.random.key(3))
        noise = np.random.default_rng(2)
        params = jax.tree.map(lambda v: v + 0.3 * jnp.asarray(noise.normal(size=v.shape), v.dtype), params)
        state = jax.tree.map(lambda v: v + 0.3 * jnp.asarray(noise.uniform(size=v.shape), v.dtype), state)
        return params, state, x, keys


def wrapped(outer: str, f: Program) -> Program:
    """Return `f` inside the raw JAX transform `outer`."""
    if outer == "jit":
        return jax.jit(f)
    if outer == "vmap":
        return jax.vmap(f, in_axes=(None, None, 0, 0))
    if outer == "grad":

        def scalar(p, x, s, key):
            out, new = f(p, s, x, key)
            return total(out), new

        return lambda p, s, x, key: jax.grad(scalar, argnums=(0, 1), has_aux=True)(p, x, s, key)
    if outer == "jvp":

        def pushed(p, s, x, key):
            dots = scaled(0.25, p), scaled(0.25, s), jnp.sin(x)
            return jax.jvp(lambda p, s, x: f(p, s, x, key), (p, s, x), dots)

        return pushed
    if outer == "checkpoint":
        return jax.checkpoint(f)
    if outer == "scan":

        def scanned(p, s, x, key):
            def step(s, row):
                out, new = f(p, s, *row)
                return {collection: new.get(collection, old) for collection, old in s.items()}, (out, new)

            return jax.lax.scan(step, s, (x, key))

        return scanned
    if outer == "cond":
        return lambda p, s, x, key: jax.lax.cond(
            jnp.sum(x) < 1e6, f, lambda p, s, x, key: f(p, s, 2.0 * x, key), p, s, x, key
        )
    return f


def differentiated(cell: Cell, f: Program, jit: bool = False) -> Tree:
    """Return the outputs and the new state of `wrapped(outer, f)`, and the gradient of their `total` through it.

    With `jit`, as one compiled program: for transforms of many operations that costs less than running each of them.
    """
    params, state, x, key = cell.arguments()
    g = wrapped(cell.outer, f)

    def loss(p, s, x):
        results = g(p, s, x, key)
        return total(results), results

    gradient = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    grads, results = (jax.jit(gradient) if jit else gradient)(params, state, x)
    return {"results": results, "gradients": grads}


def assert_trees_close(got: Tree, want: Tree, tolerance: float = 1e-6) -> None:
    """Assert that two trees have one structure, and that their leaves agree in shape, dtype and value."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        where = jax.tree_util.keystr(path)
        assert (jnp.shape(a), jnp.result_type(a)) == (jnp.shape(b), jnp.result_type(b)), where
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=where)


CELLS = tuple(
    Cell(transform, kind, phase, outer)
    for transform, kind, phase, outer in itertools.product(TRANSFORMS, KINDS, PHASES, OUTERS)
    if not (transform == "custom_vjp" and outer == "jvp")  # JAX defines no forward mode of a custom_vjp
)


def is_short(cell: Cell) -> bool:
    """Return whether a cell belongs to the short run, which holds every pair of (transform, kind, phase, outer) values.

    A Latin square: each transform meets each kind at each phase inside one outer transform.
    """
    turn = 2 * TRANSFORMS.index(cell.transform) + 2 * KINDS.index(cell.kind) + PHASES.index(cell.phase)
    return cell.outer == OUTERS[turn % len(OUTERS)]
