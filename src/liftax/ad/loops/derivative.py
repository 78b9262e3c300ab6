"""The derivatives of a loop, in forward and in reverse mode, of any order.

    loop : Program -> Operands -> (state, ys)

`loop` has a rule for its tangents, T(p, u), linear in the tangents u of the operands p. In forward mode they are those
of the program that runs value and tangent together (`Program.paired`); the transpose of T in u is the way back
(`reverse`), from states that the rule has kept. `jax.lax.custom_linear_solve` is what JAX has for a linear map whose
transpose is another program; `linear` says how.

T and its transpose R(p, w) depend on p, too. The derivative of T in p is that of the paired program, a loop like any
other. That of R, in the direction (dp, dw), is the way back of the paired program for the cotangents dw of its values
and w of its tangents; and as a linear map of (dp, dw) it has a transpose that is made of the same parts. So derivatives
of all orders are loops and their ways back, each with states of its own, and no way back is ever differentiated itself.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from liftax.ad.loops import batching
from liftax.ad.loops.batching import Outputs
from liftax.ad.loops.dependence import needed, reached
from liftax.ad.loops.forward import Saved
from liftax.ad.loops.linear import linear
from liftax.ad.loops.program import Arrays, Mask, Operands, Program, blank, merge, pick
from liftax.ad.loops.reverse import Cotangents, Pull


class Marks(NamedTuple):
    """Which of a loop's arrays are differentiated: of its constants, its slices, and its initial state."""

    consts: Mask
    xs: Mask
    init: Mask


class Tangents(NamedTuple):
    """Tangents, or cotangents, of the operands that are marked."""

    consts: tuple[Any, ...]
    xs: tuple[Any, ...]
    init: tuple[Any, ...]


def loop(program: Program, operands: Operands) -> Outputs:
    """Run `program`: a function that JAX can differentiate in each mode, and any number of times."""
    return program.made("loop", lambda: _loop(program))(operands)


def _loop(program: Program) -> Callable[[Operands], Outputs]:
    @jax.custom_jvp
    def looped(operands: Operands) -> Outputs:
        return batching.run(program)(operands)

    def rule(primals: tuple[Operands], tangents: tuple[Operands]) -> tuple[Outputs, Outputs]:
        operands, dots = jax.tree.map(jnp.asarray, primals[0]), tangents[0]
        marks = _perturbed(program, dots)
        if not any(map(any, marks)):
            out = looped(operands)
            return out, _zeros(out)
        derivative = derivative_of(program, marks)
        out, saved = derivative.saving(operands)
        return out, derivative.spread(out, derivative.push(operands, saved, _get(marks, dots)))

    looped.defjvp(rule, symbolic_zeros=True)
    return looped


