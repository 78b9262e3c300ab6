"""Loops in a program that is planned: their bodies are planned, and what they keep counts as often as they run.

    planned_bodies : (body -> plan) -> scan -> scan     the loop with a body that has the derivative of a plan

JAX differentiates the loop; the derivative of its body comes from the plan, and what the body keeps is stacked over the
steps. What is constant over the steps, and what is scanned over, is there anyway; what is carried is another value in
each step, and takes memory to keep.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core

from liftax._compat import plans
from liftax.ad.memory.program import opened


def run_with_plan(*args: Any, jaxpr: Any, plan: Any) -> list[Any]:
    """Run a program whose derivative a plan makes: see `liftax._compat.plans`."""
    return plans.differentiated_by_plan("planned").bind(*args, jaxpr=jaxpr, plan=plan)


def planned_bodies(
    plan_of_body: Callable[[frozenset[int], int], tuple[Any, str]],
) -> Callable[[Any, Sequence[Any]], Any]:
    """Return what runs a `scan` with a planned body, and returns None for any other equation.

    Args:
        plan_of_body: called with the indices of the inputs that the loop carries and the number of its steps, returns
            the plan (see `plans.differentiated_by_plan`), and a name for the loop, which may be empty.
    """

    def loop(eqn: Any, operands: Sequence[Any]) -> Any:
        if eqn.primitive.name != "scan":
            return None
        consts, carried = plans.scan_counts(eqn)
        params = eqn.params
        body, held = opened(params["jaxpr"])
        if body.effects:  # what a loop does beside computing stays as it is
            return None
        inputs = [*body.constvars, *body.invars]
        inner = body.replace(constvars=[], invars=inputs, debug_info=body.debug_info.with_unknown_names())
        shift = len(held) + consts
        plan, name = plan_of_body(frozenset(range(shift, shift + carried)), params["length"])

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            out = run_with_plan(*held, *operands[:consts], *carry, *x, jaxpr=inner, plan=plan)
            return out[:carried], out[carried:]

        with jax.named_scope(name) if name else contextlib.nullcontext():
            carry, ys = jax.lax.scan(
                step, list(operands[consts : consts + carried]), list(operands[consts + carried :]),
                length=params["length"], reverse=params["reverse"], unroll=params["unroll"],
            )  # fmt: skip
        return [*carry, *ys]

    return loop
