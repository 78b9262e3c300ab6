"""Programs: a traced function as a list of equations, taken apart and put together again.

    inlined : jaxpr -> args -> outputs       what the jaxpr computes, without the calls that `jax.jit` leaves in it
    part    : jaxpr, equations -> jaxpr      some of the equations, with inputs and outputs of their own

Equations and variables are those of JAX's jaxprs. A literal has a value, `val`; a variable has none.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from liftax import _compat
from liftax._compat import plans
from liftax.errors import MemoryPlanError

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_closed_call": "call_jaxpr"}
"""The equations that only call a program, with the parameter that holds it."""


def is_var(atom: Any) -> bool:
    """Tell a variable from a literal."""
    return not hasattr(atom, "val")


def opened(program: Any) -> tuple[Any, Sequence[Any]]:
    """Return a jaxpr and its constants, whether it is closed over them or has none."""
    return getattr(program, "jaxpr", program), getattr(program, "consts", ())


def inner_programs(eqn: Any) -> list[Any]:
    """Return the jaxprs among the parameters of an equation, without their constants."""
    found = []
    for value in eqn.params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(x, "jaxpr", x)
            if hasattr(jaxpr, "eqns"):
                found.append(jaxpr)
    return found


def inlined(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any],
    loop: Callable[[Any, Sequence[Any]], Sequence[Any] | None],
) -> list[Any]:
    """Run a jaxpr, and the programs that it calls as if they were written out in it.

    Args:
        jaxpr: without constants of its own.
        consts: values of its `constvars`.
        args: values of its `invars`.
        loop: called with an equation and its operands: returns its outputs, or None to run it as it is.
    """
    env: dict[Any, Any] = {**dict(zip(jaxpr.constvars, consts)), **dict(zip(jaxpr.invars, args))}  # noqa: B905
    for eqn in jaxpr.eqns:
        operands = [env[x] if is_var(x) else x.val for x in eqn.invars]
        name = eqn.primitive.name
        if name in CALLS and not plans.is_sharded_call(eqn):
            inner, held = opened(eqn.params[CALLS[name]])
            with plans.located(eqn):
                outputs = inlined(inner, held, operands, loop)
        else:
            outputs = loop(eqn, operands)
            if outputs is None:
                with plans.located(eqn):
                    outputs = _compat.run_equation(eqn, operands)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [env[x] if is_var(x) else x.val for x in jaxpr.outvars]


def part(jaxpr: Any, eqns: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """Return a jaxpr of some of the equations of `jaxpr`.

    Args:
        jaxpr: where the equations are from.
        eqns: in an order in which they can run.
        inputs: the variables that they read and do not define.
        outputs: variables, or literals.
    """
    return jaxpr.replace(
        constvars=[], invars=list(inputs), outvars=list(outputs), eqns=list(eqns),
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )  # fmt: skip


def needed(eqns: Sequence[Any], outputs: Iterable[Any]) -> list[Any]:
    """Return the equations that `outputs` depend on, and those with effects, in their order."""
    wanted = {x for x in outputs if is_var(x)}
    kept = []
    for eqn in reversed(eqns):
        if eqn.effects or not wanted.isdisjoint(eqn.outvars):
            kept.append(eqn)
            wanted.update(x for x in eqn.invars if is_var(x))
    return kept[::-1]


def refuse_refs(jaxpr: Any) -> None:
    """Raise MemoryPlanError if the program reads or writes a `jax.Ref`."""
    for v in (*jaxpr.constvars, *jaxpr.invars):
        if hasattr(v.aval, "inner_aval"):
            raise _refs(f"a reference to {v.aval.inner_aval.str_short()} among its arguments, or in its closure")
    for eqn in jaxpr.eqns:
        if any(hasattr(v.aval, "inner_aval") for v in eqn.outvars):
            raise _refs(f"the operation {eqn.primitive.name}")
        for inner in inner_programs(eqn):
            if eqn.primitive.name != "pallas_call":  # whose operands are references inside
                refuse_refs(inner)


def _refs(what: str) -> MemoryPlanError:
    return MemoryPlanError(
        f"checkpoint: the function works with mutable arrays (jax.Ref): {what}. A value that is computed again must "
        "not depend on what was overwritten in between. Take and return arrays, or leave this function out of it."
    )
