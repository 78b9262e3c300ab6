"""The way forward of a loop that is going to be reversed: run it, and keep some of the states on the way.

    save : Program -> which arrays of the state to keep -> Operands -> (state, ys, Saved)

States are kept between stretches of steps, each a loop of its own, so that a step costs what it costs in a loop that
keeps nothing, and nothing is copied that is not kept. Where all states are kept, each step writes one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from liftax.ad.loops.program import Arrays, Operands, Program, blank, pick, put_at
from liftax.ad.loops.schedule import Online, Rank, rank, split


class Saved(NamedTuple):
    """What is kept of a loop for its way back, beside its operands.

    Args:
        slots: for each array of the state that the way back needs, `checkpoints - 1` of its values, along an axis
            behind the batch axes.
        total: the number of steps, for each member.
        plan: what tells which steps the slots are of: nothing, if that is known; the number of steps; or an
            `Online` without its last part.
    """

    slots: tuple[Any, ...]
    total: Any
    plan: tuple[Any, ...]


class Walk(NamedTuple):
    """How far the loop has come: the step, its state, the outputs, who is alive, and each one's number of steps."""

    i: Any
    state: list[Any]
    ys: list[Any]
    alive: Any
    total: Any


def keeps_all(program: Program) -> bool:
    """Tell whether each state has a place of its own."""
    limit = program.options.limit
    return limit is not None and limit <= program.options.checkpoints


def save(program: Program, keep: Sequence[bool], operands: Operands) -> tuple[list[Any], list[Any], Saved]:
    """Run `program`, and keep states of it.

    Args:
        program: The loop.
        keep: For each array of the state, whether the way back needs it.
        operands: What it runs on.

    Returns:
        The last state, the outputs, and what was kept.
    """
    c = program.options.checkpoints
    depths = pick(keep, program.depths.state)
    slots = [_room(x, d, c - 1) for x, d in zip(pick(keep, operands.init), depths, strict=True)]
    end, walk, go, step = _walker(program, operands)

    def put(slots: Arrays, state: Arrays, slot: Any) -> list[Any]:
        return put_at(slots, pick(keep, state), slot, depths)

    plan: tuple[Any, ...] = ()
    if c == 1:
        walk = lax.while_loop(go, step, walk)
    elif keeps_all(program):

        def step_and_put(carry: tuple[Walk, Arrays]) -> tuple[Walk, Arrays]:
            walk, slots = carry
            slots = put(slots, walk.state, jnp.maximum(walk.i - 1, 0))  # the initial state, too, but not to stay
            return step(walk), slots

        walk, slots = lax.while_loop(lambda carry: go(carry[0]), step_and_put, (walk, slots))
    elif end is not None:
        walk, slots = _save_offline(walk, slots, end, c, step, put)
        plan = () if program.options.length is not None else (end,)
    else:
        walk, slots, kept = _save_online(walk, slots, c, go, step, put)
        plan = (kept.count, kept.steps, kept.slots)
    return walk.state, walk.ys, Saved(tuple(slots), walk.total, plan)


def _walker(program: Program, operands: Operands) -> tuple[Any, Walk, Callable[[Walk], Any], Callable[[Walk], Walk]]:
    """Return the number of steps if it is known, the start, whether a walk goes on, and its next step."""
    consts, xs, _, init = operands
    zero = jnp.zeros((), jnp.int32)
    if program.conditional:
        alive = program.goes_on(consts, zero, init)
        total = alive.astype(jnp.int32) * 0
        ys, end = [], None
    else:
        total = program.counts(operands)
        alive, end = zero < total, jnp.max(total)
        ys = _outputs(program) if program.outputs else []

    def go(walk: Walk) -> Any:
        return jnp.any(walk.alive) if end is None else walk.i < end

    def step(walk: Walk) -> Walk:
        i, alive, total = walk.i, walk.alive, walk.total
        state, y = program.step(consts, alive, i, program.slices(xs, i) if xs else (), walk.state)
        ys = put_at(walk.ys, y, program.index(i), program.depths.ys) if y else []
        if end is None:
            total = total + alive.astype(total.dtype)
            alive = program.still(alive, consts, i + 1, state)
        else:
            alive = i + 1 < total
        return Walk(i + 1, state, ys, alive, total)

    return end, Walk(zero, list(init), ys, alive, total), go, step


