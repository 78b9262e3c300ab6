"""Rules of functions within the program: calls, and functions with derivatives of their own.

A rule of `jax.custom_jvp` is a program too: `R : (x, t) -> (f(x), Df(x) t)`. The pass runs over it with the tangent
taken for a value that is zero, whose first derivatives are those of `x` and whose Laplacian is twice that of `x`. Since
`R` is linear in `t`, the derivatives of its second result are then those of `f`, and its Laplacian is twice that of
`f`: `2 Df lx + 2 sum_i D^2 f [dx_i, dx_i]`. So nothing is differentiated direction by direction.

The backward rule of `jax.custom_vjp` is linear in the cotangent. Its transpose is such a program `R`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from liftax.ad.laplacian.general import aligned, results, shared
from liftax.ad.laplacian.pointwise import pointwise_custom
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import Varying, is_inexact, value_of
from liftax.errors import CustomRuleError


def call(key: str) -> Rule:
    """Return the rule of a call, whose program is the parameter `key`."""

    def rule(step: Step) -> list[Any]:
        inner = step.params[key]
        consts = getattr(inner, "consts", ())
        return step.within.run(getattr(inner, "jaxpr", inner), consts, step.operands)

    return rule


def _custom_jvp(step: Step) -> list[Any] | None:
    done = pointwise_custom(step)
    return by_tangents(step, lambda x, t: jax.jvp(step.run, x, t)) if done is None else done


def _custom_vjp(step: Step) -> list[Any]:
    def rule(x: Any, t: Any) -> Any:
        ys, pull = jax.vjp(step.run, *x)
        try:
            return ys, jax.linear_transpose(lambda *ct: pull(list(ct)), *ys)(t)
        except (NotImplementedError, AssertionError, TypeError, ValueError) as error:
            raise CustomRuleError(
                "laplacian: a backward rule of custom_vjp can't be transposed, as it is not linear in the cotangent. "
                "Give the function its rule with custom_jvp, or one for laplacian with custom_laplacian."
            ) from error

    return by_tangents(step, rule)


def by_tangents(step: Step, rule: Callable[[Any, Any], Any]) -> list[Any]:
    """Apply a function by its rule `(x, t) -> (f(x), Df(x) t)`, both lists of arrays."""
    point = tuple(x.value for x in step.inputs)
    if not step.within.curved:  # the rule of a function may call the function
        pattern = shared(step)
        firsts = jax.vmap(lambda *t: rule(point, t)[1])(*aligned(step, pattern))
        ys = step.run(*point)
        return results(step, ys, firsts, [None] * len(ys), pattern)
    closed = jax.make_jaxpr(rule)(point, point)
    env: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    count = len(point)
    for v, x in zip(closed.jaxpr.invars[:count], step.inputs, strict=True):
        env[v] = Varying(x.value, x.base, None, x.slope)
    for v, x in zip(closed.jaxpr.invars[count:], step.inputs, strict=True):
        second = None if x.second is None else 2 * x.second
        env[v] = Varying(jnp.zeros_like(x.value), x.base, second, x.slope, True)

    def read(v: Any) -> Any:
        return v.val if hasattr(v, "val") else env[v]

    straight = step.within.straight()  # what depends on `x` only: its first derivatives suffice
    tangent = set(closed.jaxpr.invars[count:])
    for eqn in closed.jaxpr.eqns:
        linear = any(not hasattr(v, "val") and v in tangent for v in eqn.invars)
        within = step.within if linear else straight
        env.update(zip(eqn.outvars, within.apply(eqn, [read(v) for v in eqn.invars]), strict=True))
        if linear:
            tangent.update(eqn.outvars)
    found = [read(v) for v in closed.jaxpr.outvars]
    count, out = len(step.eqn.outvars), []
    for v, y, dy in zip(step.eqn.outvars, found[:count], found[count:], strict=True):
        if is_inexact(v.aval) and isinstance(dy, Varying):
            second = None if dy.second is None else 0.5 * dy.second
            out.append(Varying(value_of(y), dy.base, second, dy.slope))
        else:
            out.append(value_of(y))
    return out


RULES: dict[str, Rule] = {
    **dict.fromkeys(("remat", "remat2", "checkpoint"), call("jaxpr")),
    **dict.fromkeys(("closed_call", "core_call"), call("call_jaxpr")),
    "custom_jvp_call": _custom_jvp,
    **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr"), _custom_vjp),
}
