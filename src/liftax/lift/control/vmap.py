"""Lifted vectorization: a function of a module over an axis of its arguments, its variables, or both.

    vmap : (Module -> a -> b) -> (Module with an axis -> a with an axis -> b with an axis)

One call to `jax.vmap`. Each collection goes in and out along an axis of its own; each rng stream is split along the
axis, or is the same everywhere.

Source: `jax.vmap`; `flax.linen.vmap` for the signature.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from liftax import errors
from liftax.core.packing.run import Run
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.axes import (
    as_arrays,
    axes_of,
    check_out_axes,
    check_state_axes,
    close_ways,
    grouped,
    stacked,
    ungrouped,
    unstacked,
)
from liftax.lift.machinery.axes import axis_size as size_of
from liftax.lift.machinery.forms import Call, Target, class_form, function_form, is_class, joined, split_keys
from liftax.typing import AxisName, Filter

VMAP = Transform("vmap", "(fn, …)(module, *args)", filters=("variable_axes",), splits="axis")


@described(VMAP)
def vmap(
    target: Target,
    variable_axes: Mapping[Filter, Any] = {},
    split_rngs: Mapping[Filter, bool] = {},
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: int | None = None,
    axis_name: AxisName | None = None,
    spmd_axis_name: Any = None,
    metadata_params: Mapping[Any, Any] = {},
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
) -> Target:
    """Map a function of a module over an axis.

    Outside of a module use `jax.vmap`.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, *args)`.
        variable_axes: Filter -> axis: the variables of these collections have that axis outside and not inside. None:
            they are the same everywhere. Collections that no filter matches are out of reach inside.
        split_rngs: Filter -> whether the rng stream differs along the axis. Streams that no filter matches are out of
            reach inside.
        in_axes: For each argument after the module, the axis, or None: see `jax.vmap`.
        out_axes: The same for the output.
        axis_size: The size of the axis; needed only if nothing else tells it.
        axis_name: A name of the axis, for `jax.lax.psum` and its kin.
        spmd_axis_name: See `jax.vmap`.
        metadata_params: Handed to `add_axis` and `remove_axis` of boxes.
        methods: See `checkpoint`.

    Returns:
        A subclass with the same fields, whose instances are named `Vmap…`; or a function called as
        `mapped(mdl, *args)`. Keyword arguments reach `fn` as they are.

    Raises:
        MappedAxisError: Axes are of several sizes, or of none; an array has no such axis; a variable whose axis is None
            differs along the axis.
        TransformTargetError, UnboundModuleError, InvalidScopeError, TransformedMethodReturnValueError: see
            `checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Heads(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         Head = nn.vmap(nn.Dense, variable_axes={'params': 0}, split_rngs={'params': True},
        ...                        in_axes=None, axis_size=4)
        ...         return Head(features=2, name='head')(x)
        >>> variables = Heads().init(jax.random.key(0), jnp.ones(3))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'head': {'bias': (4, 2), 'kernel': (4, 3, 2)}}}
    """
    if is_class(target):
        return class_form(
            vmap, target, methods, variable_axes=variable_axes, split_rngs=split_rngs, in_axes=in_axes,
            out_axes=out_axes, axis_size=axis_size, axis_name=axis_name, spmd_axis_name=spmd_axis_name,
            metadata_params=metadata_params,
        )  # fmt: skip
    axes = axes_of(variable_axes, VMAP, allow_none=True)
    filters = tuple(a.filter for a in axes)
    args_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes

    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(VMAP, target, mdl, args, kwargs, filters)
        packed = close_ways(call.packed, axes)
        call = dataclasses.replace(call, packed=packed)
        groups = unstacked(packed.groups, axes, metadata_params)
        into = tuple(a.into for a in axes)
        size = size_of(axis_size, (into, args_axes), (groups, call.args), None, VMAP, "axis_size")
        groups, args = as_arrays((into, args_axes), (groups, call.args))
        split, shared = split_keys(call, split_rngs)
        split = jax.tree.map(lambda key: jax.random.split(key, size), split)
        kept: list[str] = []

        def pure(groups: Any, split: Any, shared: Any, args: Any) -> Any:
            out, (state, effects) = call.run(groups, joined(split, shared), args, call.kwargs)
            check_out_axes(out_axes, out, VMAP)
            states = grouped(state, filters)
            check_state_axes(states, axes, packed)
            for a, s in zip(axes, states, strict=True):
                kept.extend("/".join(key) for written in s.written for key in written if a.out is None)
            return out, states, effects

        mapped = jax.vmap(
            call.named(pure),
            in_axes=(into, 0, None, args_axes),
            out_axes=(out_axes, tuple(a.out for a in axes), None),
            axis_size=size,
            axis_name=axis_name,
            spmd_axis_name=spmd_axis_name,
        )
        try:
            out, states, effects = mapped(groups, split, shared, args)
        except ValueError as error:
            if kept and "out_axes" in str(error) and not any(a is None for a in _leaves(out_axes)):
                raise errors.MappedAxisError(
                    f"vmap at {packed.where}: one of the variables {', '.join(kept)} is written with a "
                    "value that differs along the axis, and variable_axes says None for it: the same everywhere. Give "
                    "its collection an axis, or reduce the value (axis_name and jax.lax.pmean)."
                ) from error
            raise
        state = ungrouped(stacked(states, axes, metadata_params), len(packed.roots))
        packed.commit(Run(state, effects))
        return out

    return function_form(called, target, VMAP)


def _leaves(axes: Any) -> list[Any]:
    return jax.tree.leaves(axes, is_leaf=lambda x: x is None)
