"""Rules of linear algebra: value, first derivatives and Laplacian at once, by matrix products and traces.

Each result solves an equation that is bilinear in it and the matrix; the equation, differentiated twice and summed over
directions, is the linear equation of the first derivative once more, with another right-hand side:

    A x = b        A lx = lb - lA x - 2 sum_i dA_i dx_i
    P A = L U      the derivative at lA - 2 P^T sum_i dL_i dU_i
    A = L L^T      the derivative at lA - 2 sum_i dL_i dL_i^T

and, with `B_i = A^-1 dA_i`, of the logarithm of the determinant, `tr(B_i)` and `tr(A^-1 lA) - sum_i tr(B_i B_i)`. If
each row depends on directions of its own, as in the determinant of orbitals, `B_i` has one row, and the trace one term.

Source: for the determinant, Jacobi's formula; Petersen and Pedersen, The Matrix Cookbook (2012), sections 2.1 and 2.2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax.ad.laplacian.general import aligned, results, shared
from liftax.ad.laplacian.jacobian import Jacobian
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import Varying, plus


def log_determinant(a: Varying) -> tuple[Jacobian, Any]:
    """Return the first derivatives and the Laplacian of log|det a| for real `a : (…, n, n)`."""
    inverse, jacobian, ndim = jnp.linalg.inv(a.value), a.jacobian, a.ndim
    second = None if a.second is None else jnp.einsum("...ij,...ji->...", inverse, a.second)
    if jacobian.pattern.varies(ndim - 1):
        if not jacobian.pattern.varies(ndim - 2):  # columns of their own: the determinant of the transpose
            index = jacobian.pattern.index.swapaxes(-1, -2)
            jacobian = Jacobian(jacobian.data.swapaxes(-1, -2), jacobian.pattern.directions.pattern(index))
            inverse = inverse.swapaxes(-1, -2)
        else:
            jacobian = jacobian.over([ndim - 1])
    if jacobian.pattern.varies(ndim - 2) and not _disjoint(jacobian.pattern.index):
        jacobian = jacobian.over([ndim - 2])
    index = jacobian.pattern.index[..., 0]
    if jacobian.pattern.varies(ndim - 2):
        diagonal = jnp.einsum("k...ij,...ji->k...i", jacobian.data, inverse)
        traces = Jacobian(diagonal, jacobian.pattern.directions.pattern(index))
        squares = jnp.sum(diagonal * diagonal, (0, -1))
        return traces.sum([ndim - 2]), plus(second, -squares)
    product = jnp.matmul(jacobian.data, inverse)
    squares = jnp.sum(product * product.swapaxes(-1, -2), (0, -1, -2))
    pattern = jacobian.pattern.directions.pattern(index[..., 0])
    return Jacobian(jnp.trace(product, axis1=-2, axis2=-1), pattern), plus(second, -squares)


def _disjoint(index: np.ndarray) -> bool:
    """Tell whether no two rows (the last axis but one) depend on the same direction."""
    for chosen in np.moveaxis(index[..., 0], -1, 0).reshape(index.shape[-2], len(index), -1).transpose(2, 0, 1):
        used = chosen[chosen >= 0]
        if len(np.unique(used)) < sum(len(np.unique(row[row >= 0])) for row in chosen):
            return False
    return True


def slogdet(a: Varying) -> list[Any] | None:
    """Return the results of `jnp.linalg.slogdet`; None for complex matrices."""
    if jnp.iscomplexobj(a.value):
        return None
    sign, log = jnp.linalg.slogdet(a.value)
    return [sign, Varying(log, *log_determinant(a))]


def det(a: Varying) -> list[Any] | None:
    """Return the result of `jnp.linalg.det`; None for complex matrices, and for those that have a formula."""
    if jnp.iscomplexobj(a.value) or a.value.shape[-1] < 4:
        return None
    value = jnp.linalg.det(a.value)
    base, second = log_determinant(a)
    return [Varying(value, base, value * (second + base.squares), value)]


def _solved(step: Step, correction: Callable[..., Any]) -> list[Any]:
    """Apply an equation whose result solves a bilinear one.

    `correction(*values, *first derivatives of the operands and the results)` is what the Laplacians of the moving
    operands are changed by.
    """
    pattern, inputs = shared(step), step.inputs
    firsts = aligned(step, pattern)
    ys, push = jax.linearize(step.run, *(x.value for x in inputs))
    dys = jax.vmap(push)(*firsts)
    changes = correction(ys, firsts, dys)
    sources = [jnp.zeros_like(x.value) if x.second is None else x.second for x in inputs]
    lys = push(*(s if c is None else s + c for s, c in zip(sources, changes, strict=True)))
    return results(step, ys, dys, lys, pattern)


def _cholesky(step: Step) -> list[Any]:
    def correction(ys: Any, firsts: Any, dys: Any) -> list[Any]:
        return [-2 * jnp.einsum("k...ij,k...lj->...il", dys[0], dys[0].conj())]

    return _solved(step, correction)


def _lu(step: Step) -> list[Any]:
    def correction(ys: Any, firsts: Any, dys: Any) -> list[Any]:
        packed = dys[0]
        n = min(packed.shape[-2:])
        lower, upper = jnp.tril(packed, -1)[..., :n], jnp.triu(packed)[..., :n, :]
        both = jnp.einsum("k...ij,k...jl->...il", lower, upper)
        back = jnp.argsort(ys[2], axis=-1)
        return [-2 * jnp.take_along_axis(both, back[..., None], -2)]

    return _solved(step, correction)


def _triangular_solve(step: Step) -> list[Any] | None:
    p = step.params
    if step.moving == [1]:
        return None

    def correction(ys: Any, firsts: Any, dys: Any) -> list[Any]:
        a = jnp.tril(firsts[0]) if p["lower"] else jnp.triu(firsts[0])
        if p["unit_diagonal"]:
            a = a - a * jnp.eye(a.shape[-1], dtype=a.dtype)
        a = a.conj() if p.get("conjugate_a") else a
        a = a.swapaxes(-1, -2) if p["transpose_a"] else a
        terms = (a, dys[0]) if p["left_side"] else (dys[0], a)
        return [None, -2 * jnp.einsum("k...ij,k...jl->...il", *terms)]

    return _with_right_side(step, 1, correction)


def _custom_linear_solve(step: Step) -> list[Any] | None:
    lengths, jaxprs = step.params["const_lengths"], step.params["jaxprs"]
    consts, matvec = step.operands[: lengths.matvec], jaxprs.matvec
    first = sum(lengths)
    if not any(isinstance(c, Varying) for c in consts):
        return None

    def correction(ys: Any, firsts: Any, dys: Any, pattern: Any) -> list[Any]:
        xs = results(step, ys, dys, [None] * len(ys), pattern)
        known = [Varying(c.value, c.base, None, c.slope) if isinstance(c, Varying) else c for c in consts]
        made = step.within.run(matvec.jaxpr, matvec.consts, [*known, *xs])
        return [-m.second if isinstance(m, Varying) and m.second is not None else None for m in made]

    places = range(first, len(step.operands))
    return _with_right_sides(step, list(places), correction)


def _with_right_side(step: Step, place: int, correction: Callable[..., Any]) -> list[Any]:
    def change(ys: Any, firsts: Any, dys: Any, pattern: Any) -> list[Any]:
        return [correction(ys, firsts, dys)[1]]

    return _with_right_sides(step, [place], change)


def _with_right_sides(step: Step, places: list[int], correction: Callable[..., Any]) -> list[Any]:
    """Apply a linear solve; `correction` returns what is added to the Laplacians of the right-hand sides."""
    pattern, inputs = shared(step), step.inputs
    firsts = aligned(step, pattern)
    moving = [*step.moving, *(i for i in places if i not in step.moving)]

    def run(*moved: Any) -> list[Any]:
        return step.run_at(moving, moved)

    ys, push = jax.linearize(run, *(step.values[i] for i in moving))
    still = [jnp.zeros_like(step.values[i]) for i in moving[len(firsts) :]]
    dys = jax.vmap(lambda *v: push(*v, *still))(*firsts)
    changes = dict(zip(places, correction(ys, firsts, dys, pattern), strict=True))
    sources = [jnp.zeros_like(x.value) if x.second is None else x.second for x in inputs] + still
    lys = push(*(plus(s, changes.get(i)) for s, i in zip(sources, moving, strict=True)))
    return results(step, ys, dys, lys, pattern)


def _eigh(step: Step) -> list[Any] | None:
    (a,) = step.inputs
    if jnp.iscomplexobj(a.value) or len(step.eqn.outvars) != 2 or step.params.get("subset_by_index") is not None:
        return None
    pattern = shared(step)
    (da,) = aligned(step, pattern)
    v, w = step.run(a.value)
    t = v.swapaxes(-1, -2)
    eye = jnp.eye(w.shape[-1], dtype=w.dtype)
    gaps = (1 - eye) / (w[..., None, :] - w[..., :, None] + eye)
    turned = t @ da @ v
    dw = jnp.diagonal(turned, axis1=-2, axis2=-1)
    mixed = gaps * turned
    both = 2 * jnp.sum(turned @ mixed - mixed * dw[..., None, :], 0)
    if a.second is not None:
        both = both + t @ a.second @ v
    norm = jnp.sum(mixed * mixed, (0, -2))
    lv = v @ (gaps * both - eye * norm[..., None, :])
    lw = jnp.diagonal(both, axis1=-2, axis2=-1)
    return results(step, [v, w], [v @ mixed, dw], [lv, lw], pattern)


RULES: dict[str, Rule] = {
    "cholesky": _cholesky,
    "lu": _lu,
    "triangular_solve": _triangular_solve,
    "custom_linear_solve": _custom_linear_solve,
    "linear_solve": _custom_linear_solve,
    "eigh": _eigh,
}