class Derivative:
    """The derivative of a program in the arrays that are marked.

    Args:
        program: The loop.
        marks: What is differentiated.
    """

    def __init__(self, program: Program, marks: Marks):
        self.program, self.marks = program, marks
        state = marks.init
        while True:  # what is not differentiated at first may be reached by what is
            inputs = [*marks.consts, False, False, *marks.xs, *state]
            out = reached(program.jaxpr, inputs, differentiably=True)
            moved = tuple(a or b for a, b in zip(state, out, strict=False))
            if moved == state:
                break
            state = moved
        self.state, self.ys = state, tuple(out[len(state) :])
        self.paired = program.paired(marks.consts, marks.xs, self.state, self.ys)
        self.pull = self._pull()
        self.saving = self._saving()
        self.backward = batching.back(self.program, self.pull)
        self.differentiable_backward = self._differentiable_backward()

    # --- the two ways ------------------------------------------------------------------------------------------------

    def _pull(self) -> Pull:
        """Say how a step is reversed, and which arrays of the state that needs."""
        program, (consts_mask, xs_mask, _) = self.program, self.marks
        keep: list[bool] = [True] * len(self.state)

        def step(
            consts: Arrays, alive: Any, i: Any, x: Arrays, kept: Arrays, state_cts: Arrays, y_cts: Arrays
        ) -> tuple[Arrays, Arrays, Arrays]:
            fill = [v if k else blank(v.shape, v) for k, v in zip(keep, program.example.state, strict=True)]
            state = merge(keep, fill, kept)

            def f(c: Arrays, v: Arrays, s: Arrays) -> tuple[Arrays, Arrays]:
                args = merge(consts_mask, consts, c), alive, i, merge(xs_mask, x, v), merge(self.state, state, s)
                out, y = program.step(*args)
                return pick(self.state, out), pick(self.ys, y)

            _, pull = jax.vjp(f, pick(consts_mask, consts), pick(xs_mask, x), pick(self.state, state))
            return pull((list(state_cts), list(y_cts)))

        consts, alive, x, state = program.example
        i = jnp.zeros((), jnp.int32)
        cts = pick(self.state, state), pick(self.ys, [v.aval for v in program.outputs])
        jaxpr = jax.make_jaxpr(step)(consts, alive, i, x, state, *cts).jaxpr
        uses = needed(jaxpr, [True] * len(jaxpr.outvars))
        at = len(consts) + 2 + len(x)
        uses = uses[at : at + len(state)]
        while True:  # what those that are needed are computed from
            more = needed(program.jaxpr, [*uses, *[False] * len(program.outputs)])[at:]
            if more == [a and b for a, b in zip(more, uses, strict=True)]:
                break
            uses = [a or b for a, b in zip(more, uses, strict=True)]
        keep[:] = uses
        return Pull(step, keep, (), pick(consts_mask, consts), pick(xs_mask, x))

    def _saving(self) -> Callable[[Operands], tuple[Outputs, Saved]]:
        run = batching.saving(self.program, self.pull)

        @jax.custom_jvp
        def saving(operands: Operands) -> tuple[Outputs, Saved]:
            return run(operands)

        def rule(primals: tuple[Operands], tangents: tuple[Operands]) -> Any:
            operands, dots = jax.tree.map(jnp.asarray, primals[0]), tangents[0]
            out, saved = saving(operands)
            marks = _perturbed(self.program, dots)
            if not any(map(any, marks)):
                return (out, saved), (_zeros(out), _zeros(saved))
            other = derivative_of(self.program, marks)
            kept = saved if marks == self.marks else other.saving(operands)[1]
            tangent = other.spread(out, other.push(operands, kept, _get(marks, dots)))
            return (out, saved), (tangent, _zeros(saved))

        saving.defjvp(rule, symbolic_zeros=True)
        return saving

    def forward(self, operands: Operands, tangents: Tangents) -> Outputs:
        """Return the tangents of the outputs: those that `state` and `ys` mark. It can be differentiated."""
        out = loop(self.paired, self._beside(operands, tangents))
        n, m = len(self.state), len(self.ys)
        return Outputs(out.state[n:], out.ys[m:])

    def _beside(self, operands: Operands, tangents: Tangents) -> Operands:
        consts, xs, count, init = operands
        dinit = merge(self.marks.init, [jnp.zeros_like(x) for x in init], tangents.init)
        dinit = pick(self.state, dinit)
        return Operands((*consts, *tangents.consts), (*xs, *tangents.xs), count, (*init, *dinit))

    def only_marked(self, cts: Cotangents | Tangents) -> Tangents:
        """Leave out the cotangents of initial states that are not marked."""
        state = cts[2]
        if len(state) != sum(self.marks.init):
            state = pick(pick(self.state, self.marks.init), state)
        return Tangents(tuple(cts[0]), tuple(cts[1]), tuple(state))

    # --- the linear maps ---------------------------------------------------------------------------------------------

    def push(self, operands: Operands, saved: Saved, tangents: Tangents) -> Outputs:
        """Return the tangents of the outputs, as a linear map whose transpose is the way back."""
        like = Outputs(tuple(pick(self.state, operands.init)), tuple(pick(self.ys, self.program.rows())))
        return linear(
            lambda u: self.forward(operands, u),
            lambda w: self.only_marked(self.backward(operands, saved, w)),
            lambda w: self.differentiable_backward(operands, saved, w),
            tangents,
            like,
        )

    def _differentiable_backward(self) -> Callable[[Operands, Saved, Outputs], Tangents]:
        @jax.custom_jvp
        def backward(operands: Operands, saved: Saved, cts: Outputs) -> Tangents:
            return self.only_marked(self.backward(operands, saved, cts))

        def rule(primals: Any, dots: Any) -> Any:
            operands, saved, cts = jax.tree.map(jnp.asarray, primals)
            operands_dots, _, cts_dots = dots
            marks = _perturbed(self.program, operands_dots)
            out = backward(operands, saved, cts)
            tangents = _get(marks, operands_dots)
            dcts = jax.tree.map(_instantiated, cts_dots, cts, is_leaf=_is_symbolic)
            if not any(map(any, marks)):
                return out, backward(operands, saved, dcts)
            other = derivative_of(self.program, marks)
            bend = functools.partial(self._bend, other, operands, cts)
            bend_back = functools.partial(self._bend_back, other, operands, cts)
            return out, linear(bend, bend_back, bend_back, (tangents, dcts), out)

        backward.defjvp(rule, symbolic_zeros=True)
        return backward

    def _bend(self, other: "Derivative", operands: Operands, cts: Outputs, direction: Any) -> Tangents:
        """Return how the way back changes in a direction: that of the operands that `other` marks, and of `cts`."""
        tangents, dcts = direction

        def values_and_tangents(marked: Tangents) -> tuple[Outputs, Outputs]:
            at = _put(self.marks, operands, marked)
            out = loop(other.paired, other._beside(at, tangents))
            n, m = len(self.state), len(self.ys)
            values = Outputs(tuple(pick(self.state, out.state[:n])), tuple(pick(self.ys, out.ys[:m])))
            slopes = Outputs(out.state[n:], out.ys[m:])
            return values, slopes

        _, pull = jax.vjp(values_and_tangents, _get(self.marks, operands))
        slopes_cts = Outputs(
            _moved(self.state, other.state, cts.state, operands.init),
            _moved(self.ys, other.ys, cts.ys, self.program.rows()),
        )
        return pull((dcts, slopes_cts))[0]

    def _bend_back(self, other: "Derivative", operands: Operands, cts: Outputs, w: Tangents) -> Any:
        """Return the transpose of `_bend`."""
        slopes, pull = jax.vjp(
            lambda marked: self.forward(_put(other.marks, operands, marked), w), _get(other.marks, operands)
        )
        return pull(cts)[0], slopes

    def spread(self, out: Outputs, tangents: Outputs) -> Outputs:
        """Return tangents of all outputs."""
        state = merge(self.state, [_zero(x) for x in out.state], tangents.state)
        return Outputs(tuple(state), tuple(merge(self.ys, [_zero(y) for y in out.ys], tangents.ys)))


