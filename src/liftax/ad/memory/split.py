"""A program split in the two parts that reverse-mode differentiation makes of it.

    split : (a -> b) -> (a -> (b, leaves), (leaves, T a) -> T b)

The forward part computes the outputs, and the leaves that the linear part reads. Plain `jax.grad` keeps all leaves;
which ones to keep and which to compute again is what a plan decides (`liftax.ad.memory.plan`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.core

from liftax.ad.memory.program import inlined, is_var, needed

Loop = Callable[[Any, Sequence[Any]], Sequence[Any] | None]


@dataclasses.dataclass(eq=False)
class Split:
    """The forward and the linear part of a program.

    Args:
        program: a jaxpr that holds the equations of the forward part, and its inputs.
        equations: those of the forward part, in order.
        constants: variable -> value, of what is neither an input nor computed.
        outputs: the variables or literals that the program returns.
        linear: a jaxpr that holds the equations of the linear part.
        steps: the equations of the linear part, in order.
        reads: the variables of the linear part that stand for values of the forward one -> these.
        tangents: the variables of the linear part that are the tangents of the differentiated inputs.
        tangents_out: for each output its tangent in the linear part, or None where it is zero.
    """

    program: Any
    equations: list[Any]
    constants: Mapping[Any, Any]
    outputs: Sequence[Any]
    linear: Any
    steps: list[Any]
    reads: Mapping[Any, Any]
    tangents: Sequence[Any]
    tangents_out: Sequence[Any]


def split(jaxpr: Any, nonzero: Sequence[bool], loop: Loop) -> Split:
    """Split a program that has no constants.

    Args:
        jaxpr: the program.
        nonzero: for each input, whether it is differentiated.
        loop: see `inlined`.
    """
    types = [v.aval for v in jaxpr.invars]
    structures: list[Any] = []

    def forward(*args: Any) -> list[Any]:
        def varied(*moving: Any) -> list[Any]:
            rest = iter(moving)
            return inlined(jaxpr, (), [next(rest) if nz else x for x, nz in zip(args, nonzero, strict=True)], loop)

        out, linear = jax.linearize(varied, *[x for x, nz in zip(args, nonzero, strict=True) if nz])
        leaves, structure = jax.tree.flatten(linear)
        structures.append((len(out), structure))
        return [*out, *leaves]

    first = _flat(jax.make_jaxpr(forward)(*types))
    count, structure = structures[-1]
    leaves = first.jaxpr.outvars[count:]
    moving = [t.to_tangent_aval() for t, nz in zip(types, nonzero, strict=True) if nz]
    second = _flat(
        jax.make_jaxpr(lambda leaves, tangents: structure.unflatten(leaves)(*tangents))(
            [x.aval for x in leaves], moving
        )
    )
    return _assembled(first, count, second, leaves)


def _assembled(first: Any, count: int, second: Any, leaves: Sequence[Any]) -> Split:
    jaxpr, linear = first.jaxpr, second.jaxpr
    tangents = linear.invars[len(leaves) :]
    constants = {**dict(zip(jaxpr.constvars, first.consts, strict=True))}
    constants.update(zip(linear.constvars, second.consts, strict=True))
    reads: dict[Any, Any] = dict(zip(linear.invars, leaves))  # noqa: B905  the tangents come after the leaves
    reads.update((v, v) for v in linear.constvars)
    equations = list(jaxpr.eqns)
    steps, moving = [], set(tangents)
    for eqn in linear.eqns:
        if any(is_var(x) and x in moving for x in eqn.invars):
            moving.update(eqn.outvars)
            steps.append(eqn)
        else:  # no tangent in it: it belongs to the forward part
            equations.append(eqn.replace(invars=[reads[x] if is_var(x) else x for x in eqn.invars]))
            reads.update((v, v) for v in eqn.outvars)
    tangents_out = [x if is_var(x) and x in moving else None for x in linear.outvars]
    steps = needed(steps, [x for x in tangents_out if x is not None])
    return Split(jaxpr, equations, constants, jaxpr.outvars[:count], linear, steps, reads, tangents, tangents_out)


def _flat(closed: Any) -> Any:
    """Write out the calls that rules of differentiation leave, such as those of `jnp.where`."""
    if not any(eqn.primitive.name in ("jit", "pjit", "closed_call") for eqn in closed.jaxpr.eqns):
        return closed
    types = [v.aval for v in closed.jaxpr.invars]
    return jax.make_jaxpr(lambda *args: inlined(closed.jaxpr, closed.consts, args, lambda *_: None))(*types)
