"""Lifted scan: a function of a module as the body of a loop.

    scan : (Module -> c -> x -> (c, y)) -> (Module with an axis -> c -> x with an axis -> (c, y with an axis))

One call to `jax.lax.scan`. A collection is scanned over (one slice a step), carried (each step sees what the one before
wrote) or broadcast (the same in all steps).

Loops that come out the same are given to JAX as one where they are differentiated
(`liftax.lift.machinery.equal_programs`), so that it works out their derivatives once.

What does not depend on the step, broadcast variables that are created and outputs that are not stacked, is computed
before the loop, by a run of the body in which the steps' values are unknown. The rng counters go on after that run, as
they do in Linen, so that the draws agree.

Source: `jax.lax.scan`; `flax.linen.scan` for the signature.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from liftax import _compat, errors, jaxprs
from liftax.ad import loops
from liftax.core import filters
from liftax.core.packing.packed import Packed
from liftax.core.packing.run import Run, State, no_state
from liftax.explain.functions import demand_pair
from liftax.explain.transform import Transform, described
from liftax.explain.values import type_of
from liftax.lift.machinery.axes import (
    axes_of,
    axis_size,
    check_out_axes,
    check_state_axes,
    close_ways,
    grouped,
    stacked,
    ungrouped,
    unstacked,
)
from liftax.lift.machinery.checks import explain_carry
from liftax.lift.machinery.equal_programs import worked_out_once
from liftax.lift.machinery.forms import Call, Target, class_form, function_form, is_class, joined, split_keys
from liftax.lift.machinery.paths import get, has, updated
from liftax.typing import Filter, Path

SCAN = Transform(
    "scan", "(fn, …)(module, carry, *xs)", filters=("variable_broadcast", "variable_carry", "variable_axes"),
    splits="steps",
)  # fmt: skip


class _Broadcast:
    """The entry of `in_axes` and `out_axes` for a value that is the same in all steps."""

    def __repr__(self) -> str:
        return "broadcast"


broadcast = _Broadcast()


@described(SCAN)
def scan(
    target: Target,
    variable_axes: Mapping[Filter, Any] = {},
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    split_rngs: Mapping[Filter, bool] = {},
    in_axes: Any = 0,
    out_axes: Any = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    data_transform: Callable[..., Any] | None = None,
    metadata_params: Mapping[Any, Any] = {},
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    _split_transpose: bool = False,
    check_constancy_invariants: bool = True,
    checkpoints: int | None = None,
) -> Target:
    """Run a function of a module in a loop.

    Outside of a module use `jax.lax.scan`, or `liftax.scan` for a long one.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, carry, *xs)`; it returns `(carry, y)`.
        variable_axes: Filter -> axis: each step sees its slice of the variables of these collections.
        variable_broadcast: Collections whose variables are the same in all steps. They may be created inside, if their
            values do not depend on the step; what else is written to them is lost.
        variable_carry: Collections whose variables each step sees as the one before left them.
        split_rngs: Filter -> whether the rng stream differs from step to step. Streams that no filter matches are out
            of reach inside.
        in_axes: For each argument after the carry, the axis to scan over, or `nn.broadcast`.
        out_axes: For the output `y`, the axis along which the steps' values are stacked, or `nn.broadcast` for a value
            that is the same in all steps.
        length: The number of steps; needed only if no argument tells it.
        reverse: Scan from the end to the start.
        unroll: How many steps one iteration of the loop takes.
        data_transform: Called inside as `(variable groups, rng groups) -> (variable groups, rng groups)`. The variable
            groups are those of `variable_broadcast`, of `variable_carry`, and of each entry of `variable_axes`; the
            rng groups are the streams that are not split, and those that are.
        metadata_params: Handed to `add_axis` and `remove_axis` of boxes.
        methods: See `checkpoint`.
        _split_transpose: See `jax.lax.scan`.
        check_constancy_invariants: False: don't compute anything before the loop. Nothing can be created in broadcast
            or carried collections then, no output is `nn.broadcast`, and rngs are those of a single run.
        checkpoints: How many carries, with the variables that are carried, to keep for the way back; the others are
            computed again, with the same keys: see `liftax.scan`. None: what `jax.lax.scan` keeps.

    Returns:
        A subclass with the same fields, whose instances are named `Scan…`; or a function called as
        `scanned(mdl, carry, *xs)` that returns `(carry, ys)`. Keyword arguments reach `fn` as they are.

    Raises:
        MappedAxisError: The scanned axes, of arguments and variables, are of several sizes, or of none; an array has
            no such axis.
        ControlFlowError: A step creates a variable that the loop can't carry, or the value of a broadcast variable or
            output depends on the step, or the carry changes its type.
        AuxError: `fn` returns no pair.
        TransformTargetError, UnboundModuleError, InvalidScopeError, TransformedMethodReturnValueError: see
            `checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Cell(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, h, x):
        ...         h = jnp.tanh(nn.Dense(2)(h) + x)
        ...         return h, h
        >>> Chain = nn.scan(Cell, variable_broadcast='params', split_rngs={'params': False})
        >>> (h, hs), variables = Chain().init_with_output(jax.random.key(0), jnp.zeros(2), jnp.ones((5, 2)))
        >>> hs.shape, jax.tree.map(jnp.shape, variables)
        ((5, 2), {'params': {'Dense_0': {'bias': (2,), 'kernel': (2, 2)}}})
    """
    if is_class(target):
        return class_form(
            scan, target, methods, variable_axes=variable_axes, variable_broadcast=variable_broadcast,
            variable_carry=variable_carry, split_rngs=split_rngs, in_axes=in_axes, out_axes=out_axes, length=length,
            reverse=reverse, unroll=unroll, data_transform=data_transform, metadata_params=metadata_params,
            _split_transpose=_split_transpose, check_constancy_invariants=check_constancy_invariants,
            checkpoints=checkpoints,
        )  # fmt: skip
    axes = axes_of(variable_axes, SCAN, allow_none=False)
    groups_of = (variable_broadcast, variable_carry, *(a.filter for a in axes))
    in_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
    broadcasts = any(axis is broadcast for axis in jax.tree.leaves(out_axes))

    def called(mdl: Any, init: Any, *xs: Any, **kwargs: Any) -> Any:
        call = Call.of(SCAN, target, mdl, (init, *xs), kwargs, groups_of)
        call = dataclasses.replace(call, packed=close_ways(call.packed, axes, 2))
        init, *whole = call.args
        scanned = unstacked(call.packed.groups[2:], axes, metadata_params)
        into = tuple(a.into for a in axes)
        steps = axis_size(length, (into, in_axes), (scanned, tuple(whole)), broadcast, SCAN, "length", carry=True)
        split, shared = split_keys(call, split_rngs)
        split = jax.tree.map(lambda key: jax.random.split(key, steps), split)
        scanned = tuple(_front(a.into, group) for a, group in zip(axes, scanned, strict=True))
        slices = jax.tree.map(lambda axis, x: () if axis is broadcast else _front(axis, x), in_axes, tuple(whole))
        xs_all = (scanned, split, slices)

        def step(call: Call, fixed: Any, shared: Any, carry: Any, xs: Any) -> tuple[Any, Any, tuple[State, ...], Any]:
            carried, c = carry
            scanned, split, slices = xs
            args = jax.tree.map(lambda axis, x, s: x if axis is broadcast else s, in_axes, tuple(whole), slices)
            groups, keys = (fixed, carried, *scanned), (shared, split)
            if data_transform is not None:
                groups, keys = data_transform(groups, keys)
            out, (state, effects) = call.run(groups, joined(*keys), (c, *args), call.kwargs)
            c, y = demand_pair(out, SCAN, pair="(carry, y)", why="a loop", remedy="return (carry, None)")
            check_out_axes(out_axes, y, SCAN, "y in the output (carry, y)")
            states = grouped(state, groups_of)
            check_state_axes(states[2:], axes, call.packed)
            return c, y, states, effects

        constant, fixed = None, no_state(len(call.packed.roots))
        if check_constancy_invariants and (
            broadcasts or any(call.packed.keys) or _writable(call.packed, groups_of[:2])
        ):

            def before(known: Any, unknown: Any) -> Any:
                _, y, states, effects = step(call, *known, *unknown)
                constant = jax.tree.map(lambda axis, y: y if axis is broadcast else (), out_axes, y)
                return constant, states[0], states[1].created, effects

            unknown = ((call.packed.groups[1], init), jax.tree.map(_slice_type, xs_all))
            known = (call.packed.groups[0], shared)
            result, depends = jaxprs.partial_eval(before, known, jax.eval_shape(lambda x: x, unknown))
            if depends:
                raise errors.ControlFlowError(
                    f"scan at {call.packed.where}: a variable that the loop creates in variable_broadcast="
                    f"{variable_broadcast!r} or variable_carry={variable_carry!r}, or an output that is nn.broadcast, "
                    "depends on the step: on the carry, a scanned value or a split rng stream. Scan over the "
                    "collection (variable_axes), don't split the stream (split_rngs), or create the variable first."
                )
            constant, fixed, new, effects = result
            call = dataclasses.replace(call, packed=_begun(call.packed, fixed, new, effects, groups_of))
        elif broadcasts:
            raise errors.ControlFlowError(
                f"scan at {call.packed.where}: an output is nn.broadcast, which check_constancy_invariants=False rules "
                "out."
            )
        packed = call.packed
        written: list[set[Path]] = [set() for _ in packed.roots]

        def pure(carry: Any, xs: Any) -> Any:
            c, y, (_, state, *states), effects = step(call, packed.groups[0], shared, carry, xs)
            for i, values in enumerate(state.written):
                written[i].update(values)
                for key in values:
                    if not has(packed.groups[1][i], key):
                        raise errors.ControlFlowError(
                            f"scan at {packed.where}: a step creates {'/'.join(key)}, which variable_carry="
                            f"{variable_carry!r} carries, and the loop has no value to start with. Write it before the "
                            "loop."
                        )
            y = jax.tree.map(lambda axis, y: () if axis is broadcast else y, out_axes, y)
            return (updated(carry[0], state.written), c), (y, tuple(states), effects)

        def looped(init: Any, xs: Any) -> Any:
            if checkpoints is not None:
                return loops.scan(pure, init, xs, steps, reverse, unroll, checkpoints=checkpoints)
            return jax.lax.scan(
                pure, init, xs, length=steps, reverse=reverse, unroll=unroll, _split_transpose=_split_transpose
            )

        call.named(pure)
        operands = ((packed.groups[1], init), xs_all)
        try:
            if (
                checkpoints is None
                and _compat.staging()
                and any(map(_differentiated, jax.tree.leaves((packed.groups[0], operands))))
            ):
                (carried, c), (ys, states, effects) = worked_out_once(looped, operands, pure.__name__)
            else:
                (carried, c), (ys, states, effects) = looped(*operands)
        except TypeError as error:
            one = (jax.tree.map(_slice_type, xs_all),)
            explain_carry(lambda *args: pure(*args)[0], operands[0], one, error, packed)
            raise
        states = [jax.tree.map(lambda x, a=a: _back(a.out, x), s) for a, s in zip(axes, states, strict=True)]
        states = stacked(states, axes, metadata_params)
        last = tuple({k: get(tree, k) for k in keys} for tree, keys in zip(carried, written, strict=True))
        none = no_state(len(last)).created
        whole = ungrouped((State(fixed.written, none), State(last, none), *states), len(last))
        packed.commit(Run(whole, effects))
        ys = jax.tree.map(lambda axis, y: y if axis is broadcast else _back(axis, y), out_axes, ys)
        if broadcasts:
            ys = jax.tree.map(lambda axis, k, y: k if axis is broadcast else y, out_axes, constant, ys)
        return c, ys

    return function_form(called, target, SCAN)


def _begun(packed: Packed, fixed: State, new: Any, effects: Any, groups_of: Sequence[Filter]) -> Packed:
    """Return the packed target after the run before the loop, with what that run created, its draws counted."""
    packed = packed.include(Run(fixed, effects), groups_of[0])
    packed = packed.include(Run(State(new, new), effects), groups_of[1], index=1)
    packed = packed.after(effects, again=filters.subtract(True, filters.union(*groups_of[:2])))
    return packed.with_(groups=(updated(packed.groups[0], fixed.written), *packed.groups[1:]))


def _writable(packed: Packed, groups: Sequence[Filter]) -> bool:
    reach = filters.union(*groups)
    return any(not filters.is_empty(filters.intersect(m, reach)) for m in packed.mutable)


def _differentiated(x: Any) -> bool:
    """Return whether a transform inside the trace differentiates or maps `x`, which is not merely traced."""
    return _compat.is_tracer(x) and not _compat.is_staged(x)


def _front(axis: int, tree: Any) -> Any:
    return tree if axis == 0 else jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), tree)


def _back(axis: int, tree: Any) -> Any:
    return tree if axis == 0 else jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), tree)


def _slice_type(x: Any) -> Any:
    whole = type_of(x)
    return jax.ShapeDtypeStruct(whole.shape[1:], whole.dtype)
