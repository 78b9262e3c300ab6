"""Modules made of other modules.

    Sequential : (f, g, h) -> h . g . f
    BatchApply : (array[n, ...] -> array[n, ...]) -> array[a, b, ...] -> array[a, b, ...],  n = a b

They hold no variables themselves.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax.module import Module, compact
from liftax.nn.location import place

__all__ = ["BatchApply", "Sequential"]


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


class BatchApply:
    r"""Apply a function that knows one axis of the batch to arrays that have several.

    The first `num_dims` axes of each array become one, and are taken apart again in what the function returns. Arrays
    that have fewer axes reach the function as they are.

    Args:
        f: a function, or a module, of arrays in standard containers.
        num_dims: the number of axes that are joined.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> def f(x, w):
        ...     print(x.shape, w.shape)
        ...     return x @ w
        >>> nn.BatchApply(f)(jnp.ones((2, 3, 4)), jnp.ones(4)).shape
        (6, 4) (4,)
        (2, 3)
    """

    def __init__(self, f: Callable[..., Any], num_dims: int = 2):
        self.f = f
        self.num_dims = num_dims

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the function.

        Args:
            *args: what it takes.
            **kwargs: what it takes.

        Returns:
            What it returns, with the axes of the batch.

        Raises:
            ValueError: no array has `num_dims` axes, they have several sizes there, or an output does not have the axis
                of the batch.
        """
        n = self.num_dims
        leaves, treedef = jax.tree.flatten((args, kwargs))
        leaves = [x if isinstance(x, jax.Array | np.ndarray) else jnp.asarray(x) for x in leaves]
        sizes = sorted({x.shape[:n] for x in leaves if x.ndim >= n})
        if len(sizes) != 1:
            raise ValueError(
                f"BatchApply got arrays of shapes {[x.shape for x in leaves]}, expected at least one with {n} axes, "
                f"and one size of the first {n} axes of all of them."
            )
        (batch,) = sizes
        size = math.prod(batch)
        leaves = [x.reshape((size, *x.shape[n:])) if x.ndim >= n else x for x in leaves]
        args, kwargs = treedef.unflatten(leaves)
        out = self.f(*args, **kwargs)
        shapes = [jnp.shape(x) for x in jax.tree.leaves(out)]
        if any(shape[:1] != (size,) for shape in shapes):
            raise ValueError(
                f"BatchApply: {getattr(self.f, '__name__', type(self.f).__name__)} returned arrays of shapes {shapes}, "
                f"expected {size} as the first size: that of the axes {batch} as one."
            )
        return jax.tree.map(lambda x: x.reshape((*batch, *x.shape[1:])), out)
