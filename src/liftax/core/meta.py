"""Boxes around variables, with metadata about their axes, under the names of Linen's `core.meta` and `nn.meta`."""

from typing import Any, TypeVar

import jax

from liftax.core.boxes import AxisMetadata, add_axis, is_box, remove_axis, replace_boxed, unbox
from liftax.core.boxes import is_box as is_axis_metadata
from liftax.core.sharding.partitioning import (
    PARTITION_NAME,
    Partitioned,
    get_partition_spec,
    get_sharding,
    with_partitioning,
)

__all__ = [
    "PARTITION_NAME", "AxisMetadata", "Partitioned", "TAxisMetadata", "add_axis", "get_global_mesh",
    "get_partition_spec", "get_sharding", "global_mesh_defined", "is_axis_metadata", "is_box", "map_axis_meta",
    "remove_axis", "replace_boxed", "unbox", "with_partitioning",
]  # fmt: skip

TAxisMetadata = TypeVar("TAxisMetadata", bound=AxisMetadata)


def map_axis_meta(fn: Any, tree: Any) -> Any:
    """Replace every box in `tree` by `fn(box)`."""
    return jax.tree.map(lambda x: fn(x) if is_axis_metadata(x) else x, tree, is_leaf=is_axis_metadata)


def get_global_mesh() -> Any:
    """Return the mesh in use, or None."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def global_mesh_defined() -> bool:
    """Tell whether a mesh is in use."""
    return get_global_mesh() is not None
