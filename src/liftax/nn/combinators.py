"""Modules made of other modules.

    Sequential : (f, g, h) -> h . g . f

They hold no variables themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

from liftax.module import Module, compact
from liftax.nn.support.location import place

__all__ = ["Sequential"]


class Sequential(Module):
    r"""Apply layers one after the other.

    $$y = (f_n \circ \dots \circ f_1)(x)$$

    The first layer gets all arguments of the call. Each later one gets what the one before it returned: a tuple as its
    positional arguments, a dict as its keyword arguments, anything else as its one argument. Where the layers need
    anything more, such as a `deterministic` for some of them, write a module with a `__call__` of its own.

    Parameters, collections and rng streams: those of the layers. A module given as layer `i` is named `layers_i`.

    Args:
        layers: modules, and functions from arrays to arrays, in the order in which they are applied.

    Raises:
        ValueError: `layers` is not a sequence, such as a list or a tuple.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> sorted(variables["params"])
        ['layers_0', 'layers_2']
        >>> model.apply(variables, jnp.ones((1, 3))).shape
        (1, 2)
    """

    layers: Sequence[Callable[..., Any]]

    def __post_init__(self) -> None:
        """Check that `layers` is a sequence."""
        if not isinstance(self.layers, Sequence):
            raise ValueError(
                f"Sequential got layers of type {type(self.layers).__name__}, expected a sequence.\n"
                "  wrong: nn.Sequential(nn.Dense(4), nn.relu)\n"
                "  right: nn.Sequential([nn.Dense(4), nn.relu])"
            )
        super().__post_init__()

    @compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the layers.

        Args:
            *args: what the first layer takes.
            **kwargs: what the first layer takes.

        Returns:
            What the last layer returns.

        Raises:
            ValueError: there is no layer.
        """
        if not self.layers:
            raise ValueError(f"{place(self)} has no layers, expected at least one. Give it some: nn.Sequential([...]).")
        first, *rest = self.layers
        out = first(*args, **kwargs)
        for layer in rest:
            if isinstance(out, tuple):
                out = layer(*out)
            elif isinstance(out, dict):
                out = layer(**out)
            else:
                out = layer(out)
        return out
