"""Functions of one axis of the batch, applied to arrays that have several.

    BatchApply : (array[n, ...] -> array[n, ...]) -> array[a, b, ...] -> array[a, b, ...],  n = a b

One reshape before the function, and one after it; inside there is a plain batch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["BatchApply"]


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
