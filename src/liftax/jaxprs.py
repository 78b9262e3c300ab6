"""Reading jaxprs: what a program computes, and what of it depends on which input.

    depends   : jaxpr -> which inputs are unknown -> which outputs depend on their values
    run_slice : jaxpr -> inputs -> which outputs are wanted -> these outputs, by the equations that they need

Everything here uses the attributes that JAX documents for jaxprs and equations (`eqns`, `invars`, `outvars`, `params`,
`effects`). Other modules read jaxprs through this one.

Source: the page "Understanding Jaxprs" of JAX's documentation.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from liftax import _compat

_INLINED = frozenset({"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"})
_CALLS = _INLINED | {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin"}


def is_literal(x: Any) -> bool:
    """Return whether an input of an equation is a literal, whose value is `x.val`."""
    return hasattr(x, "val")


def opened(program: Any) -> Any:
    """Return the jaxpr of a program, which may be one, or a closed one."""
    return program.jaxpr if hasattr(program, "consts") and hasattr(program, "jaxpr") else program


def programs_in(value: Any) -> Iterator[Any]:
    """Yield the jaxprs, open or closed, in a parameter of an equation."""
    if hasattr(value, "eqns"):
        yield value
    elif isinstance(value, tuple | list):
        for x in value:
            yield from programs_in(x)


def called(eqn: Any) -> Any | None:
    """Return the program that an equation calls with its own inputs and outputs; None if it is no such call."""
    if eqn.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        program = eqn.params.get(name)
        if program is not None and len(opened(program).invars) == len(eqn.invars):
            return program
    return None


def scan_parts(eqn: Any) -> tuple[int, int]:
    """Return how many inputs of a scan are constants, and how many are carried: the others are scanned over.

    What is scanned over, and what is stacked, has one axis more outside of the body than inside.
    """
    body = opened(eqn.params["jaxpr"])
    rank = lambda x: len(x.aval.shape)  # noqa: E731
    stacked = sum(rank(x) != rank(inner) for x, inner in zip(eqn.outvars, body.outvars, strict=True))
    scanned = sum(rank(x) != rank(inner) for x, inner in zip(eqn.invars, body.invars, strict=True))
    carried = len(eqn.outvars) - stacked
    return len(eqn.invars) - carried - scanned, carried


def depends(jaxpr: Any, unknown: Sequence[bool]) -> list[bool]:
    """Return which outputs depend on the value of an input that is unknown.

    Args:
        jaxpr: a jaxpr. What its constants hold is known.
        unknown: one entry for each input.
    """
    found = {var for var, is_unknown in zip(jaxpr.invars, unknown, strict=True) if is_unknown}
    for eqn in jaxpr.eqns:
        ins = [not is_literal(x) and x in found for x in eqn.invars]
        if any(ins):
            found.update(var for var, out in zip(eqn.outvars, _depends_through(eqn, ins), strict=True) if out)
    return [not is_literal(x) and x in found for x in jaxpr.outvars]


def _depends_through(eqn: Any, ins: Sequence[bool]) -> Sequence[bool]:
    name, params = eqn.primitive.name, eqn.params
    if (program := called(eqn)) is not None:
        return depends(opened(program), ins)
    if name == "scan":
        consts, count = scan_parts(eqn)
        fixed, carry, xs = list(ins[:consts]), list(ins[consts : consts + count]), list(ins[consts + count :])
        while True:
            outs = depends(opened(params["jaxpr"]), [*fixed, *carry, *xs])
            grown = [a or b for a, b in zip(carry, outs[:count], strict=True)]
            if grown == carry:
                return [*carry, *outs[count:]]
            carry = grown
    if name == "cond" and not ins[0]:
        outs = [depends(opened(branch), ins[1:]) for branch in params["branches"]]
        return [any(column) for column in zip(*outs, strict=True)]
    return [True] * len(eqn.outvars)


def run_slice(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    """Run the equations that some outputs need, and return these; None for the others.

    Args:
        jaxpr: a jaxpr.
        consts: the values of its constants.
        args: its inputs; a `jax.ShapeDtypeStruct` for one that no wanted output depends on. An equation that reads it
            all the same gets zeros.
        wanted: one entry for each output.
    """
    live = {x for x, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted and not is_literal(x)}
    needed = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(var in live for var in eqn.outvars):
            needed.append(eqn)
            live.update(x for x in eqn.invars if not is_literal(x))
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=False))
    values.update(zip(jaxpr.invars, args, strict=True))

    def value(x: Any) -> Any:
        found = x.val if is_literal(x) else values[x]
        return jnp.zeros(found.shape, found.dtype) if isinstance(found, jax.ShapeDtypeStruct) else found

    for eqn in reversed(needed):
        outs = [var in live for var in eqn.outvars]
        program = called(eqn) if eqn.primitive.name in _INLINED else None
        if program is None or all(outs):
            results = _compat.run_equation(eqn, [value(x) for x in eqn.invars])
        else:
            given = [x.val if is_literal(x) else values[x] for x in eqn.invars]
            results = run_slice(opened(program), getattr(program, "consts", ()), given, outs)
        values.update(zip(eqn.outvars, results, strict=True))
    return [value(x) if is_wanted else None for x, is_wanted in zip(jaxpr.outvars, wanted, strict=True)]


def partial_eval(fun: Any, known: Any, unknown: Any) -> tuple[Any, list[Any]]:
    """Return `(fun(known, unknown), [])` where nothing of the result depends on the value of `unknown`.

    Where something does, return `(None, types)`: the types of the values in `unknown` that it depends on.

    Args:
        fun: a function of two trees of arrays. It is traced with types only, and what the result needs of it is run.
        known: arrays.
        unknown: arrays or `jax.ShapeDtypeStruct`s.
    """
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(known, unknown)
    jaxpr, leaves = closed.jaxpr, jax.tree.leaves(known)
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(unknown)]
    if any(depends(jaxpr, [False] * len(leaves) + [True] * len(types))):
        at_fault = [
            t
            for i, t in enumerate(types)
            if any(depends(jaxpr, [False] * len(leaves) + [i == j for j in range(len(types))]))
        ]
        return None, at_fault
    out = run_slice(jaxpr, closed.consts, [*leaves, *types], [True] * len(jaxpr.outvars))
    return jax.tree.unflatten(jax.tree.structure(shape), out), []
