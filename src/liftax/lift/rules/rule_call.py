"""What functions with a derivative rule of their own share: one call of such a function, with its parts sorted.

    RuleCall : (Module -> a -> b) -> Module -> a -> operands of the function that JAX gives a rule

JAX traces a rule when it differentiates, which may be long after the call. So everything the rule needs enters as an
operand (every collection, every key, every array in an argument that gets no derivative) or is kept at the call (rng
counters, the context of the module call), and state comes out as an output.
"""

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import _compat, errors
from liftax.core import filters
from liftax.core.packing.packed import Packed, unbind
from liftax.core.packing.run import Effects, Run, State, no_state
from liftax.explain.functions import arity_explained
from liftax.explain.transform import Transform
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import describe, type_of
from liftax.lift.machinery.arrays import ARRAYS, split
from liftax.lift.machinery.checks import check_filters, check_output, check_primals
from liftax.lift.machinery.forms import as_function
from liftax.lift.machinery.operands import may_create
from liftax.typing import Filter, Path

WITH_RULE = Transform(
    "a custom rule", filters=("grad_vars",),
    leaves_out="Pass what is not an array by keyword, or name its position in nondiff_argnums.",
)  # fmt: skip
"""What all transforms with a rule have in common."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """What `fn` did in the trace that JAX made of it: the rule has to do the same.

    Args:
        types: those of its output and of what it wrote.
        effects: its draws and names; they count, whichever function JAX runs.
        creates: it created variables.
    """

    types: Any
    effects: Effects
    creates: bool


class RuleCall:
    """One call of a function that has a rule of its own: its target packed, its arguments sorted.

    Args:
        transform: for error texts.
        fn: the function, called as `fn(mdl, *args, **kwargs)`.
        mdl: the target.
        args: the positional arguments.
        kwargs: the others, which get no derivative.
        grad_vars: the collections that the rule is about.
        nondiff_argnums: positions of arguments that get no derivative; the module is 0.
    """

    def __init__(
        self,
        transform: Transform,
        fn: Callable[..., Any],
        mdl: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        grad_vars: Filter,
        nondiff_argnums: Sequence[int],
    ):
        self.transform, self.fn, self.grad_vars = transform, fn, grad_vars
        packed = unbind(mdl, (grad_vars, True), True, transform)
        check_filters(packed, {"grad_vars": grad_vars})
        self.where = f"{transform} at {packed.where}"
        self.fixed = _positions(nondiff_argnums, len(args) + 1, transform)
        self.diff = tuple(a for i, a in enumerate(args, 1) if i not in self.fixed)
        check_primals(self.diff, transform, values=True)
        self._keep({i: args[i - 1] for i in self.fixed}, kwargs, {})
        self.closure: list[Any] = []  # what fn closes over, where that is no error until it is differentiated
        self.around = [weakref.ref(trace) for trace in _compat.traces()]
        self.seen: _Seen | None = None
        self.packed = packed
        self.created = no_state(len(packed.roots)).created
        if may_create(packed, grad_vars):
            self._include_created()

    def _keep(self, nondiff: dict[int, Any], kwargs: dict[str, Any], fields: dict[tuple[int, int, str], Any]) -> None:
        """Turn keyword arguments, `nondiff_argnums` and fields into operands without a derivative."""
        self.constants, self.rebuild = split((nondiff, kwargs, fields))
        self._names = [
            name + jax.tree_util.keystr(path)
            for name, tree in (
                *((f"argument {i}", nondiff[i]) for i in self.fixed),
                *((f"the keyword argument {k!r}", kwargs[k]) for k in sorted(kwargs)),
                *((f"the field {k[-1]!r} of a module", fields[k]) for k in sorted(fields)),
            )
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
            if isinstance(x, ARRAYS)
        ]

    @property
    def operands(self) -> tuple[Any, ...]:
        """What the function with the rule is called with."""
        return (*self.packed.groups, self.packed.keys, self.diff, self.constants, self.closure)

    def through(self, with_rule: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
        """Call the function that JAX has been given a rule for, and commit what it wrote; return its output.

        If `fn` closes over values of transforms around the call, these become operands, the last one, and those that
        fields of the target hold constants: so JAX can tell, maybe much later, whether they are being differentiated.

        Args:
            with_rule: makes that function of `primal`.
        """
        run, closed = with_rule(self.primal), False
        while True:
            try:
                out, written = run(*self.operands)
            except errors.DroppedGradientError:
                if closed:
                    raise
                run, closed = with_rule(self._closed()), True
                continue
            assert self.seen is not None, "JAX runs or traces the function"
            if not self.seen.creates:
                break
            self._include_created()
            self.seen, self.closure, run, closed = None, [], with_rule(self.primal), False
        self.packed.commit(Run(State(written, self.created), self.seen.effects))
        self._let_go()
        return out

    def _closed(self) -> Callable[..., Any]:
        """Return the function with what it closes over, and what fields of modules hold, as operands."""
        nondiff, kwargs, _ = self.rebuild(self.constants)
        self._keep(nondiff, kwargs, _traced_fields(self.packed))
        run, self.closure = _compat.closed(self.primal, *self.operands)
        return lambda *operands: run(operands[-1], *operands[:-1], [])

    def _include_created(self) -> None:
        """Create all that does not exist yet in a run of its own, outside of the rule.

        It is an operand then, as in `apply`. Had the function with the rule created it, it would be an output, into
        which a cotangent flows wherever it is read later, and which depends on all operands to those who look from
        outside.
        """
        _, first = self.run(self.fn, *self.operands)
        packed = self.packed.include(first, self.grad_vars)
        self.packed = packed.include(first, filters.subtract(True, self.grad_vars), index=1)
        self.created = first.state.created

    def _let_go(self) -> None:
        """Drop the operands: JAX keeps the rule for as long as the program, and hands it operands when it runs it."""
        none = tuple({} for _ in self.packed.roots)
        self.diff, self.constants, self.closure, self.created = (), [], [], none
        self.packed = self.packed.with_(groups=(none, none), keys=none, included=none)

    def run(
        self, function: Callable[..., Any], wrt: Any, others: Any, keys: Any, diff: Any, constants: Any, _: Any = ()
    ) -> tuple[Any, Run]:
        """Call `function(mdl, *args, **kwargs)` on operands; return its output and what it did."""
        nondiff, kwargs, fields = self.rebuild(constants)
        packed = _with_fields(self.packed, fields) if fields else self.packed
        rest = iter(diff)
        args = [nondiff[i] if i in self.fixed else next(rest) for i in range(1, len(self.fixed) + len(diff) + 1)]
        with (
            packed.bind((wrt, others), keys) as inner,
            self.confined(),
            arity_explained(function, (inner.target, *args), kwargs, self.transform),
        ):
            out = as_function(function, inner.target)(inner.target, *args, **kwargs)
            run = inner.collect()
            self.refuse_foreign((out, run))
        return out, run

    @contextlib.contextmanager
    def confined(self) -> Iterator[None]:
        """Return a context in which a function of the user can't use values that it closes over and has no right to.

        JAX runs the function and its rule outside of the traces that differentiate, or write a program, and would take
        their values for constants, to fail much later.

        Raises:
            DroppedGradientError: It does.
        """
        try:
            with _compat.barred(self.around):
                yield
        except jax.errors.UnexpectedTracerError as error:
            raise self.closed_over() from error

    def refuse_foreign(self, result: Any) -> None:
        """Raise `DroppedGradientError` if a function of the user returns what it had no right to use."""
        if _compat.foreign(result):
            raise self.closed_over()

    def primal(self, *operands: Any) -> Any:
        """Run the function itself on operands: `(output, written state)`."""
        out, run = self.run(self.fn, *operands)
        check_output(out, self.packed, self.fn)
        written, created = run.state
        self.seen = _Seen(jax.tree.map(type_of, (out, written)), run.effects, any(created))
        return out, written

    def before_rule(self, *operands: Any) -> None:
        """Trace the function if JAX has not: where it differentiates at once, it runs only the rule."""
        if self.seen is None:
            self.refuse_foreign(_compat.closed(self.primal, *operands)[1])

    def refuse_constants(self, perturbed: Sequence[bool], closure: Sequence[bool]) -> None:
        """Raise `DroppedGradientError` if a constant, or what `fn` closes over, is being differentiated."""
        if any(closure):
            raise self.closed_over()
        for name, dropped in zip(self._names, perturbed, strict=True):
            if dropped:
                raise errors.DroppedGradientError(
                    f"{self.where}: {name} is being differentiated, and the rule gives no derivative to "
                    "keyword arguments, nondiff_argnums and fields of modules. Pass it by position and outside "
                    "nondiff_argnums, or through jax.lax.stop_gradient."
                )

    def closed_over(self) -> errors.DroppedGradientError:
        """Return the error for a closure over what JAX can't give to the rule, or not differentiate."""
        return errors.DroppedGradientError(
            f"{self.where}: the function, or its rule, closes over a value that is being differentiated "
            "or traced by a transform around the call (grad, jit, checkpoint, scan, …). A rule is about the arguments "
            "and the variables of its target alone, and may run when the transform has ended. Pass the value as an "
            "argument, by position, or by keyword if it needs no derivative; or make the module that it comes from a "
            "part of the target: rule((mdl, other), x)."
        )

    def check_alike(self, out: Any, written: Any, rule: str, pair: str) -> None:
        """Raise `CustomRuleError` unless the rule returned and wrote what `fn` did: structure, shapes and dtypes."""
        assert self.seen is not None, "before_rule has traced the function"
        got = jax.tree.map(type_of, (out, written))
        if self.seen.types == got:
            return
        (fn_out, fn_written), (out, written) = self.seen.types, got
        where = self.where
        keys, rule_keys = ([sorted(w) for w in ws] for ws in (fn_written, written))
        if keys != rule_keys:
            raise errors.CustomRuleError(
                f"{where}: fn and {rule} write different variables: {_listed(keys)} and {_listed(rule_keys)}. Let "
                "both do the same to the state."
            )
        found = tree_mismatch(fn_out, out, any_for_float0=False) or tree_mismatch(fn_written, written)
        if found:
            raise errors.CustomRuleError(
                f"{where}: {rule} returns another output{found.path} than fn does: expected {found.expected}, got "
                f"{found.got}. The first of the pair {pair} is what fn returns."
            )


