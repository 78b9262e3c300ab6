"""The wider family, with every kind of state, at init and apply, inside raw JAX transforms, against plain JAX."""

import jax
import jax.numpy as jnp
import pytest
from tests.support.cells import OUTERS, PHASES, Cell, assert_trees_close, differentiated, total
from tests.support.rows import KINDS, sides

from liftax import nn


def scalar(fn):
    return lambda mdl, x: total(fn(mdl, x))


def variables_first(p, *args):
    return ({"params": p}, *args)


def layer_of(mdl):
    """Return a layer of the block: of one that holds a module from elsewhere, that module."""
    return "inner" if hasattr(mdl, "inner") else "Dense_0"


def one_bias(none):
    layer = "inner" if "inner" in none else "Dense_0"
    return {**none, layer: {**none[layer], "bias": jnp.ones(2)}}


def lifted_grad(fn, mdl, x):
    return nn.value_and_grad(lambda mdl, x, n: (total(fn(mdl, x)) * n, 1.0 * n), mdl, x, 3, has_aux=True,
                             vjp_variables="params", argnums=(0,))  # fmt: skip


def plain_grad(pure, p, x):
    def f(p, x):
        y, new = pure(p, x)
        return total(y) * 3, new

    (value, new), grads = jax.value_and_grad(f, argnums=(0, 1), has_aux=True)(p, x)
    return ((value, 3.0), variables_first(*grads)), new


def jacobian(name):
    def lifted(fn, mdl, x):
        def f(mdl, x, n):
            y = fn(mdl, x)
            return {"y": y[0] * n}, jnp.sum(y)

        return getattr(nn, name)(f, mdl, x, 2.0, wrt="params", argnums=(1, 0), has_aux=True)

    def plain(pure, p, x):
        def f(p, x, n):
            y, new = pure(p, x)
            return {"y": y[0] * n}, (jnp.sum(y), new)

        jac, (aux, new) = getattr(jax, name)(f, argnums=(0, 2, 1), has_aux=True)(p, x, 2.0)
        return ({"y": variables_first(*jac["y"])}, aux), new

    return lifted, plain


def lifted_hessian(fn, mdl, x):
    return nn.hessian(scalar(fn), mdl, x, wrt="params")


def plain_hessian(pure, p, x):
    def f(p, x):
        y, new = pure(p, x)
        return total(y), new

    (in_p, in_x), new = jax.hessian(f, argnums=(0, 1), has_aux=True)(p, x)
    # the derivative in each parameter is an array that the operands' derivatives replace
    outer = jax.tree.structure(p)
    rows = outer.unflatten([variables_first(*entries) for entries in outer.flatten_up_to(in_p)])
    return ({"params": rows}, variables_first(*in_x)), new


def lifted_linearize(fn, mdl, x):
    y, jvp_fn = nn.linearize(fn, mdl, x, wrt="params")
    return y, jvp_fn({}, jnp.cos(x)), jvp_fn({"params": {layer_of(mdl): {"bias": jnp.ones(2)}}}, jnp.sin(x))


def plain_linearize(pure, p, x):
    y, jvp_fn, new = jax.linearize(pure, p, x, has_aux=True)
    none = jax.tree.map(jnp.zeros_like, p)
    some = one_bias(none)
    return (y, jvp_fn(none, jnp.cos(x)), jvp_fn(some, jnp.sin(x))), new


def product(name):
    def lifted(fn, mdl, x):
        def f(mdl, x):
            y = fn(mdl, x)
            return total(y), y

        t = {} if mdl.is_initializing() else {"params": {layer_of(mdl): {"bias": jnp.ones(2)}}}
        return getattr(nn, name)(f, mdl, (x,), (jnp.cos(x),), t, wrt="params", has_aux=True)

    def plain(pure, p, x, init):
        def f(p, x):
            y, new = pure(p, x)
            return total(y), (y, new)

        gradient = jax.grad(f, argnums=(0, 1), has_aux=True)
        t = jax.tree.map(jnp.zeros_like, p)
        t = t if init else one_bias(t)
        grads, products, (y, new) = jax.jvp(gradient, (p, x), (t, jnp.cos(x)), has_aux=True)
        return (variables_first(*grads), variables_first(*products), y), new

    return lifted, plain


def lifted_jvp(fn, mdl, x):
    def f(mdl, x):
        y = fn(mdl, x)
        return y, jnp.sum(y)

    return nn.jvp(f, mdl, (x,), (jnp.cos(x),), {}, has_aux=True)


def plain_jvp(pure, p, x):
    y, y_t, new = jax.jvp(lambda x: pure(p, x), (x,), (jnp.cos(x),), has_aux=True)
    return (y, y_t, jnp.sum(y)), new


ROWS = {
    "grad": (lifted_grad, plain_grad),
    "jvp": (lifted_jvp, plain_jvp),
    "jacrev": jacobian("jacrev"),
    "jacfwd": jacobian("jacfwd"),
    "hessian": (lifted_hessian, plain_hessian),
    "linearize": (lifted_linearize, plain_linearize),
    "hvp": product("hvp"),
    "vhp": product("vhp"),
}
CELLS = [
    Cell(name, kind, phase, outer)
    for name in ROWS
    for kind in KINDS
    for phase in PHASES
    for outer in OUTERS
    if outer != "itself"
]


def is_short(cell):
    """One phase and one outer transform for each transform and kind; each transform meets both phases."""
    turn = 3 * list(ROWS).index(cell.transform) + KINDS.index(cell.kind)
    outers = ("jit", "vmap", "none", "grad", "checkpoint", "scan", "cond", "jvp")
    return cell.outer == outers[turn % 8] and cell.phase == PHASES[turn % 2]


@pytest.mark.parametrize(
    "cell", [pytest.param(c, id=str(c), marks=[] if is_short(c) else [pytest.mark.long]) for c in CELLS]
)
def test_cell(cell):
    lifted, plain = ROWS[cell.transform]
    if cell.transform in ("hvp", "vhp"):
        program, reference = sides(cell, lifted, lambda pure, p, x: plain(pure, p, x, cell.init))
    else:
        program, reference = sides(cell, lifted, plain)
    want = differentiated(cell, reference, jit=True)
    assert_trees_close(differentiated(cell, program, jit=cell.outer != "none"), want, 3e-4)
    assert any(jnp.any(g != 0) for g in jax.tree.leaves(want["gradients"]))
