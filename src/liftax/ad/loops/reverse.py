"""The way back of a loop: from its last step to its first, each from its own state, computed again where none is kept.

    reverse : Program -> Pull -> Operands -> Saved -> cotangents of (state, ys) -> cotangents of (consts, xs, init)

The kept states are a stack, the last of them that of the step nearest to the end. To reverse a step, the loop runs
forward from there, and what is free of the stack takes states on the way, as `schedule` says. Then as many steps are
reversed as have their states on top of the stack.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from liftax.ad.loops.forward import Saved, keeps_all, kept_states, once
from liftax.ad.loops.program import Arrays, Operands, Program, blank, get_at, merge, pick, put_at
from liftax.ad.loops.schedule import Online, Rank, before, rank, split


class Pull(NamedTuple):
    """How a step is reversed.

    Args:
        step: `(consts, alive, i, x, state, state cotangents, y cotangents) -> cotangents of (consts, x, state)`, where
            the state is what is kept of it, and cotangents are those of what is differentiated.
        keep: for each array of the state, whether it is kept.
        lead: the batch axes of all cotangents: their sizes.
        consts: types of the constants that are differentiated, without batch axes.
        xs: those of the slices.
    """

    step: Callable[..., tuple[Arrays, Arrays, Arrays]]
    keep: Sequence[bool]
    lead: tuple[int, ...]
    consts: Sequence[Any]
    xs: Sequence[Any]


class Cotangents(NamedTuple):
    """Of the constants and slices, from the steps reversed so far; and of the state before them."""

    consts: Arrays
    xs: Arrays
    state: Arrays


class Place(NamedTuple):
    """A state that the loop can go on from: how many states the stack has above the first, its step, and its rank."""

    top: Any
    i: Any
    rank: Rank
    state: list[Any]


def reverse(program: Program, pull: Pull, operands: Operands, saved: Saved, cts: tuple[Arrays, Arrays]) -> Cotangents:
    """Return the cotangents of what is differentiated, given those of the last state and of the outputs."""
    consts, xs, _, init = operands
    depths = pick(pull.keep, program.depths.state)
    first = pick(pull.keep, init)
    end = jnp.max(saved.total)
    state_cts, ys_cts = cts

    def advance(i: Any, state: Arrays) -> list[Any]:
        whole = merge(pull.keep, init, state)  # what is not kept is not read
        return pick(pull.keep, program.step(consts, i < saved.total, i, program.slices(xs, i), whole)[0])

    def back(i: Any, state: Arrays, cts: Cotangents) -> Cotangents:
        level = [len(pull.lead)] * max(len(ys_cts), len(pull.xs))
        ys = get_at(ys_cts, program.index(i), level[: len(ys_cts)]) if ys_cts else []
        found = pull.step(consts, i < saved.total, i, program.slices(xs, i), state, cts.state, ys)
        added = [a + b for a, b in zip(cts.consts, found[0], strict=True)]
        rows = put_at(cts.xs, found[1], program.index(i), level[: len(pull.xs)]) if pull.xs else []
        return Cotangents(added, rows, list(found[2]))

    def load(slots: Arrays, slot: Any) -> list[Any]:
        kept = get_at(slots, jnp.maximum(slot, 0), depths) if program.options.checkpoints > 1 else first
        return [lax.select(slot < 0, a, b) for a, b in zip(first, kept, strict=True)]

    zeros = [blank((*pull.lead, *a.shape), a) for a in pull.consts]
    rows = [blank((*pull.lead, program.options.length, *a.shape), a) for a in pull.xs]  # type: ignore[list-item]
    start = Cotangents(zeros, rows, list(state_cts))
    if keeps_all(program):

        def back_from_slot(carry: tuple[Any, Cotangents]) -> tuple[Any, Cotangents]:
            i, cts = carry
            return i - 1, back(i, load(saved.slots, i - 1), cts)

        return lax.while_loop(lambda carry: carry[0] >= 0, back_from_slot, (end - 1, start))[1]
    online = kept_states(program, saved)
    online = online._replace(count=jnp.sum((jnp.arange(online.steps.size) < online.count) & (online.steps < end)))
    return _with_stack(program, advance, back, load, depths, end, online, saved.slots, start)


def _with_stack(
    program: Program,
    advance: Callable[..., list[Any]],
    back: Callable[..., Cotangents],
    load: Callable[..., list[Any]],
    depths: Sequence[int],
    end: Any,
    online: Online,
    slots: Arrays,
    start: Cotangents,
) -> Cotangents:
    c = program.options.checkpoints

    def look(stack: Any, slots: Arrays, top: Any) -> Place:
        row = stack[jnp.maximum(top, 0)]
        return Place(top, row[0], Rank(_floats(row[2]), _floats(row[3])), load(slots, row[1]))

    def push(stack: Any, place: Place, slot: Any) -> Any:
        row = jnp.stack([place.i, slot, _bits(place.rank.r), _bits(place.rank.beta)])
        return lax.dynamic_update_index_in_dim(stack, row, place.top, 0)

    def forward(end: Any, place: Place, stack: Any, slots: Arrays) -> tuple[Place, Any, Arrays]:
        """Go forward to the last step before `end`."""

        def stretch(carry: tuple[Place, Any, Arrays]) -> tuple[Place, Any, Arrays]:
            (top, i, ranked, state), stack, slots = carry
            to, behind = split(i, end, ranked, c - top)
            state = lax.while_loop(lambda s: s[0] < to, lambda s: (s[0] + 1, advance(*s)), (i, state))[1]
            keeps = to < end - 1
            place = Place(jnp.where(keeps, top + 1, top), to, behind, state)

            def keep(stack_and_slots: tuple[Any, Arrays]) -> tuple[Any, Arrays]:
                stack, slots = stack_and_slots
                slot = stack[place.top, 1]
                return push(stack, place, slot), put_at(slots, state, slot, depths)

            if c > 1:
                stack, slots = once(keeps, keep, (stack, slots))
            return place, stack, slots

        return lax.while_loop(lambda carry: carry[0].i < end - 1, stretch, (place, stack, slots))

    def round_trip(carry: Any) -> Any:
        end, place, stack, slots, cts = carry
        ranked = rank(end - place.i, c - place.top, place.rank)
        place, stack, slots = forward(end, place._replace(rank=ranked), stack, slots)

        def back_one(carry: Any) -> Any:
            end, place, cts = carry
            cts = back(end - 1, place.state, cts)
            top = jnp.where(stack[place.top, 0] == end - 1, place.top - 1, place.top)
            return end - 1, look(stack, slots, top), cts

        end, place, cts = lax.while_loop(
            lambda carry: (carry[1].i == carry[0] - 1) & (carry[0] > 0), back_one, (end, place, cts)
        )
        place = place._replace(rank=before(place.rank, c - place.top))
        stack = push(stack, place._replace(top=jnp.maximum(place.top, 0)), stack[jnp.maximum(place.top, 0), 1])
        return end, place, stack, slots, cts

    stack = jnp.stack([online.steps, online.slots, *(jnp.zeros_like(online.steps),) * 2], axis=1)
    free = (jnp.arange(c) >= online.count)[:, None] & (jnp.arange(4) == 0)
    stack = jnp.where(free, -1, stack)
    carry = (end, look(stack, slots, online.count - 1), stack, list(slots), start)
    return lax.while_loop(lambda carry: carry[0] > 0, round_trip, carry)[4]


def _bits(x: Any) -> Any:
    return lax.bitcast_convert_type(x, jnp.int32)


def _floats(x: Any) -> Any:
    return lax.bitcast_convert_type(x, jnp.float32)
