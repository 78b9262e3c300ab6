"""Axes of variables: what `vmap` and `scan` share.

A transform that maps takes each collection along an axis of its own, or whole. So the variables are grouped by axis on
the way in, and the state is grouped alike on the way out.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from liftax import errors
from liftax.core import filters, meta
from liftax.core.pack import Groups, Packed, State
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
        kind = type(axis).__name__ if hasattr(axis, "axis") else ""  # those of Flax are welcome too
        self.goes_in, self.goes_out = kind != "Out", kind != "In"
        self.into = self.out = axis.axis if kind else axis


def axes_of(variable_axes: Mapping[Filter, Any], name: str, allow_none: bool) -> tuple[Axis, ...]:
    """Return the entries of `variable_axes`, checked."""
    if not isinstance(variable_axes, Mapping):
        raise errors.MappedAxisError(
            f"{name}: variable_axes={variable_axes!r} is no mapping from collections to axes, such as {{'params': 0}}."
        )
    entries = tuple(Axis(f, axis) for f, axis in variable_axes.items())
    for entry in entries:
        if not isinstance(entry.into, int) and not (allow_none and entry.into is None):
            what = "an integer, or None for the whole variable" if allow_none else "an integer"
            more = "" if allow_none else " Collections that are not scanned over go to variable_broadcast or to"
            raise errors.MappedAxisError(
                f"{name}: variable_axes has {entry.into!r} for {entry.filter!r}; an axis is {what}."
                f"{more and more + ' variable_carry.'}"
            )
    return entries


def close_ways(packed: Packed, axes: Sequence[Axis], first: int = 0) -> None:
    """Drop what does not go in, and make immutable what does not go out; `axes` are the groups from `first` on."""
    groups = list(packed.groups)
    for i, axis in enumerate(axes, first):
        if not axis.goes_in:
            groups[i] = tuple({} for _ in packed.roots)
        if not axis.goes_out:
            packed.inner_mutable = tuple(filters.subtract(mutable, axis.filter) for mutable in packed.inner_mutable)
    packed.groups = tuple(groups)


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
    found = [State(tuple([{} for _ in state.written]), tuple([{} for _ in state.created])) for _ in groups]
    for field, parts in enumerate(state):
        for i, variables in enumerate(parts):
            for key, value in variables.items():
                at = next(g for g, filter_ in enumerate(groups) if filters.in_filter(filter_, key[0]))
                found[at][field][i][key] = value
    return tuple(found)


def ungrouped(states: Sequence[State], packed: Packed) -> State:
    """Undo `grouped`."""
    joined = State(tuple([{} for _ in packed.roots]), tuple([{} for _ in packed.roots]))
    for state in states:
        for roots, parts in zip(joined, state, strict=True):
            for variables, part in zip(roots, parts, strict=True):
                variables.update(part)
    return joined


def axis_size(given: int | None, axes: Any, values: Any, unmapped: Any, name: str, argument: str) -> int:
    """Return the size of the mapped axis.

    Args:
        given: what the user said, or None.
        axes: a prefix of `values`, with an axis, or `unmapped`, for each subtree.
        values: the arguments.
        unmapped: what stands for no axis.
        name: the transform that speaks.
        argument: its argument that gives the size.

    Raises:
        MappedAxisError: the sizes differ, or there is none.
    """
    sizes: dict[int, str] = {}  # size -> the first value that has it

    def look(before: Any, axis: Any, x: Any) -> None:
        if axis is not unmapped:
            for path, leaf in jax.tree_util.tree_leaves_with_path(x):
                shape = np.shape(leaf)
                what = f"{_value((*before, *path), name)} of shape {shape}"
                if not -len(shape) <= axis < len(shape):
                    raise errors.MappedAxisError(f"{name}: {what} has no axis {axis} to map over.")
                sizes.setdefault(shape[axis], f"axis {axis} of {what}")

    jax.tree_util.tree_map_with_path(look, axes, values, is_leaf=lambda x: x is None)
    if given is not None:
        sizes.setdefault(given, argument)
    if not sizes:
        raise errors.MappedAxisError(
            f"{name}: nothing that is mapped says how long the axis is. Pass {argument}, or map an argument."
        )
    if len(sizes) > 1:
        found = "; ".join(f"{size} for {what}" for size, what in sizes.items())
        raise errors.MappedAxisError(
            f"{name}: the mapped axes have different sizes: {found}. They have to be of one. "
            f"Look at in_axes, variable_axes and {argument}."
        )
    return next(iter(sizes))


def _value(path: Any, name: str) -> str:
    """Say what a value is by its path in what is mapped: arguments, or in `vmap` groups of variables and arguments."""
    if name == "scan":
        return f"argument {path[0].idx + 1}{jax.tree_util.keystr(path[1:])}"  # the carry is argument 0
    if path[0].idx == 1:
        return f"argument {path[1].idx}{jax.tree_util.keystr(path[2:])}"
    return f"the variable {jax.tree_util.keystr(path[3:], simple=True, separator='/')}"
