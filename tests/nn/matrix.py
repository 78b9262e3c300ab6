"""The transform matrix of the layers: each layer under each transform, raw around `apply` and lifted inside a module.

A cell's program runs liftax. Its reference is one function of explicit parameters, state, inputs and keys, taken from
flax.linen, under the JAX transform of the same name; `vmap` and `scan` are loops in Python there. Both sides hold the
layer in a module, so that it is at the same path and draws the same numbers.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp

from liftax import nn

from .table import Row, cotangent, first_rows, total

TRANSFORMS = ("jit", "vmap", "grad", "jvp", "remat", "scan", "vjp")
CELLS = tuple((how, name) for how in ("raw", "lifted") for name in TRANSFORMS if (how, name) != ("raw", "vjp"))
STEPS = 2

Tree = Any
Program = Callable[[Tree, Tree, list[Any], Tree], Tree]


class Cell(NamedTuple):
    """A row under a transform.

    Attributes:
        row: the layer and its use.
        how: `raw` around `apply`, or `lifted` inside a module.
        transform: its name.
        is_long: whether it is left out of the short run, which holds a fifth of the first rows' cells.
    """

    row: Row
    how: str
    transform: str
    is_long: bool

    def __str__(self) -> str:
        return f"{self.row}-{self.how}-{self.transform}"

    def arguments(self, lib: Any) -> tuple[Tree, Tree, list[Any], Tree]:
        """Return `(params, state, primals, keys)`; for a transform over steps, primals with an axis of steps."""
        params, state = self.row.variables(lib, "float32")
        primals = self.row.primals("float32")[0]
        if self.transform in ("vmap", "scan"):
            primals = [jnp.stack([x, 0.5 * x]) for x in primals]
        return params, state, primals, self.row.keys()


def cells_of(rows: Sequence[Row]) -> list[Cell]:
    """Return all cells of the first row of each layer, and for each other row a fifth, another one for each."""
    firsts = first_rows(rows)
    cells = []
    for row in rows:
        turn = zlib.crc32(str(row).encode())
        for i, (how, transform) in enumerate(CELLS):
            chosen = (i + turn) % 5 == 0
            if f"{how}-{transform}" not in row.alone and (row in firsts or chosen):
                cells.append(Cell(row, how, transform, not (row in firsts and chosen)))
    return cells


# --- both sides' module ---


def pure(lib: Any, row: Row, how: Callable[..., Any]) -> Program:
    """Return `(params, state, primals, keys) -> (result, state)`: `how(call, layer, *primals)` inside a module."""
    whole = row.primals("float32")[1]

    def call(layer: Any, *primals: Any) -> Any:
        return getattr(layer, row.method)(*whole(primals), **row.call)

    class Host(lib.Module):
        layer: Any

        @lib.compact
        def __call__(self, *primals: Any) -> Any:
            return how(call, self.layer, *primals)

    def apply(params: Tree, state: Tree, primals: list[Any], keys: Tree) -> Tree:
        variables = {name: {"layer": tree} for name, tree in {**params, **state}.items()}
        host = Host(row.make(lib, jnp.dtype("float32")))
        out, new = host.apply(variables, *primals, rngs=keys or None, mutable=list(row.collections))
        return out, {name: tree["layer"] for name, tree in new.items()}

    return apply


def plain(call: Callable[..., Any], layer: Any, *primals: Any) -> Any:
    """Call the layer."""
    return call(layer, *primals)


# --- raw transforms ---


def raw(transform: str, f: Program) -> Program:
    """Return `f` under the transform of JAX."""
    if transform == "jit":
        return jax.jit(f)
    if transform == "vmap":
        return jax.vmap(f, in_axes=(None, None, 0, None), axis_size=STEPS)  # some rows have no primals
    if transform == "scan":

        def scanned(params: Tree, state: Tree, primals: list[Any], keys: Tree) -> Tree:
            def step(carry: Tree, x: list[Any]) -> tuple[Tree, Tree]:
                out, new = f(params, carry, x, keys)
                return {**carry, **new}, out

            last, outs = jax.lax.scan(step, state, primals, length=STEPS)
            return outs, last

        return scanned
    if transform in ("grad", "remat"):
        inner = jax.checkpoint(f) if transform == "remat" else f

        def gradient(params: Tree, state: Tree, primals: list[Any], keys: Tree) -> Tree:
            def scalar(params: Tree, primals: list[Any]) -> Any:
                out, new = inner(params, state, primals, keys)
                return weighted(out), new

            (value, new), grads = jax.value_and_grad(scalar, (0, 1), has_aux=True)(params, primals)
            return (value, grads), new

        return gradient
    if transform == "jvp":

        def pushed(params: Tree, state: Tree, primals: list[Any], keys: Tree) -> Tree:
            args = (params, primals)
            out, dot, new = jax.jvp(lambda p, x: f(p, state, x, keys), args, tangents(args), has_aux=True)
            return (out, dot), new

        return pushed

    def pulled(params: Tree, state: Tree, primals: list[Any], keys: Tree) -> Tree:
        out, bwd, new = jax.vjp(lambda p, x: f(p, state, x, keys), params, primals, has_aux=True)
        return (out, bwd(jax.tree.map(cotangent, out))), new

    return pulled


def looped(transform: str, f: Program) -> Program:
    """Return what `raw(transform, f)` should give, without a transform where there is a way without."""
    if transform == "jit":
        return f
    if transform not in ("vmap", "scan"):
        return raw("grad" if transform == "remat" else transform, f)

    def loop(params: Tree, state: Tree, primals: list[Any], keys: Tree) -> Tree:
        outs, news = [], []
        for i in range(STEPS):
            out, new = f(params, state, [x[i] for x in primals], keys)
            outs.append(out)
            news.append(new)
            if transform == "scan":
                state = {**state, **new}
        stack = lambda *xs: jnp.stack(xs)
        return jax.tree.map(stack, *outs), state if transform == "scan" else jax.tree.map(stack, *news)

    return loop


def weighted(out: Tree) -> jax.Array:
    """Return one real number, to which each element of `out` adds with its own weight."""
    return total(jax.tree.map(lambda x: x * cotangent(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, out))


def tangents(tree: Tree) -> Tree:
    """Return tangents of `tree`, whose leaves are floating-point, that differ between elements."""

    def tangent(x: jax.Array) -> jax.Array:
        info = jnp.finfo(x.dtype)
        if info.bits >= 32:
            return jnp.cos(3.0 * x)
        # XLA may keep more bits of a 16-bit number than the dtype has, and not the same ones in two programs.
        return jax.lax.reduce_precision(jnp.cos(3.0 * x.astype(jnp.float32)), info.nexp, info.nmant).astype(x.dtype)

    return jax.tree.map(tangent, tree)


# --- lifted transforms ---


def lifted(row: Row, transform: str) -> Program:
    """Return the program that uses the lifted transform inside a module, and gives what `raw` gives."""
    wrt = "params" if row.variables(nn, "float32")[0] else False
    split: dict[Any, bool] = dict.fromkeys(row.rngs, False)

    def grads(call: Callable[..., Any], layer: Any, *primals: Any) -> Any:
        value, found = nn.value_and_grad(
            lambda layer, *xs: weighted(call(layer, *xs)), layer, *primals, vjp_variables=wrt
        )
        return value, (found[0], list(found[1:])) if wrt else ({}, list(found))

    def how(call: Callable[..., Any], layer: Any, *primals: Any) -> Any:
        if transform == "jit":
            return nn.jit(call)(layer, *primals)
        if transform == "vmap":
            axes: dict[Any, Any] = {"params": None, **dict.fromkeys(state_names, 0)}
            return nn.vmap(call, variable_axes=axes, split_rngs=split, axis_size=STEPS)(layer, *primals)
        if transform == "scan":
            loop = nn.scan(
                lambda layer, carry, xs: (carry, call(layer, *xs)),
                variable_broadcast=["params", *(n for n in state_names if n not in row.collections)],
                variable_carry=list(row.collections),
                split_rngs=split,
                length=STEPS,
            )
            return loop(layer, (), list(primals))[1]
        if transform == "grad":
            return grads(call, layer, *primals)
        if transform == "remat":
            return grads(nn.remat(call), layer, *primals)
        if transform == "jvp":
            dots = {"params": tangents(layer.variables["params"])} if wrt else {}
            return nn.jvp(call, layer, primals, tuple(tangents(list(primals))), variable_tangents=dots)
        out, bwd = nn.vjp(call, layer, *primals, vjp_variables=wrt)
        found = bwd(jax.tree.map(cotangent, out))
        return out, (found[0], list(found[1:])) if wrt else ({}, list(found[-len(primals) :]))

    state_names = tuple(row.shapes(nn, "float32").keys() - {"params"})
    return pure(nn, row, how)


def program(cell: Cell) -> Tree:
    """Return what the cell gives with liftax."""
    params, state, primals, keys = cell.arguments(nn)
    if cell.how == "raw":
        f = raw(cell.transform, pure(nn, cell.row, plain))
    else:
        f = lifted(cell.row, cell.transform)
        if cell.transform == "vmap":  # whose variables have an axis of steps
            state = jax.tree.map(lambda x: jnp.stack([x] * STEPS), state)
    return written(cell, jax.jit(f)(params, state, primals, keys))


def reference(cell: Cell) -> Tree:
    """Return what it should give."""
    f = looped(cell.transform, pure(flax.linen, cell.row, plain))
    return written(cell, jax.jit(f)(*cell.arguments(flax.linen)))


def written(cell: Cell, result: Tree) -> Tree:
    """Return the result without the collections that are only read, which a loop over steps carries along."""
    out, state = result
    return out, {name: state[name] for name in cell.row.collections}
