"""Axes of variables: what `vmap` and `scan` share.

A transform that maps takes each collection along an axis of its own, or whole. So the variables are grouped by axis on
the way in, and the state is grouped alike on the way out.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import errors
from liftax.core import filters, meta
from liftax.core.packing.packed import Groups, Packed
from liftax.core.packing.run import State, no_state
from liftax.explain.transform import Transform
from liftax.explain.values import describe
from liftax.typing import Filter


@dataclasses.dataclass(frozen=True)
class In:
    """An axis for variables on their way in alone: inside they can't be written.

    Args:
        axis: the axis, or None for the whole variable.

    Example:
        >>> from liftax import lift
        >>> lift.In(0).axis
        0
    """

    axis: int | None


@dataclasses.dataclass(frozen=True)
class Out:
    """An axis for variables on their way out alone: inside they don't exist until they are written.

    Args:
        axis: the axis, or None for a variable that is the same everywhere along the axis.

    Example:
        >>> from liftax import lift
        >>> lift.Out(-1).axis
        -1
    """

    axis: int | None


class Axis:
    """One entry of `variable_axes`: which collections, the axis in, the axis out, and whether each way is open."""

    __slots__ = ("filter", "goes_in", "goes_out", "into", "out")

    def __init__(self, filter_: Filter, axis: Any):
        self.filter = filter_
        kind = type(axis).__name__ if hasattr(axis, "axis") else ""  # duck-typed, so that Flax's In and Out also work
        self.goes_in, self.goes_out = kind != "Out", kind != "In"
        self.into = self.out = axis.axis if kind else axis


def axes_of(variable_axes: Mapping[Filter, Any], transform: Transform, allow_none: bool) -> tuple[Axis, ...]:
    """Return the entries of `variable_axes`, checked."""
    if not isinstance(variable_axes, Mapping):
        raise errors.MappedAxisError(
            f"{transform}: variable_axes={variable_axes!r} is not a mapping from collections to axes, such as "
            f"{{'params': 0}}."
        )
    entries = tuple(Axis(f, axis) for f, axis in variable_axes.items())
    for entry in entries:
        if not isinstance(entry.into, int) and not (allow_none and entry.into is None):
            what = "an integer, or None for the whole variable" if allow_none else "an integer"
            more = "" if allow_none else " Collections that are not scanned over go to variable_broadcast or to"
            raise errors.MappedAxisError(
                f"{transform}: variable_axes has {entry.into!r} for {entry.filter!r}; an axis is {what}."
                f"{more and more + ' variable_carry.'}"
            )
    return entries


def close_ways(packed: Packed, axes: Sequence[Axis], first: int = 0) -> Packed:
    """Drop what does not go in, and make immutable what does not go out; `axes` are the groups from `first` on."""
    groups, mutable = list(packed.groups), packed.mutable
    for i, axis in enumerate(axes, first):
        if not axis.goes_in:
            groups[i] = tuple({} for _ in packed.roots)
        if not axis.goes_out:
            mutable = tuple(filters.subtract(m, axis.filter) for m in mutable)
    return packed.with_(groups=tuple(groups), mutable=mutable)


def unstacked(groups: Groups, axes: Sequence[Axis], params: Any) -> Groups:
    """Tell boxes in `groups` that the axis is taken away."""
    return tuple(
        meta.remove_axis(group, a.into, params) if a.into is not None else group
        for group, a in zip(groups, axes, strict=True)
    )


def stacked(states: Sequence[State], axes: Sequence[Axis], params: Any) -> tuple[State, ...]:
    """Tell boxes in `states` that the axis is there."""
    return tuple(
        meta.add_axis(state, a.out, params) if a.out is not None else state
        for state, a in zip(states, axes, strict=True)
    )


def grouped(state: State, groups: Sequence[Filter]) -> tuple[State, ...]:
    """Split `state` by collection: each variable goes to the first filter that matches."""
    found = [no_state(len(state.written)) for _ in groups]
    for field, parts in enumerate(state):
        for i, variables in enumerate(parts):
            for key, value in variables.items():
                at = next(g for g, filter_ in enumerate(groups) if filters.in_filter(filter_, key[0]))
                found[at][field][i][key] = value
    return tuple(found)


def ungrouped(states: Sequence[State], roots: int) -> State:
    """Undo `grouped`."""
    joined = no_state(roots)
    for state in states:
        for whole, parts in zip(joined, state, strict=True):
            for variables, part in zip(whole, parts, strict=True):
                variables.update(part)
    return joined


def axis_size(
    given: int | None, axes: Any, values: Any, unmapped: Any, transform: Transform, argument: str, carry: bool = False
) -> int:
    """Return the size of the mapped axis.

    Args:
        given: what the user said, or None.
        axes: a prefix of `values`, with an axis, or `unmapped`, for each subtree.
        values: groups of variables, and the arguments.
        unmapped: what stands for no axis.
        transform: for error texts.
        argument: its argument that gives the size.
        carry: the arguments come after a carry.

    Raises:
        MappedAxisError: the sizes differ, or there is none.
    """
    sizes: dict[int, str] = {}  # size -> the first value that has it

    def look(before: Any, axis: Any, x: Any) -> None:
        if axis is not unmapped:
            for path, leaf in jax.tree_util.tree_leaves_with_path(x):
                shape = np.shape(leaf)
                if not hasattr(axis, "__index__"):
                    none = "None" if unmapped is None else f"nn.{unmapped}"
                    raise errors.MappedAxisError(
                        f"{transform}: in_axes has {axis!r} for {_value((*before, *path), carry)}. An axis is an "
                        "integer, or "
                        f"{none} for a value that is not mapped over."
                    )
                what = f"{_value((*before, *path), carry)} of shape {shape}"
                if not -len(shape) <= axis < len(shape):
                    raise errors.MappedAxisError(f"{transform}: {what} has no axis {axis} to map over.")
                sizes.setdefault(shape[axis], f"axis {axis} of {what}")

    try:
        jax.tree_util.tree_map_with_path(look, axes, values, is_leaf=lambda x: x is None)
    except errors.LiftaxError:
        raise
    except ValueError as error:
        _explain_in_axes(axes[1], values[1], transform, carry, error)
        raise
    if given is not None:
        sizes.setdefault(given, argument)
    if not sizes:
        raise errors.MappedAxisError(
            f"{transform}: nothing that is mapped says how long the axis is. Pass {argument}, or map an argument."
        )
    if len(sizes) > 1:
        found = "; ".join(f"{size} for {what}" for size, what in sizes.items())
        raise errors.MappedAxisError(
            f"{transform}: the mapped axes have different sizes: {found}. They have to be of one. "
            f"Look at in_axes, variable_axes and {argument}."
        )
    return next(iter(sizes))


def _explain_in_axes(in_axes: Any, args: tuple[Any, ...], transform: Transform, carry: bool, error: ValueError) -> None:
    """Raise `MappedAxisError` from `error` if `in_axes` does not fit `args`; else return."""
    first = "the module and the carry" if carry else "the module"
    each = f"Give one axis for all, or a tuple with an entry for each argument after {first}"
    if isinstance(in_axes, tuple) and len(in_axes) != len(args):
        raise errors.MappedAxisError(
            f"{transform}: in_axes={in_axes} has {len(in_axes)} entr{'y' if len(in_axes) == 1 else 'ies'}, and the "
            "call has "
            f"{len(args)} argument{'s' * (len(args) != 1)} after {first}. {each}."
        ) from error
    for i, arg in enumerate(args):
        axis = in_axes[i] if isinstance(in_axes, tuple) else in_axes
        if not _is_prefix(axis, arg):
            raise errors.MappedAxisError(
                f"{transform}: in_axes has {axis!r} for argument {i + carry}, {describe(arg)}, whose "
                f"structure does not match. {each}: an axis for the whole of it, or a tree of axes of its structure."
            ) from error


def as_arrays(axes: Any, values: Any) -> Any:
    """Return `values` with mapped arrays of NumPy turned into arrays of JAX.

    JAX treats those as constants where `vmap` meets a rule of a custom derivative under a trace, and fails.
    """
    if not any(isinstance(x, np.ndarray | np.generic) for x in jax.tree.leaves(values)):
        return values

    def convert(axis: Any, tree: Any) -> Any:
        if axis is None:
            return tree
        return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray | np.generic) else x, tree)

    return jax.tree.map(convert, axes, values, is_leaf=lambda x: x is None)


def check_state_axes(states: Sequence[State], axes: Sequence[Axis], packed: Packed) -> None:
    """Raise `MappedAxisError` if a variable that was written can't have the axis along which it is to be stacked."""
    for state, axis in zip(states, axes, strict=True):
        if axis.out is None:
            continue
        for root, written in zip(packed.roots, state.written, strict=True):
            for key, value in written.items():
                what = f"the variable {'/'.join(key)} at {root.path_text}"
                _check_stackable(axis.out, value, what, packed.transform)


