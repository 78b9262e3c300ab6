"""Functions of JAX that a program calls, known by their programs: the determinants.

`jnp.linalg.slogdet` and `det` have rules of their own, which see the matrix instead of its factorization. A call in a
program is theirs if it holds the very program that they are traced to, as they are or under `jax.vmap`. Where it does
not, the derivatives come from their rules of `jax.custom_jvp`: the same ones, at a higher price.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from liftax.ad.laplacian.calls import call
from liftax.ad.laplacian.jacobian import Jacobian
from liftax.ad.laplacian.linalg import det, slogdet
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import Varying

_KNOWN: dict[str, tuple[Callable[..., Any], Callable[[Varying], list[Any] | None]]] = {
    "slogdet": (jnp.linalg.slogdet, slogdet),
    "det": (jnp.linalg.det, det),
}
_MOST_MAPPED = 2
"""How many `vmap`s around a function are looked through."""

_inside = call("jaxpr")


def jitted(step: Step) -> list[Any] | None:
    """Apply a function that is compiled as one: one of those known, or what is in it."""
    known = _KNOWN.get(step.params.get("name", ""))
    if known is None or len(step.operands) != 1:
        return _inside(step)
    function, rule = known
    (x,) = step.inputs
    order = _batch_order(step, function, x.value)
    done = None if order is None else rule(_transposed(x, order))
    return _inside(step) if done is None else done


def _batch_order(step: Step, function: Callable[..., Any], x: Any) -> tuple[int, ...] | None:
    """Return the order of axes in which the equation calls `function` on a stack of matrices; None if it does not."""
    for mapped, order in _mapped(function, x.ndim):
        if x.ndim < 2 or x.shape[order[-1]] != x.shape[order[-2]]:
            continue
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        eqns = jax.make_jaxpr(mapped)(like).eqns
        theirs = [e.params["jaxpr"] for e in eqns if e.params.get("name") == step.params["name"]]
        mine = step.params["jaxpr"]
        if theirs and (mine is theirs[0] or (not mine.consts and str(mine) == str(theirs[0]))):
            return order
    return None


def _mapped(function: Callable[..., Any], ndim: int) -> Iterator[tuple[Callable[..., Any], tuple[int, ...]]]:
    """Yield the function under vmaps, with the axes of its operand in the order in which it would be given them."""
    for depth in range(min(_MOST_MAPPED, ndim - 2) + 1):
        for axes in itertools.product(*(range(ndim - d) for d in range(depth))):
            mapped, left, order = function, list(range(ndim)), []
            for axis in axes:
                order.append(left.pop(axis))
            for axis in reversed(axes):
                mapped = jax.vmap(mapped, in_axes=axis)
            yield mapped, (*order, *left)


def _transposed(x: Varying, order: tuple[int, ...]) -> Varying:
    if order == tuple(range(x.ndim)):
        return x
    whole = (0, *(a + 1 for a in order))
    base = Jacobian(x.jacobian.data.transpose(whole), x.pattern.directions.pattern(x.pattern.index.transpose(whole)))
    return Varying(x.value.transpose(order), base, None if x.second is None else x.second.transpose(order))


RULES: dict[str, Rule] = dict.fromkeys(("pjit", "jit"), jitted)
