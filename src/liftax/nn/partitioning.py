"""Logical axes in collections of their own, under the address that they have in Linen, `nn.partitioning`.

    param_with_axes : name -> initializer -> axes -> value, with the axes in the collection 'params_axes'

The older of Linen's two ways: beside the collection `params` there is `params_axes`, with the names of the axes of
every parameter under `<name>_axes`. New code boxes values with `nn.with_logical_partitioning` instead.

Source: `flax.linen.partitioning` for the signatures.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from liftax import errors, lift
from liftax.core import filters
from liftax.core.frozen_dict import FrozenDict
from liftax.core.sharding.logical import (
    RulesFallback,
    logical_to_mesh,
    logical_to_mesh_axes,
)
from liftax.core.sharding.logical import get_logical_axis_rules as get_axis_rules
from liftax.core.sharding.logical import logical_axis_rules as axis_rules
from liftax.core.sharding.logical import set_logical_axis_rules as set_axis_rules
from liftax.core.sharding.logical import with_logical_constraint as with_sharding_constraint
from liftax.core.variable import Variable
from liftax.lift import In as ScanIn
from liftax.lift import Out as ScanOut
from liftax.module import current_module
from liftax.typing import Filter

__all__ = [
    "AxisMetadata", "PartitionedVariable", "RulesFallback", "ScanIn", "ScanOut", "axis_rules", "core_remat_static",
    "get_axis_names", "get_axis_rules", "logical_to_mesh", "logical_to_mesh_axes", "param_with_axes", "remat",
    "scan_with_axes", "set_axis_rules", "variable_with_axes", "vmap_with_axes", "with_sharding_constraint",
]  # fmt: skip

Names = tuple[Any, ...] | None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class AxisMetadata:
    """The names of the axes of a variable: a pytree without leaves.

    Args:
        names: a name, or None, for each axis; or a tree of such tuples.
    """

    names: Any

    def replace(self, **changes: Any) -> "AxisMetadata":
        """Return one with other names."""
        return dataclasses.replace(self, **changes)


class PartitionedVariable(Variable[Any]):
    """A handle to a variable whose value is laid out by the names of its axes when it is read and written.

    Args:
        scope: see `nn.Variable`.
        collection: see `nn.Variable`.
        name: see `nn.Variable`.
        axes: the names of the axes.
        fallback: see `nn.with_logical_constraint`.
    """

    __slots__ = ("axes", "fallback")

    def __init__(
        self,
        scope: Any,
        collection: str,
        name: str,
        axes: Names = None,
        fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED,
    ):
        super().__init__(scope, collection, name)
        self.axes = axes
        self.fallback = fallback

    @property
    def value(self) -> Any:
        """The value of the variable."""
        return with_sharding_constraint(super().value, self.axes, fallback=self.fallback)

    @value.setter
    def value(self, value: Any) -> None:
        value = with_sharding_constraint(value, self.axes, fallback=self.fallback)
        Variable.value.__set__(self, value)


def param_with_axes(
    name: str,
    init_fn: Callable[..., Any],
    *init_args: Any,
    axes: Names = None,
    module: Any = None,
    **init_kwargs: Any,
) -> Any:
    """Declare a parameter, keep the names of its axes in the collection `'params_axes'`, and return its value.

    Args:
        name: see `Module.param`.
        init_fn: see `Module.param`.
        *init_args: see `Module.param`.
        axes: the name of a logical axis, or None, for each axis.
        module: the module; by default the one whose method runs now.
        **init_kwargs: see `Module.param`.

    Raises:
        UnboundModuleError: no method of a module runs, and `module` was not given.
        PartitioningUnspecifiedError: the parameter was declared with other names before.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Scale(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return x * nn.partitioning.param_with_axes('w', nn.initializers.ones, (3,), axes=('embed',))
        >>> Scale().init(jax.random.key(0), jnp.ones(3))['params_axes']
        {'w_axes': AxisMetadata(names=('embed',))}
    """
    module = _module(module, "param_with_axes")
    value = module.param(name, init_fn, *init_args, **init_kwargs)
    if axes is not None:
        value = with_sharding_constraint(value, PartitionSpec(*axes))
        module.sow("params_axes", f"{name}_axes", AxisMetadata(axes), reduce_fn=_same)
    return value


def variable_with_axes(
    collection: str,
    name: str,
    init_fn: Callable[..., Any],
    *init_args: Any,
    axes: Names = None,
    module: Any = None,
    fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED,
    **init_kwargs: Any,
) -> PartitionedVariable:
    """Declare a variable, keep the names of its axes in the collection `'<collection>_axes'`, and return a handle.

    Args:
        collection: see `Module.variable`.
        name: see `Module.variable`.
        init_fn: see `Module.variable`.
        *init_args: see `Module.variable`.
        axes: the name of a logical axis, or None, for each axis.
        module: the module; by default the one whose method runs now.
        fallback: see `nn.with_logical_constraint`.
        **init_kwargs: see `Module.variable`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Mean(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.partitioning.variable_with_axes('stats', 'm', jnp.zeros, (3,), axes=('embed',)).value
        >>> list(Mean().init(jax.random.key(0), jnp.ones(3)))
        ['stats', 'stats_axes']
    """
    module = _module(module, "variable_with_axes")

    def first_value() -> Any:
        return with_sharding_constraint(init_fn(*init_args, **init_kwargs), axes, fallback=fallback)

    handle = module.variable(collection, name, first_value)
    if axes is not None:
        module.sow(f"{collection}_axes", f"{name}_axes", AxisMetadata(axes), reduce_fn=_same)
    return PartitionedVariable(handle._owner, collection, name, axes, fallback)


def get_axis_names(axes_metadata: Mapping[str, Any]) -> FrozenDict[str, Any]:
    """Return a `PartitionSpec` of logical axes for each variable, from a collection such as `'params_axes'`.

    Example:
        >>> from liftax import nn
        >>> names = nn.partitioning.AxisMetadata(('embed', None))
        >>> tuple(nn.partitioning.get_axis_names({'Dense_0': {'kernel_axes': names}})['Dense_0']['kernel'])
        ('embed', None)
    """

    def specs(tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return {name.removesuffix("_axes"): specs(sub) for name, sub in tree.items()}
        return _over_names(lambda names: PartitionSpec(*names), tree.names)

    return FrozenDict(specs(axes_metadata))


def scan_with_axes(
    target: Any,
    variable_axes: Mapping[Filter, Any] = {},
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    split_rngs: Mapping[Filter, bool] = {},
    in_axes: Any = 0,
    out_axes: Any = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    axis_name: str = "layers",
    axes_collections: Sequence[str] = ("params",),
    data_transform: Callable[..., Any] | None = None,
    methods: Any = None,
) -> Any:
    """`nn.scan`, which also names the axis that it adds in the collections of axes.

    Args:
        target: see `nn.scan`, as for all arguments that are not named here.
        variable_axes: see `nn.scan`.
        variable_broadcast: see `nn.scan`.
        variable_carry: see `nn.scan`.
        split_rngs: see `nn.scan`.
        in_axes: see `nn.scan`.
        out_axes: see `nn.scan`.
        length: see `nn.scan`.
        reverse: see `nn.scan`.
        unroll: see `nn.scan`.
        axis_name: the name of the axis over the steps.
        axes_collections: the collections with names of axes.
        data_transform: see `nn.scan`.
        methods: see `nn.scan`.
    """
    names = [f"{col}_axes" for col in axes_collections]
    scanned = lift.scan(
        target, variable_axes=variable_axes, variable_broadcast=filters.union(variable_broadcast, names),
        variable_carry=variable_carry, split_rngs=split_rngs, in_axes=in_axes, out_axes=out_axes, length=length,
        reverse=reverse, unroll=unroll, data_transform=data_transform, methods=methods,
    )  # fmt: skip
    for col in axes_collections:
        if col in variable_axes:
            scanned = _with_axis(scanned, variable_axes[col], axis_name, f"{col}_axes", methods)
    return scanned


def vmap_with_axes(
    target: Any,
    variable_axes: Mapping[Filter, Any],
    split_rngs: Mapping[Filter, bool] = {},
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: int | None = None,
    axis_name: str | None = None,
    partitioning_axis_names: Mapping[str, str] = {},
    spmd_axis_name: str | None = None,
    methods: Any = None,
) -> Any:
    """`nn.vmap`, which also names the axis that it adds in the collections of axes.

    Args:
        target: see `nn.vmap`, as for all arguments that are not named here.
        variable_axes: see `nn.vmap`.
        split_rngs: see `nn.vmap`.
        in_axes: see `nn.vmap`.
        out_axes: see `nn.vmap`.
        axis_size: see `nn.vmap`.
        axis_name: see `nn.vmap`.
        partitioning_axis_names: collection -> the name of the axis that is added to its variables.
        spmd_axis_name: see `nn.vmap`.
        methods: see `nn.vmap`.
    """
    axes = {**variable_axes, **{f"{col}_axes": None for col in partitioning_axis_names}}
    vmapped = lift.vmap(
        target, variable_axes=axes, split_rngs=split_rngs, in_axes=in_axes, out_axes=out_axes, axis_size=axis_size,
        axis_name=axis_name, spmd_axis_name=spmd_axis_name, methods=methods,
    )  # fmt: skip
    for col, axis in variable_axes.items():
        if isinstance(col, str) and col in partitioning_axis_names:
            vmapped = _with_axis(vmapped, axis, partitioning_axis_names[col], f"{col}_axes", methods)
    return vmapped


def core_remat_static(
    fn: Callable[..., Any],
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | Sequence[int] = (),
    policy: Callable[..., bool] | None = None,
) -> Callable[..., Any]:
    """`nn.remat` of a function of a scope, with `static_argnums` counted without the scope.

    Args:
        fn: called as `fn(scope, *args)`.
        variables: see `nn.remat`.
        rngs: see `nn.remat`.
        concrete: see `nn.remat`.
        prevent_cse: see `nn.remat`.
        static_argnums: positions of arguments that stay Python values; the first argument after the scope is 0.
        policy: see `nn.remat`.
    """
    given = (static_argnums,) if isinstance(static_argnums, int) else static_argnums
    return lift.checkpoint(fn, variables, rngs, concrete, prevent_cse, [i + 1 for i in given], policy)


def remat(
    target: Any,
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | Sequence[int] = (),
    policy: Callable[..., bool] | None = None,
    methods: Any = None,
) -> Any:
    """`nn.remat`, with `static_argnums` counted without the module.

    Args:
        target: see `nn.remat`.
        variables: see `nn.remat`.
        rngs: see `nn.remat`.
        concrete: see `nn.remat`.
        prevent_cse: see `nn.remat`.
        static_argnums: positions of arguments that stay Python values; the first argument after the module is 0.
        policy: see `nn.remat`.
        methods: see `nn.remat`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Block(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.Dropout(0.5)(nn.Dense(2)(x), deterministic=not train)
        >>> layer = nn.partitioning.remat(Block, static_argnums=(1,))()
        >>> jax.tree.map(jnp.shape, layer.init(jax.random.key(0), jnp.ones(3), False))
        {'params': {'Dense_0': {'bias': (2,), 'kernel': (3, 2)}}}
    """
    return lift.lift_transform(
        core_remat_static, target, variables=variables, rngs=rngs, concrete=concrete, prevent_cse=prevent_cse,
        static_argnums=static_argnums, policy=policy, methods=methods,
    )  # fmt: skip


def _module(module: Any, what: str) -> Any:
    module = current_module() if module is None else module
    if module is None:
        raise errors.UnboundModuleError(
            f"{what} was called where no method of a module runs. Call it in setup or in a @compact method, or name "
            "the module: module=…."
        )
    return module


def _same(before: Any, names: AxisMetadata) -> AxisMetadata:
    if isinstance(before, AxisMetadata) and before != names:
        raise errors.PartitioningUnspecifiedError(
            f"A variable is declared with the axes {names.names}, and was declared with {before.names} before. Give it "
            "the same names each time."
        )
    return names


def _is_names(x: Any) -> bool:
    return x is None or (isinstance(x, tuple) and all(isinstance(name, str) or name is None for name in x))


def _over_names(fn: Callable[[Any], Any], names: Any) -> Any:
    return jax.tree.map(lambda x: None if x is None else fn(x), names, is_leaf=_is_names)


def _with_axis(target: Any, axis: Any, name: str, col: str, methods: Any) -> Any:
    """Let `target` see the names in `col` without the axis that a transform adds to the variables."""
    index = getattr(axis, "axis", axis)
    if not isinstance(index, int):  # broadcast: no axis is added
        return target

    def inserted(names: Any) -> Any:
        at = index if index >= 0 else index + len(names) + 1
        return (*names[:at], name, *names[at:])

    def removed(names: Any) -> Any:
        names = list(names)
        found = names.pop(index)
        if found != name:
            raise errors.PartitioningUnspecifiedError(
                f"A transform that takes axis {index}, named {name!r}, away meets {found!r} there. Give the transform "
                "that added the axis, and the one that takes it away, the same name."
            )
        return tuple(names)

    def over(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def mapped(tree: Any) -> Any:
            one = lambda x: x.replace(names=_over_names(change, x.names)) if isinstance(x, AxisMetadata) else x  # noqa: E731
            return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, AxisMetadata))

        return mapped

    current = current_module()
    mutable = current is None or current.is_mutable_collection(col)
    return lift.map_variables(
        target, col, trans_in_fn=over(removed), trans_out_fn=over(inserted), mutable=mutable, methods=methods
    )