def refuse_at_run(bad: Any, text: str) -> Any:
    """Return 0, or NaN if `bad`, a Boolean of the program at hand; in that case the running program fails, too.

    For what only the values tell: that a cotangent is not zero which JAX carries along anyhow, through a loop or out of
    a function that is compiled by itself. The failure is a `jax.errors.JaxRuntimeError` with the text in it.
    """

    def refuse(bad: Any) -> None:
        if bad:
            raise errors.StateCotangentError(text)

    jax.lax.cond(bad, lambda bad: jax.debug.callback(refuse, bad), lambda bad: None, bad)
    return jnp.where(bad, jnp.nan, 0.0)


# --- arguments -------------------------------------------------------------------------------------------------------


def checked(transform: Transform, nondiff_argnums: Any, **functions: Any) -> tuple[int, ...]:
    """Return `nondiff_argnums` as a tuple, or raise `ArityError` if it or one of the functions is none."""
    for name, function in functions.items():
        if not callable(function):
            raise errors.ArityError(f"{transform} got {describe(function)} for {name}, expected a function.")
    positions = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else nondiff_argnums
    if not isinstance(positions, Sequence) or not all(isinstance(i, int | np.integer) for i in positions):
        raise errors.ArityError(f"{transform} got nondiff_argnums={nondiff_argnums!r}, expected an integer or several.")
    return tuple(positions)


