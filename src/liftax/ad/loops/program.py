"""A loop in flat form: one function for a step, one for the question whether to go on, and its operands.

    step    : consts -> alive -> i -> xs[i] -> state -> (state, ys[i])
    goes_on : consts -> i -> state -> Bool

The number of steps is known before (`scan`, `fori_loop`), or the loop ends when `goes_on` is False (`while_loop`).
Two programs are made of one. `paired` runs beside each number its tangent: the derivative in forward mode. In `batched`
a step is that of all members of a batch, until the last of them has ended; those that have ended stand still. A Boolean
of each member, `alive`, says which; a program without members that end looks at none.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from liftax import _compat
from liftax.ad.loops.dependence import names_axes, reached

Mask = tuple[bool, ...]
Arrays = Sequence[Any]


class Operands(NamedTuple):
    """What a program runs on: flat tuples of arrays.

    Args:
        consts: what all steps see.
        xs: what each step sees a slice of, along the leading axis.
        total: the number of steps, if it is known, but not to the program: an integer for each member.
        init: the state before the first step.
    """

    consts: tuple[Any, ...]
    xs: tuple[Any, ...]
    total: tuple[Any, ...]
    init: tuple[Any, ...]


class Options(NamedTuple):
    """What is fixed about a loop, whatever is made of its program.

    Args:
        length: the number of steps, if it is known to the program.
        limit: a number that the steps don't exceed, if there is one.
        checkpoints: how many states are kept, the initial one included.
        reverse: the first step sees the last slice.
    """

    length: int | None
    limit: int | None
    checkpoints: int
    reverse: bool = False


class Example(NamedTuple):
    """Values of the types that a step has: `consts`, `alive`, `xs[i]` and the state."""

    consts: list[Any]
    alive: Any
    x: list[Any]
    state: list[Any]


class Depths(NamedTuple):
    """How many batch axes the arrays of `xs`, of the state and of `ys` have: they are in front."""

    xs: tuple[int, ...]
    state: tuple[int, ...]
    ys: tuple[int, ...]


class Batched(NamedTuple):
    """The program of a batch.

    Args:
        program: the program.
        state, ys: which arrays of the state and of the outputs have the batch axis.
        ends: whether the members end one by one.
    """

    program: "Program"
    state: Mask
    ys: Mask
    ends: bool


class Program:
    """A loop in flat form.

    Args:
        step: see above; flat lists in and out. It closes over no tracer.
        goes_on: see above, or None if the number of steps is known.
        example: what a step is traced with.
        options: what is fixed.
        depths: how many batch axes each array has.
        masked: whether a step looks at `alive`.
        plain: runs the program as JAX's own loop does; None for what is made of another program.
    """

    def __init__(
        self,
        step: Callable[..., tuple[Arrays, Arrays]],
        goes_on: Callable[..., Any] | None,
        example: Example,
        options: Options,
        depths: Depths | None = None,
        masked: bool = False,
        plain: Callable[[Operands], tuple[list[Any], list[Any]]] | None = None,
    ):
        self.options, self.masked, self.plain, self.example = options, masked, plain, example
        consts, alive, x, state = example
        i = jnp.zeros((), jnp.int32)

        def flat(*args: Any) -> tuple[list[Any], list[Any]]:
            state, y = step(*args)
            return list(state), list(y)

        self._step = _compat.staged(flat, consts, alive, i, x, state)
        self._goes_on = None if goes_on is None else _compat.staged(goes_on, consts, i, state)
        self.named = any(names_axes(s.jaxpr) for s in (self._step, self._goes_on) if s)
        self.outputs = self._step.jaxpr.outvars[len(state) :]
        self.depths = depths or Depths((0,) * len(x), (0,) * len(state), (0,) * len(self.outputs))
        self._made: dict[Any, Any] = {}

    @property
    def jaxpr(self) -> Any:
        """The jaxpr of a step, of `(consts, alive, i, xs[i], state)`."""
        return self._step.jaxpr

    @property
    def conditional(self) -> bool:
        """Whether the loop ends by a condition."""
        return self._goes_on is not None

    def step(self, consts: Arrays, alive: Any, i: Any, x: Arrays, state: Arrays) -> tuple[list[Any], list[Any]]:
        """Return the state after a step, and its slice of the outputs."""
        return self._step.run(self._step.consts, list(consts), alive, i, list(x), list(state))

    def goes_on(self, consts: Arrays, i: Any, state: Arrays) -> Any:
        """Return whether the loop goes on, for each member that can end."""
        assert self._goes_on is not None
        return self._goes_on.run(self._goes_on.consts, list(consts), i, list(state))

    def counts(self, operands: Operands) -> Any:
        """Return the number of steps, for each member, of a loop where it is known."""
        return operands.total[0] if operands.total else jnp.asarray(self.options.length, jnp.int32)

    def index(self, i: Any) -> Any:
        """Return where step `i` finds its slice."""
        return self.options.length - 1 - i if self.options.reverse else i  # type: ignore[operator]

    def slices(self, xs: Arrays, i: Any) -> list[Any]:
        """Return the slices that step `i` sees."""
        return get_at(xs, self.index(i), self.depths.xs) if xs else []

    def run(self, operands: Operands) -> tuple[list[Any], list[Any]]:
        """Run the loop: return the last state and the outputs."""
        if self.plain is not None:
            return self.plain(operands)
        consts, xs, _, init = operands
        if self.conditional:
            state, _ = self.run_until_end(operands)
            return state, []
        if self.options.length is not None:

            def scanned(carry: Any, x: Any) -> tuple[Any, Any]:
                i, state = carry
                state, y = self.step(consts, self.example_alive(True), i, x, state)
                return (i + 1, state), y

            start = (jnp.zeros((), jnp.int32), list(init))
            (_, state), ys = lax.scan(
                scanned, start, list(xs), length=self.options.length, reverse=self.options.reverse
            )
            return state, ys
        n = self.counts(operands)

        def counted(i: Any, state: Any) -> Any:
            return self.step(consts, i < n, i, (), state)[0]

        return lax.fori_loop(0, jnp.max(n), counted, list(init)), []

    def run_until_end(self, operands: Operands) -> tuple[list[Any], Any]:
        """Run a loop that ends by a condition: return the last state, and what `goes_on` was then."""
        consts, _, _, init = operands
        zero = jnp.zeros((), jnp.int32)

        def body(carry: Any) -> Any:
            i, alive, state = carry
            state = self.step(consts, alive, i, (), state)[0]
            return i + 1, self.still(alive, consts, i + 1, state), state

        start = (zero, self.goes_on(consts, zero, init), list(init))
        _, alive, state = lax.while_loop(lambda carry: jnp.any(carry[1]), body, start)
        return state, alive

    def still(self, alive: Any, consts: Arrays, i: Any, state: Arrays) -> Any:
        """Return which of the members that were alive in the step before still are."""
        goes_on = self.goes_on(consts, i, state)
        return alive & goes_on if self.masked else goes_on

    def example_alive(self, value: bool) -> Any:
        """Return an `alive` that is the same for all members."""
        return jnp.full(jnp.shape(self.example.alive), value)

    # --- what is made of a program -----------------------------------------------------------------------------------

    def made(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for `key` before, or make it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def paired(self, consts: Mask, xs: Mask, state: Mask, y: Mask) -> "Program":
        """Return the program that has beside each marked array its tangent, behind all others."""
        return self.made(("paired", consts, xs, state, y), lambda: self._paired(consts, xs, state, y))

    def _paired(self, consts_mask: Mask, xs_mask: Mask, state_mask: Mask, y_mask: Mask) -> "Program":
        sizes = [len(m) for m in (consts_mask, xs_mask, state_mask)]

        def step(consts: Arrays, alive: Any, i: Any, x: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
            (consts, dconsts), (x, dx), (state, dstate) = (
                (v[:n], v[n:]) for v, n in zip((consts, x, state), sizes, strict=True)
            )

            def f(*marked: Arrays) -> tuple[tuple[Arrays, Arrays], tuple[Arrays, Arrays]]:
                args = (
                    merge(m, whole, part)
                    for m, whole, part in zip(
                        (consts_mask, xs_mask, state_mask), (consts, x, state), marked, strict=True
                    )
                )
                c, x_, s = args
                out, y = self.step(c, alive, i, x_, s)
                return (pick(state_mask, out), pick(y_mask, y)), (out, y)

            marked = (pick(consts_mask, consts), pick(xs_mask, x), pick(state_mask, state))
            _, (dout, dy), (out, y) = jax.jvp(f, marked, (list(dconsts), list(dx), list(dstate)), has_aux=True)
            return [*out, *dout], [*y, *dy]

        def goes_on(consts: Arrays, i: Any, state: Arrays) -> Any:
            return self.goes_on(consts[: sizes[0]], i, state[: sizes[2]])

        consts, alive, x, state = self.example
        example = Example(
            [*consts, *pick(consts_mask, consts)], alive, [*x, *pick(xs_mask, x)], [*state, *pick(state_mask, state)]
        )
        masks = (xs_mask, state_mask, y_mask)
        depths = Depths(*((*d, *pick(m, d)) for d, m in zip(self.depths, masks, strict=True)))
        return Program(step, goes_on if self.conditional else None, example, self.options, depths, self.masked)

    def rows(self) -> list[Any]:
        """Return the types of the outputs of all steps."""
        outputs = zip(self.outputs, self.depths.ys, strict=True)
        shapes = ((v.aval, (*v.aval.shape[:d], self.options.length, *v.aval.shape[d:])) for v, d in outputs)
        return [jax.ShapeDtypeStruct(shape, aval.dtype) for aval, shape in shapes]

    def batched(
        self, size: int, consts: Sequence[bool], xs: Sequence[bool], count: Sequence[bool], init: Sequence[bool],
        ends: bool = False,
    ) -> Batched:  # fmt: skip
        """Return the program of a batch.

        Args:
            size: the number of members.
            consts: which constants have the batch axis, in front.
            xs: the same of the slices.
            count: of the number of steps.
            init: of the initial state.
            ends: the members end one by one, whatever else tells so.
        """
        masks = tuple(consts), tuple(xs), tuple(init)
        ends = ends or any(count)
        return self.made(("batched", size, *masks, ends), lambda: self._batched(size, *masks, ends))

    def _batched(self, size: int, consts: Mask, xs: Mask, init: Mask, mapped: bool) -> Batched:
        state = init
        while True:
            if self._goes_on is not None:
                mapped = mapped or any(reached(self._goes_on.jaxpr, [*consts, False, *state]))
            if mapped:
                state = (True,) * len(state)
            out = reached(self.jaxpr, [*consts, mapped and self.masked, False, *xs, *state])
            moved = tuple(a or b for a, b in zip(state, out, strict=False))
            if moved == state:
                break
            state = moved
        y = tuple(out[len(state) :])
        axes = [[0 if m else None for m in mask] for mask in (consts, xs, state, y)]
        alive_axis = 0 if mapped else None

        def member(consts: Arrays, alive: Any, i: Any, x: Arrays, old: Arrays) -> tuple[Arrays, Arrays]:
            new, y = self.step(consts, alive, i, x, old)
            if mapped and not self.masked:
                new = [lax.select(alive, a, b) for a, b in zip(new, old, strict=True)]
            return new, y

        step = jax.vmap(
            member, in_axes=(axes[0], alive_axis, None, axes[1], axes[2]), out_axes=(axes[2], axes[3]), axis_size=size
        )
        goes_on = None
        if self._goes_on is not None:
            goes_on = jax.vmap(self.goes_on, in_axes=(axes[0], None, axes[2]), out_axes=alive_axis, axis_size=size)
        example = Example(
            *(
                [_stacked(v, size) if m else v for v, m in zip(values, mask, strict=True)]
                if isinstance(values, list)
                else (_stacked(values, size) if mapped else values)
                for values, mask in zip(self.example, (consts, (), xs, state), strict=True)
            )  # type: ignore[arg-type]
        )
        depths = Depths(
            *(
                tuple(d + m for d, m in zip(ds, ms, strict=True))
                for ds, ms in zip(self.depths, (xs, state, y), strict=True)
            )
        )
        return Batched(Program(step, goes_on, example, self.options, depths, self.masked or mapped), state, y, mapped)


def blank(shape: Sequence[int], like: Any) -> Any:
    """Return zeros, or keys, of the dtype of `like`, that vary over the axes of a mesh over which `like` does."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        keys = (jax.random.key(0, impl=impl) for impl in ("threefry2x32", "rbg", "unsafe_rbg"))
        return jnp.broadcast_to(next(key for key in keys if key.dtype == like.dtype), shape)
    zeros = jnp.zeros(shape, like.dtype)
    aval = like if hasattr(like, "vma") else jax.typeof(like) if isinstance(like, jax.Array) else like
    varying = tuple(getattr(aval, "vma", None) or ())
    return lax.pcast(zeros, varying, to="varying") if varying else zeros


def pick(mask: Sequence[bool], values: Sequence[Any]) -> list[Any]:
    """Return the values that are marked."""
    return [v for m, v in zip(mask, values, strict=True) if m]


def merge(mask: Sequence[bool], whole: Sequence[Any], part: Sequence[Any]) -> list[Any]:
    """Return `whole` with the values that are marked taken from `part`."""
    parts = iter(part)
    return [next(parts) if m else v for m, v in zip(mask, whole, strict=True)]


def get_at(arrays: Arrays, at: Any, depths: Sequence[int]) -> list[Any]:
    """Return a slice of each array, from behind its batch axes."""
    return [lax.dynamic_index_in_dim(a, at, d, keepdims=False) for a, d in zip(arrays, depths, strict=True)]


def put_at(arrays: Arrays, slices: Arrays, at: Any, depths: Sequence[int]) -> list[Any]:
    """Return the arrays with a slice of each, behind its batch axes, replaced."""
    return [lax.dynamic_update_index_in_dim(a, x, at, d) for a, x, d in zip(arrays, slices, depths, strict=True)]


def _stacked(like: Any, size: int) -> Any:
    return jax.ShapeDtypeStruct((size, *like.shape), like.dtype)
