"""Logical axes under the address that they have in Linen, `nn.spmd`."""

from liftax.core.sharding.logical import (
    LogicallyPartitioned,
    RulesFallback,
    get_logical_axis_rules,
    logical_axis_rules,
    logical_to_mesh,
    logical_to_mesh_axes,
    logical_to_mesh_sharding,
    set_logical_axis_rules,
    with_logical_constraint,
    with_logical_partitioning,
)

__all__ = [
    "LogicallyPartitioned", "RulesFallback", "get_logical_axis_rules", "logical_axis_rules", "logical_to_mesh",
    "logical_to_mesh_axes", "logical_to_mesh_sharding", "set_logical_axis_rules", "with_logical_constraint",
    "with_logical_partitioning",
]  # fmt: skip
