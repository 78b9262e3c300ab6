"""Every transform over every way to hand a module to it, with state, inside raw JAX transforms, against plain JAX.

The forms: a module made in a compact method, in setup, given as a field, one that holds a module from elsewhere, a
bound module at top level, a method as the function, and a function that reaches its module through `self`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from tests.support.cells import (
    WRITTEN,
    Cell,
    Noisy,
    Normed,
    Plain,
    Sown,
    assert_trees_close,
    block,
    differentiated,
    scaled,
    total,
)

from liftax import errors, nn

BLOCKS = {"plain": Plain, "batch_stats": Normed, "dropout": Noisy, "sown": Sown}
FORMS = ("compact", "setup", "field", "shared", "bound", "method", "self")
OUTERS = ("jit", "none", "vmap", "grad", "checkpoint", "jvp", "scan", "cond")


class Wrap(nn.Module):
    inner: nn.Module

    def __call__(self, x):
        return self.inner(x)


class Compact(nn.Module):
    lifted: object
    kind: str
    form: str

    @nn.compact
    def __call__(self, x):
        mdl = BLOCKS[self.kind](name="block")
        if self.form == "shared":
            mdl = Wrap(mdl, name="wrap")
        return self.lifted(type(mdl).__call__ if self.form == "method" else lambda mdl, x: mdl(x), mdl, x)


class Setup(nn.Module):
    lifted: object
    kind: str
    form: str

    def setup(self):
        self.block = BLOCKS[self.kind]()

    def __call__(self, x):
        if self.form == "self":
            return self.lifted(lambda mdl, x: self.block(x), self, x)
        return self.lifted(lambda mdl, x: mdl(x), self.block, x)


class Field(nn.Module):
    lifted: object
    block: nn.Module

    def __call__(self, x):
        return self.lifted(lambda mdl, x: mdl(x), self.block, x)


UNDER = {"shared": "inner", "self": "block"}


class FormCell(NamedTuple):
    transform: str
    form: str
    kind: str
    outer: str

    def __str__(self):
        return "-".join(self)

    def shaped(self, p):
        """Return parameters of the block as the target of this form shows them."""
        return {"params": {UNDER[self.form]: p} if self.form in UNDER else p}

    def program(self, params, state, x, key):
        lifted, _ = ROWS[self.transform]
        run = lambda fn, mdl, x: lifted(fn, mdl, x, self.shaped(params["block"]))
        variables = {"params": params, **state}
        rngs = {"dropout": key} if self.kind == "dropout" else None
        mutable = [WRITTEN[self.kind]] if self.kind in WRITTEN else False
        if self.form == "bound":
            bound = Setup(None, self.kind, self.form).bind(variables, rngs=rngs, mutable=mutable)
            out = run(lambda mdl, x: mdl(x), bound.block, x)
            new = {col: bound.variables[col] for col in mutable or ()}
        else:
            if self.form == "field":
                host = Field(run, BLOCKS[self.kind](parent=None))
            else:
                host = (Setup if self.form in ("setup", "self") else Compact)(run, self.kind, self.form)
            out, new = host.apply(variables, x, rngs=rngs, mutable=mutable or [])
        return out, jax.lax.stop_gradient(new) if self.transform in RULES else new

    def reference(self, params, state, x, key):
        _, plain = ROWS[self.transform]
        inner = {collection: tree["block"] for collection, tree in state.items()}
        out, new = plain(lambda p, x: block(self.kind, False, p, inner, x, key), params["block"], x, self.shaped)
        new = {collection: {"block": tree} for collection, tree in new.items()}
        return out, jax.lax.stop_gradient(new) if self.transform in RULES else new


# --- the transforms: lifted(fn, mdl, x, variables) and plain(pure, p, x, shaped) -------------------------------------

RULES = ("custom_vjp", "custom_jvp", "custom_gradient")


def scalar(fn):
    return lambda mdl, x: total(fn(mdl, x))


def of(pure):
    return lambda p, x: (lambda y, new: (total(y), new))(*pure(p, x))


def lifted_vjp(fn, mdl, x, _):
    y, bwd = nn.vjp(fn, mdl, x)
    return y, *bwd(jnp.cos(y))


def plain_vjp(pure, p, x, shaped):
    y, bwd, new = jax.vjp(pure, p, x, has_aux=True)
    p_ct, x_ct = bwd(jnp.cos(y))
    return (y, shaped(p_ct), x_ct), new


def lifted_jvp(fn, mdl, x, variables):
    return nn.jvp(fn, mdl, (x,), (jnp.cos(x),), scaled(0.5, variables))


def lifted_linearize(fn, mdl, x, variables):
    y, jvp_fn = nn.linearize(fn, mdl, x, wrt="params")
    return y, jvp_fn(scaled(0.5, variables), jnp.cos(x))


def plain_jvp(pure, p, x, shaped):
    y, y_t, new = jax.jvp(pure, (p, x), (scaled(0.5, p), jnp.cos(x)), has_aux=True)
    return (y, y_t), new


def lifted_grad(fn, mdl, x, _):
    return nn.grad(scalar(fn), mdl, x, vjp_variables="params")


def plain_grad(pure, p, x, shaped):
    (p_grad, x_grad), new = jax.grad(of(pure), argnums=(0, 1), has_aux=True)(p, x)
    return (shaped(p_grad), x_grad), new


def plain_value_and_grad(pure, p, x, shaped):
    (value, new), x_grad = jax.value_and_grad(of(pure), argnums=1, has_aux=True)(p, x)
    return (value, (x_grad,)), new


def backward(bwd, ct):
    variables_ct, x_ct = bwd(ct)
    return scaled(2.0, variables_ct), 3.0 * x_ct


def lifted_custom_vjp(fn, mdl, x, _):
    return nn.custom_vjp(fn, lambda mdl, x: nn.vjp(fn, mdl, x), backward)(mdl, x)


def lifted_custom_gradient(fn, mdl, x, _):
    def with_map(mdl, x):
        y, bwd = nn.vjp(fn, mdl, x)
        return y, lambda ct: backward(bwd, ct)

    return nn.custom_gradient(with_map)(mdl, x)


def lifted_custom_jvp(fn, mdl, x, _):
    def rule(mdl, primals, tangents, variable_tangents):
        return nn.jvp(fn, mdl, primals, scaled(3.0, tangents), scaled(2.0, variable_tangents))

    return nn.custom_jvp(fn, rule)(mdl, x)


def plain_rule(pure, p, x, shaped):
    """What each rule means: the derivatives scaled, and those of second order of what is scaled."""
    closed, types = jax.make_jaxpr(pure, return_shape=True)(p, x)

    def run(consts, p, x):
        out = jax.core.eval_jaxpr(closed.jaxpr, consts, *jax.tree.leaves((p, x)))
        return jax.tree.unflatten(jax.tree.structure(types), out)

    @jax.custom_jvp
    def ruled(consts, p, x):
        return run(consts, p, x)

    @ruled.defjvp
    def _(primals, tangents):
        consts, *point = primals
        return jax.jvp(lambda p, x: run(consts, p, x), point, [scaled(2.0, tangents[1]), 3.0 * tangents[2]])

    return ruled(closed.consts, p, x)


def lifted_linear_transpose(fn, mdl, x, _):
    return nn.linear_transpose(lambda mdl, v: v * fn(mdl, x), mdl, x, argnums=0)(jnp.cos(x))


def plain_linear_transpose(pure, p, x, shaped):
    y, new = pure(p, x)
    return jnp.cos(x) * y, new


def jacobian(name):
    def lifted(fn, mdl, x, _):
        return getattr(nn, name)(lambda mdl, x: fn(mdl, x)[0], mdl, x, wrt="params")

    def plain(pure, p, x, shaped):
        row = lambda p, x: (lambda y, new: (y[0], new))(*pure(p, x))
        (in_p, in_x), new = getattr(jax, name)(row, argnums=(0, 1), has_aux=True)(p, x)
        return (shaped(in_p), in_x), new

    return lifted, plain


def product(name):
    def lifted(fn, mdl, x, variables):
        t = scaled(0.5, variables)
        return getattr(nn, name)(scalar(fn), mdl, (x,), (jnp.cos(x),), t, wrt="params")

    def plain(pure, p, x, shaped):
        gradient = jax.grad(of(pure), argnums=(0, 1), has_aux=True)
        grads, products, new = jax.jvp(gradient, (p, x), (scaled(0.5, p), jnp.cos(x)), has_aux=True)
        return tuple((shaped(a), b) for a, b in (grads, products)), new

    return lifted, plain


def plain_hessian(pure, p, x, shaped):
    return jax.hessian(of(pure), argnums=1, has_aux=True)(p, x)


def plain_laplacian(pure, p, x, shaped):
    matrix, new = plain_hessian(pure, p, x, shaped)
    return (of(pure)(p, x)[0], jnp.trace(matrix.reshape(x.size, x.size))), new


def plain_divergence(pure, p, x, shaped):
    matrix, (y, new) = jax.jacfwd(lambda x: (lambda y, new: (y, (y, new)))(*pure(p, x)), has_aux=True)(x)
    return (y, jnp.trace(matrix.reshape(x.size, x.size))), new


def lifted_fixed_point(fn, mdl, x, _):
    step = lambda mdl, z, x: 0.05 * jnp.tanh(fn(mdl, z)) + x
    return nn.fixed_point(step, mdl, x, x, max_steps=30)[0]


def lifted_root(fn, mdl, x, _):
    return nn.root(lambda mdl, z, x: z - 0.05 * jnp.tanh(fn(mdl, z)) - x, mdl, x, x, max_steps=4)[0]


def plain_fixed_point(pure, p, x, shaped):
    step = lambda z, _: (0.05 * jnp.tanh(pure(p, z)[0]) + x, None)
    z = jax.lax.scan(step, x, length=12)[0]
    return z, pure(p, z)[1]


ROWS = {
    "vjp": (lifted_vjp, plain_vjp),
    "jvp": (lifted_jvp, plain_jvp),
    "grad": (lifted_grad, plain_grad),
    "value_and_grad": (lambda fn, mdl, x, _: nn.value_and_grad(scalar(fn), mdl, x), plain_value_and_grad),
    "custom_vjp": (lifted_custom_vjp, plain_rule),
    "custom_jvp": (lifted_custom_jvp, plain_rule),
    "custom_gradient": (lifted_custom_gradient, plain_rule),
    "linearize": (lifted_linearize, plain_jvp),
    "linear_transpose": (lifted_linear_transpose, plain_linear_transpose),
    "jacfwd": jacobian("jacfwd"),
    "jacrev": jacobian("jacrev"),
    "hessian": (lambda fn, mdl, x, _: nn.hessian(scalar(fn), mdl, x), plain_hessian),
    "hvp": product("hvp"),
    "vhp": product("vhp"),
    "laplacian": (lambda fn, mdl, x, _: nn.laplacian(scalar(fn), mdl, x), plain_laplacian),
    "divergence": (lambda fn, mdl, x, _: nn.divergence(fn, mdl, x), plain_divergence),
    "stop_gradient": (
        lambda fn, mdl, x, _: nn.stop_gradient(fn, mdl, x, stopped="params"),
        lambda pure, p, x, shaped: pure(jax.lax.stop_gradient(p), x),
    ),
    "fixed_point": (lifted_fixed_point, plain_fixed_point),
    "root": (lifted_root, plain_fixed_point),
}


def cells():
    """Each transform in each form, with each kind of state; the outer transforms go round."""
    for i, transform in enumerate(ROWS):
        for j, form in enumerate(FORMS):
            for k, kind in enumerate(BLOCKS):
                outer = OUTERS[(i + 3 * j + 2 * k + (i + j) // 8) % 8]
                if outer == "jvp" and transform in ("custom_vjp", "custom_gradient"):
                    outer = "none"  # JAX defines no forward mode of these
                yield FormCell(transform, form, kind, outer)


CELLS = tuple(cells())


def is_short(cell):
    """A fifth: each transform in each form once, less those that take longest."""
    turn = list(ROWS).index(cell.transform) + FORMS.index(cell.form)
    slow = cell.transform in ("hessian", "root") or cell.outer in ("grad", "scan")
    return list(BLOCKS).index(cell.kind) == turn % 4 and not (slow and turn % 3)


def told_error(cell):
    """Return the error that a cell states, if any: a function that is transposed is not run, and can't write."""
    if cell.transform == "linear_transpose" and cell.kind in WRITTEN:
        return errors.ModifyScopeVariableError
    return None


@pytest.mark.parametrize(
    "cell", [pytest.param(c, id=str(c), marks=[] if is_short(c) else [pytest.mark.long]) for c in CELLS]
)
def test_cell(cell):
    at = Cell(cell.transform, cell.kind, "apply", cell.outer)
    if error := told_error(cell):
        with pytest.raises(error, match="is written"):
            differentiated(at, cell.program, jit=True)
        return
    want = differentiated(at, cell.reference, jit=True)
    assert_trees_close(differentiated(at, cell.program, jit=cell.outer != "none"), want, 5e-4)
    assert any(jnp.any(g != 0) for g in jax.tree.leaves(want["gradients"]))


def test_matrix_is_whole():
    """19 transforms, seven forms, four kinds of state; each transform meets each outer one."""
    assert len(CELLS) == len(set(CELLS)) == 19 * 7 * 4
    for transform in set(ROWS) - {"custom_vjp", "custom_gradient"}:
        assert {c.outer for c in CELLS if c.transform == transform} == set(OUTERS)
    assert sum(told_error(c) is not None for c in CELLS) == 14
    assert {(c.transform, c.form) for c in CELLS} == {(t, f) for t in ROWS for f in FORMS}
