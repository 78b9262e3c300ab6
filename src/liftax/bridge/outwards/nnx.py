"""A module of liftax as a model of Flax NNX.

    to_nnx : Module -> nnx.Module

`nnx.bridge.ToNNX` asks of a module of Linen only what modules of liftax have too, `init_with_output` and `apply`.
"""

from typing import Any

from liftax.bridge.libraries import library
from liftax.bridge.outwards.target import check_module
from liftax.module.module import Module


def to_nnx(module: Module, rngs: Any = None) -> Any:
    """Return a model of Flax NNX that runs a module of liftax, made by `nnx.bridge.ToNNX`.

    Args:
        module: an unbound module of liftax.
        rngs: an `nnx.Rngs`, for initial values and for calls.

    Returns:
        An `nnx.bridge.ToNNX`: `.lazy_init(*args)` makes the variables; a call takes the module's arguments, `method=`,
        `rngs=`, and `mutable=` to move state, which it keeps.

    Raises:
        ForeignModuleError: `module` is something else.
        MissingLibraryError: Flax is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from liftax import bridge, nn
        >>> layer = bridge.to_nnx(nn.Dense(2), rngs=nnx.Rngs(0)).lazy_init(jnp.ones(3))
        >>> layer(jnp.ones(3)).shape, layer.kernel.shape
        ((2,), (3, 2))
    """
    check_module(module, "to_nnx")
    return library("flax.nnx").bridge.ToNNX(module, rngs=rngs)