def derivative_of(program: Program, marks: Marks) -> Derivative:
    """Return the derivative of `program` in what is marked; made once."""
    return program.made(("derivative", marks), lambda: Derivative(program, marks))


# --- tangents --------------------------------------------------------------------------------------------------------


def _is_symbolic(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.SymbolicZero)


def _has_tangent(x: Any) -> bool:
    return not _is_symbolic(x) and x.dtype != jax.dtypes.float0


def _perturbed(program: Program, dots: Operands) -> Marks:
    """Return which operands have a tangent that reaches an output."""
    marks = [[_has_tangent(x) for x in part] for part in (dots.consts, dots.xs, dots.init)]
    matters = needed(program.jaxpr, [True] * len(program.jaxpr.outvars), differentiably=True)
    n = len(dots.consts)
    parts = matters[:n], matters[n + 2 : n + 2 + len(dots.xs)]
    consts, xs = (tuple(a and b for a, b in zip(m, p, strict=True)) for m, p in zip(marks, parts, strict=False))
    return Marks(consts, xs, tuple(marks[2]))


def _get(marks: Marks, operands: Operands) -> Tangents:
    """Return the operands, or their tangents, that are marked."""
    parts = zip(marks, (operands.consts, operands.xs, operands.init), strict=True)
    return Tangents(*(tuple(pick(m, part)) for m, part in parts))


def _put(marks: Marks, operands: Operands, marked: Tangents) -> Operands:
    parts = zip(marks, (operands.consts, operands.xs, operands.init), marked, strict=True)
    consts, xs, init = (tuple(merge(m, whole, part)) for m, whole, part in parts)
    return Operands(consts, xs, operands.total, init)


def _zero(x: Any) -> Any:
    return jax.custom_derivatives.zero_from_primal(x, symbolic_zeros=True)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(_zero, tree)


def _instantiated(dot: Any, like: Any) -> Any:
    return jnp.zeros_like(like) if _is_symbolic(dot) else dot


def _moved(have: Mask, want: Mask, values: Arrays, like: Arrays) -> tuple[Any, ...]:
    """Return for what `want` marks the values, one for each that `have` marks, and zeros for the others."""
    spread = merge(have, [None] * len(have), values)
    return tuple(
        jnp.zeros(a.shape, a.dtype) if v is None else v for v, a, w in zip(spread, like, want, strict=True) if w
    )
