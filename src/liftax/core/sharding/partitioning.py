"""Boxes that say how a variable is laid out over devices.

`Partitioned` names the mesh axis of each dimension. With the names of axes of the model instead, such as `'embed'`, use
`LogicallyPartitioned`: see `liftax.core.sharding.logical`.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from liftax import errors
from liftax.core.boxes import A, AxisMetadata, is_box

B = TypeVar("B", bound="Partitioned")

PARTITION_NAME = "partition_name"
"""The key in `metadata_params` of a transform under which it names the axis that it adds."""

Names = tuple[Any, ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["names", "mesh"])
@dataclasses.dataclass(frozen=True)
class Partitioned(AxisMetadata[A]):
    """A value, and the mesh axis that each of its dimensions is laid out over.

    Most often made by `with_partitioning`. Reading the variable inside a mesh constrains its layout.

    Args:
        value: an array.
        names: for each dimension: the name of a mesh axis, a tuple of names, or None for not split.
        mesh: the mesh; by default the one that is in use where the variable is read.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> box = nn.Partitioned(jnp.ones((4, 2)), ('data', None))
        >>> tuple(box.get_partition_spec()), box.add_axis(0, {nn.meta.PARTITION_NAME: 'layers'}).names
        (('data', None), ('layers', 'data', None))
    """

    value: Any
    names: Names
    mesh: Mesh | None = None

    def unbox(self, apply_constraint: bool = True) -> Any:
        """Return the value, laid out as the names say where there is a mesh."""
        return constrain(self.value, self.get_partition_spec(), self.mesh) if apply_constraint else self.value

    def replace(self: B, **changes: Any) -> B:
        """Return a box with other fields."""
        return dataclasses.replace(self, **changes)

    def replace_boxed(self: B, value: Any) -> B:
        """Return a box with the same names around `value`."""
        return dataclasses.replace(self, value=value)

    def add_axis(self: B, index: int, params: Mapping[Any, Any]) -> B:
        """Name the axis that a transform stacked at `index`."""
        names = [*self.names, *[None] * (index - len(self.names))]
        names.insert(index if index >= 0 else index + len(names) + 1, self._name(params))
        return dataclasses.replace(self, names=tuple(names))

    def remove_axis(self: B, index: int, params: Mapping[Any, Any]) -> B:
        """Drop the name of the axis at `index`, which a transform took away."""
        name, names = self._name(params), list(self.names)
        if names.pop(index) != name:
            raise ValueError(
                f"A transform that takes axis {index}, named {name!r}, away from a variable meets one whose axes are "
                f"{self.names}. Give the transform that added the axis, and the one that takes it away, the same "
                f"metadata_params={{{PARTITION_NAME!r}: …}}."
            )
        return dataclasses.replace(self, names=tuple(names))

    def _name(self, params: Mapping[Any, Any]) -> Any:
        try:
            return params[PARTITION_NAME]
        except KeyError:
            raise errors.PartitioningUnspecifiedError(
                f"A transform adds an axis to a variable whose axes are named {self.names}, and says no name for it: "
                f"pass metadata_params={{{PARTITION_NAME!r}: 'layers'}} to the transform, or None for not split."
            ) from None

    def get_partition_spec(self) -> PartitionSpec:
        """Return the names as a `PartitionSpec`."""
        return PartitionSpec(*self.names)

    def get_sharding(self, mesh: Mesh) -> NamedSharding:
        """Return the layout over `mesh`."""
        return NamedSharding(mesh, self.get_partition_spec())


def with_partitioning(fn: Callable[..., Any], names: Names, mesh: Mesh | None = None) -> Callable[..., Partitioned]:
    """Make an initializer box its value with the mesh axes that it is laid out over.

    Args:
        fn: an initializer.
        names: see `Partitioned`.
        mesh: see `Partitioned`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Dense(2, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, 'model')))
        >>> variables = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones(3))
        >>> tuple(nn.get_partition_spec(variables)['params']['kernel'])
        (None, 'model')
    """

    @functools.wraps(fn)
    def boxed(*args: Any, **kwargs: Any) -> Partitioned:
        return Partitioned(fn(*args, **kwargs), names, mesh)

    return boxed


def get_partition_spec(tree: Any) -> Any:
    """Return the `PartitionSpec` of every variable in `tree`: empty for those without a box.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> specs = nn.get_partition_spec({'kernel': nn.Partitioned(jnp.ones(2), ('model',)), 'bias': jnp.ones(2)})
        >>> tuple(specs['kernel']), tuple(specs['bias'])
        (('model',), ())
    """
    return jax.tree.map(_spec, tree, is_leaf=is_box)


def get_sharding(tree: Any, mesh: Mesh) -> Any:
    """Return the layout of every variable in `tree` over `mesh`: one copy a device for those without a box.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> mesh = jax.make_mesh((1,), ('model',), axis_types=(jax.sharding.AxisType.Auto,))
        >>> layouts = nn.get_sharding({'kernel': nn.Partitioned(jnp.ones(2), ('model',))}, mesh)
        >>> tuple(layouts['kernel'].spec)
        ('model',)
    """

    def sharding(x: Any) -> Any:
        if hasattr(x, "get_sharding"):
            return x.get_sharding(mesh)
        spec = _spec(x)
        return None if spec is None else NamedSharding(mesh, spec)

    return jax.tree.map(sharding, tree, is_leaf=is_box)


def constrain(x: Any, spec: PartitionSpec, mesh: Mesh | None = None) -> Any:
    """Lay `x` out by `spec`, over `mesh` or the mesh in use; return `x` as it is if there is none.

    Inside `shard_map`, axes that are mapped over are settled already, and only the others constrain.
    """
    context = jax.sharding.get_abstract_mesh()
    if context.manual_axes:
        spec, mesh = _without(spec, context.manual_axes), None
        if not any(spec):
            return x
    in_use = context if mesh is None else mesh
    if in_use.empty:
        return x
    sharding = spec if mesh is None else NamedSharding(mesh, spec)
    if in_use.are_all_axes_explicit:
        return jax.sharding.reshard(x, sharding)
    return jax.lax.with_sharding_constraint(x, sharding)


def _without(spec: PartitionSpec, axes: Collection[Any]) -> PartitionSpec:
    kept = (tuple(a for a in e if a not in axes) if isinstance(e, tuple | list) else e for e in spec)
    return PartitionSpec(*(None if e in axes or e == () else e for e in kept))


def _spec(x: Any) -> PartitionSpec | None:
    if hasattr(x, "get_partition_spec"):
        return x.get_partition_spec()
    return PartitionSpec() if hasattr(x, "shape") else None
