"""Loops under `vmap`: the loop of a batch is a loop, and so are its ways forward and back.

    run     : Program -> Operands -> Outputs
    saving  : (Program, Pull) -> Operands -> (Outputs, Saved)
    back    : (Program, Pull) -> Operands -> Saved -> cotangents of Outputs -> Cotangents

`vmap` of a loop would ask at each step for each array of it whether its member goes on, the kept states included. The
functions here have a rule instead, which makes the program of the batch (`Program.batched`) and runs that: what is
kept, and when, is one matter for all members, and only what the loop carries stands still.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from liftax.ad.loops.forward import Saved, save
from liftax.ad.loops.program import Arrays, Batched, Operands, Program, merge, pick
from liftax.ad.loops.reverse import Cotangents, Pull, reverse


class Outputs(NamedTuple):
    """The last state and the outputs of a loop; or tangents, or cotangents, of those that have some."""

    state: tuple[Any, ...]
    ys: tuple[Any, ...]


def run(program: Program) -> Callable[[Operands], Outputs]:
    """Return a function that runs `program`."""
    return program.made("run", lambda: _vmappable(program, _run, _run_batched))


def saving(program: Program, pull: Pull) -> Callable[[Operands], tuple[Outputs, Saved]]:
    """Return a function that runs `program` and keeps states of it."""
    return _vmappable((program, pull), _save, _save_batched)


def back(program: Program, pull: Pull) -> Callable[[Operands, Saved, Outputs], Cotangents]:
    """Return a function for the way back of `program`."""
    return _vmappable((program, pull), _reverse, _reverse_batched)


def _vmappable(what: Any, run: Callable[..., Any], run_batched: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run(what, …)` as a function that `vmap` makes into `run_batched(what, size, batched, …)`."""
    program = what[0] if isinstance(what, tuple) else what
    if program.named:  # vmap over the axis that it names has to see what is inside
        return functools.partial(run, what)

    @jax.custom_batching.custom_vmap
    def called(*args: Any) -> Any:
        return run(what, *args)

    @called.def_vmap
    def rule(size: int, batched: Any, *args: Any) -> Any:
        return run_batched(what, size, batched, *args)

    if run is _run:  # where nothing is differentiated the program is that of JAX's loop
        return called
    return jax.jit(
        called
    )  # traced once for a map and for the matrix that holds it; one program where nothing is compiled


def _run(program: Program, operands: Operands) -> Outputs:
    state, ys = program.run(operands)
    return Outputs(tuple(state), tuple(ys))


def _run_batched(program: Program, size: int, batched: Any, operands: Operands) -> tuple[Outputs, Outputs]:
    made = program.batched(size, *batched[0])
    return run(made.program)(_broadcast(operands, batched[0], made, size)), Outputs(made.state, made.ys)


def _save(what: tuple[Program, Pull], operands: Operands) -> tuple[Outputs, Saved]:
    program, pull = what
    state, ys, saved = save(program, pull.keep, operands)
    return Outputs(tuple(state), tuple(ys)), saved


def _save_batched(what: tuple[Program, Pull], size: int, batched: Any, operands: Operands) -> Any:
    program, pull = what
    made = program.batched(size, *batched[0])
    out, saved = saving(made.program, pull)(_broadcast(operands, batched[0], made, size))
    kept = Saved(tuple(pick(pull.keep, made.state)), made.ends, tuple(False for _ in saved.plan))
    return (out, saved), (Outputs(made.state, made.ys), kept)


def _reverse(what: tuple[Program, Pull], operands: Operands, saved: Saved, cts: Outputs) -> Cotangents:
    program, pull = what
    found = reverse(program, pull, operands, saved, cts)
    return Cotangents(tuple(found.consts), tuple(found.xs), tuple(found.state))


def _reverse_batched(
    what: tuple[Program, Pull], size: int, batched: Any, operands: Operands, saved: Saved, cts: Outputs
) -> Any:
    program, pull = what
    if any(batched[1].plan):  # members that kept states of different steps, as in a branch that not all have taken
        args = operands, saved, cts
        flat, structure = jax.tree.flatten(args)
        mapped = jax.tree.leaves(batched)

        def alone(rows: Arrays) -> Cotangents:
            return back(program, pull)(*jax.tree.unflatten(structure, merge(mapped, flat, rows)))

        found = jax.lax.map(alone, pick(mapped, flat))
        return found, jax.tree.map(lambda _: True, found)
    mask = batched[0]._replace(
        init=merge(
            pull.keep,
            batched[0].init,
            [a or b for a, b in zip(pick(pull.keep, batched[0].init), batched[1].slots, strict=True)],
        )
    )
    made = program.batched(size, *mask, ends=batched[1].total)
    operands = _broadcast(operands, batched[0], made, size)
    slots = _spread_members(saved.slots, batched[1].slots, pick(pull.keep, made.state), size)
    (total,) = _spread_members([saved.total], [batched[1].total], [made.ends], size)
    cts = jax.tree.map(lambda x, m: x if m else _stacked(x, size), cts, batched[2])
    axes = [[0 if m else None for m in ms] for ms in (mask.consts, mask.xs, pick(pull.keep, made.state))]
    masks = made.ends and not program.masked

    def member(consts: Arrays, alive: Any, i: Any, x: Arrays, state: Arrays, cts: Arrays, y_cts: Arrays) -> Any:
        c, x_cts, state_cts = pull.step(consts, alive, i, x, state, cts, y_cts)
        if masks:  # a step that does nothing
            c, x_cts = jax.tree.map(lambda v: jax.lax.select(alive, v, jnp.zeros_like(v)), (c, x_cts))
            state_cts = [jax.lax.select(alive, a, b) for a, b in zip(state_cts, cts, strict=True)]
        return c, x_cts, state_cts

    step = jax.vmap(
        member, in_axes=(axes[0], 0 if made.ends else None, None, axes[1], axes[2], 0, 0), out_axes=0, axis_size=size
    )
    all_members = pull._replace(step=lambda *args: step(*map(_listed, args)), lead=(size, *pull.lead))
    found = back(made.program, all_members)(operands, Saved(tuple(slots), total, saved.plan), cts)
    return found, jax.tree.map(lambda _: True, found)


def _listed(x: Any) -> Any:
    return list(x) if isinstance(x, tuple) else x


def _broadcast(operands: Operands, batched: Operands, made: Batched, size: int) -> Operands:
    """Give the batch axis to what the program of the batch expects it of."""
    init = _spread_members(operands.init, batched.init, made.state, size)
    return operands._replace(init=tuple(init))


def _spread_members(values: Arrays, have: Sequence[bool], want: Sequence[bool], size: int) -> list[Any]:
    return [_stacked(x, size) if w and not h else x for x, h, w in zip(values, have, want, strict=True)]


def _stacked(x: Any, size: int) -> Any:
    return jnp.broadcast_to(x, (size, *x.shape))