def _positions(argnums: Sequence[int], count: int, transform: Transform) -> tuple[int, ...]:
    positions = []
    for i in argnums:
        if not -count < i < count or i == 0:
            raise errors.ArityError(
                f"{transform}: nondiff_argnums has {i}, and the call has {count} positional arguments, of which the "
                f"module is 0. Give numbers from 1 to {count - 1}, or from {1 - count} to -1."
            )
        positions.append(i % count)
    return tuple(sorted(set(positions)))


def _traced_fields(packed: Packed) -> dict[tuple[int, int, str], Any]:
    """Return the fields of modules that hold tracers, by where the module is among the parts, and by name."""
    return {
        (row, i, name): value
        for row, parts in enumerate(packed.parts)
        for i, (_, snapshot, *_) in enumerate(parts)
        for name, value in (snapshot or {}).items()
        if any(_compat.is_tracer(x) for x in jax.tree.leaves(value))
    }


def _with_fields(packed: Packed, fields: Mapping[tuple[int, int, str], Any]) -> Packed:
    """Return a packed target whose modules have other values in some fields."""
    parts = [list(row) for row in packed.parts]
    for (row, i, name), value in fields.items():
        module, snapshot, index, below = parts[row][i]
        parts[row][i] = module, {**snapshot, name: value}, index, below
    return packed.with_(parts=parts)


def _listed(keys: Sequence[Sequence[Path]]) -> str:
    return ", ".join("/".join(path) for paths in keys for path in paths) or "none"
