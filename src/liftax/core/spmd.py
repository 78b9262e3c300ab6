"""The rules for logical axes under the address that they have in Linen, `core.spmd`."""

from liftax.core.sharding.logical import get_logical_axis_rules, logical_axis_rules, set_logical_axis_rules

__all__ = ["get_logical_axis_rules", "logical_axis_rules", "set_logical_axis_rules"]