def _check_stackable(axis: int, value: Any, what: str, transform: Transform) -> None:
    """Raise `MappedAxisError` unless each array in `value`, that of one place on the axis, can have the axis."""
    for path, x in jax.tree_util.tree_leaves_with_path(value):
        rank = np.ndim(x) + 1
        if not -rank <= axis < rank:
            raise errors.MappedAxisError(
                f"{transform}: {what}{jax.tree_util.keystr(path)} has shape {np.shape(x)} inside, so that with the "
                "axis "
                f"it has {rank} ax{'i' if rank == 1 else 'e'}s, and axis {axis} is none of them. Give an axis from "
                f"{-rank} to {rank - 1}."
            )


def check_out_axes(out_axes: Any, out: Any, transform: Transform, what: str = "the output") -> None:
    """Raise `MappedAxisError` unless `out_axes` matches the output of a function: its structure, and its axes."""
    if not isinstance(out_axes, int) and not _is_prefix(out_axes, out):
        raise errors.MappedAxisError(
            f"{transform}: the structure of out_axes={out_axes!r} does not match {what} of the function, "
            f"{describe(out)}. "
            "Give one axis for all of it, or a tree of axes of its structure."
        )

    def look(axis: Any, tree: Any) -> None:
        if isinstance(axis, int):
            _check_stackable(axis, tree, what.partition(" (")[0], transform)

    jax.tree.map(look, out_axes, out, is_leaf=lambda x: x is None)


def _is_prefix(axes: Any, tree: Any) -> bool:
    try:
        jax.tree.map(lambda *_: None, axes, tree, is_leaf=lambda x: x is None)
    except ValueError:
        return False
    return True


def _value(path: Any, carry: bool) -> str:
    """Name a value by its path in what is mapped: groups of variables, and arguments, maybe after a carry."""
    if path[0].idx == 1:
        return f"argument {path[1].idx + carry}{jax.tree_util.keystr(path[2:])}"
    return f"the variable {jax.tree_util.keystr(path[3:], simple=True, separator='/')}"
