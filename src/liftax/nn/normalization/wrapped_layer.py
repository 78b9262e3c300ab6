"""What layers that wrap another layer, and change the weights that it reads, share."""

from typing import Any

import jax
from jax import lax

from liftax import errors
from liftax.module import Module
from liftax.nn.support.location import place
from liftax.typing import Array

__all__: list[str] = []


def inner_layer(module: Any) -> Module:
    """Return the layer that `module` wraps."""
    layer = module.layer_instance
    if not isinstance(layer, Module):
        raise errors.TransformTargetError(
            f"{place(module)} got layer_instance={layer!r}, expected a module, such as "
            "nn.Dense(4): an instance, not a class."
        )
    return layer


def inner_path(module: Any, path: Any) -> str:
    """Return `"<name of the layer>/<path in its collection>"`."""
    return f"{module.layer_instance.name}/{jax.tree_util.keystr(path[1:], simple=True, separator='/')}"


def l2_normalized(x: Array, axes: tuple[int, ...] | None, epsilon: float) -> Array:
    """Return `x` divided by its norm over `axes`; None for all."""
    return x * lax.rsqrt((x * x).sum(axis=axes, keepdims=axes is not None) + epsilon)