def _save_offline(
    walk: Walk, slots: Arrays, end: Any, c: int, step: Callable[[Walk], Walk], put: Callable[..., Any]
) -> tuple[Walk, Arrays]:
    def stretch(carry: Any) -> Any:
        walk, slots, kept, ranked = carry
        to, behind = split(walk.i, end, ranked, c - kept)
        keeps = to < end - 1
        walk = lax.while_loop(lambda w: w.i < jnp.where(keeps, to, end), step, walk)
        slots = once(keeps, lambda slots: put(slots, walk.state, kept), slots)
        return walk, slots, kept + 1, behind

    start = (walk, list(slots), jnp.zeros((), jnp.int32), rank(end, c))
    walk, slots, *_ = lax.while_loop(lambda carry: carry[0].i < end, stretch, start)
    return walk, slots


def _save_online(
    walk: Walk,
    slots: Arrays,
    c: int,
    go: Callable[[Walk], Any],
    step: Callable[[Walk], Walk],
    put: Callable[..., Any],
) -> tuple[Walk, Arrays, Online]:
    def stretch(carry: Any) -> Any:
        walk, slots, online = carry
        to = walk.i + online.stride()
        walk = lax.while_loop(lambda w: go(w) & (w.i < to), step, walk)
        decided, keeps, slot = online.keep(walk.i)
        keeps = keeps & go(walk)
        online = jax.tree.map(lambda a, b: jnp.where(go(walk), a, b), decided, online)
        slots = once(keeps, lambda slots: put(slots, walk.state, slot), slots)
        return walk, slots, online

    return lax.while_loop(lambda carry: go(carry[0]), stretch, (walk, list(slots), Online.start(c)))


def kept_states(program: Program, saved: Saved) -> Online:
    """Return which states were kept."""
    c = program.options.checkpoints
    start = Online.start(c)
    if c == 1:
        return start
    if len(saved.plan) > 1:
        count, steps, slots = saved.plan
        return Online(count, steps, slots, start.r)
    end = saved.plan[0] if saved.plan else jnp.asarray(program.options.length, jnp.int32)

    def place(carry: tuple[Any, Online, Rank]) -> tuple[Any, Online, Rank]:
        at, online, ranked = carry
        to, behind = split(at, end, ranked, c - online.count + 1)
        keeps = to < end - 1
        steps = online.steps.at[jnp.minimum(online.count, c - 1)].set(to)
        online = online._replace(
            count=jnp.where(keeps, online.count + 1, online.count), steps=jnp.where(keeps, steps, online.steps)
        )
        return jnp.where(keeps, to, end), online, behind

    return lax.while_loop(lambda carry: carry[0] < end, place, (jnp.zeros((), jnp.int32), start, rank(end, c)))[1]


# --- buffers ---------------------------------------------------------------------------------------------------------


def once(flag: Any, change: Callable[[Any], Any], value: Any) -> Any:
    """Return `change(value)` if `flag`, else `value`: in place, which `lax.cond` is not."""
    return lax.while_loop(lambda c: c[0], lambda c: (jnp.zeros_like(c[0]), change(c[1])), (flag, value))[1]


def _room(x: Any, depth: int, size: int) -> Any:
    # Copies of the array rather than zeros: they have what its type says of devices, and keys have no zeros.
    shape = (*x.shape[:depth], size, *x.shape[depth:])
    return jnp.broadcast_to(jnp.expand_dims(x, depth), shape)


def _outputs(program: Program) -> list[Any]:
    return [blank(row.shape, v.aval) for row, v in zip(program.rows(), program.outputs, strict=True)]
