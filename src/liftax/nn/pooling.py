"""Pooling: the sum, average, maximum or minimum of each window.

    avg_pool, max_pool, min_pool : array[*batch, *space, d] -> array[*batch, *space', d]

Functions, since there is nothing to learn. Each is one `jax.lax.reduce_window`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from liftax.nn.linear.windows import check_fits, padding_of, per_axis
from liftax.typing import Array

__all__ = ["avg_pool", "max_pool", "min_pool", "pool"]

Padding = str | Sequence[tuple[int, int]]


def pool(
    inputs: ArrayLike,
    init: Any,
    reduce_fn: Callable[[Any, Any], Any],
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: Padding,
) -> Array:
    r"""Reduce each window of the input.

    $$y_{p i} = \mathrm{reduce}(\mathrm{init}, \{x_{s p + q - o,\, i}\}_q)$$

    $q$ runs over the window, $s$ are the strides and $o$ is the padding before the input. JAX has derivatives for sums,
    maxima and minima; for another `reduce_fn` there may be none.

    Args:
        inputs: shape `(*batch, *space, d)`, with one spatial axis for each entry of `window_shape`.
        init: the value that a reduction starts from, and that padding has.
        reduce_fn: an associative function of two scalars, such as `jax.lax.add`.
        window_shape: the size of the window along each spatial axis.
        strides: how far the window moves along each spatial axis; None for 1.
        padding: `'SAME'`, `'SAME_LOWER'`, `'VALID'`, or a pair of integers for each spatial axis.

    Returns:
        An array of shape `(*batch, *space', d)`.

    Raises:
        ValueError: `inputs` has too few axes; window, strides or padding can't be.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.pool(jnp.arange(4.0)[:, None], 0.0, jax.lax.add, (2,), (2,), 'VALID')[:, 0]
        Array([1., 5.], dtype=float32)
    """
    x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
    window = (window_shape,) if isinstance(window_shape, int) else tuple(window_shape)
    n = len(window)
    window = per_axis("pool", "window_shape", window, n)
    steps = per_axis("pool", "strides", strides or None, n)
    pads = padding_of("pool", padding, n, ("SAME", "SAME_LOWER", "VALID"))
    if x.ndim < n + 1:
        raise ValueError(
            f"pool got an input of shape {x.shape} and window_shape={window}, expected an input (*batch, *space, d) "
            f"with {n} spatial axes: at least {n + 1} axes."
        )
    batch = (1,) * (x.ndim - n - 1)
    if not isinstance(pads, str):
        pads = (*((0, 0) for _ in batch), *pads, (0, 0))
    y = lax.reduce_window(x, init, reduce_fn, (*batch, *window, 1), (*batch, *steps, 1), pads)
    check_fits("pool", y, x)
    return y


def avg_pool(
    inputs: ArrayLike,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Array:
    """Return the average of each window.

    Args:
        inputs: as for `pool`.
        window_shape: as for `pool`.
        strides: as for `pool`.
        padding: as for `pool`; it has the value 0.
        count_include_pad: whether padding counts as elements.

    Returns:
        As `pool`.

    Raises:
        ValueError: as `pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.avg_pool(jnp.arange(4.0)[:, None], (2,), (2,))[:, 0]
        Array([0.5, 2.5], dtype=float32)
    """
    y = pool(inputs, 0.0, lax.add, window_shape, strides, padding)
    if count_include_pad:
        return y / np.prod(window_shape)
    n = 1 if isinstance(window_shape, int) else len(window_shape)
    shape = jnp.shape(inputs)
    ones = jnp.ones((*(1 for _ in shape[: -n - 1]), *shape[-n - 1 : -1], 1))
    return y / pool(ones, 0.0, lax.add, window_shape, strides, padding)


def max_pool(
    inputs: ArrayLike,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """Return the maximum of each window.

    Args:
        inputs: as for `pool`.
        window_shape: as for `pool`.
        strides: as for `pool`.
        padding: as for `pool`; it has the value minus infinity.

    Returns:
        As `pool`.

    Raises:
        ValueError: as `pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.max_pool(jnp.arange(4.0)[:, None], (2,), (2,))[:, 0]
        Array([1., 3.], dtype=float32)
    """
    return pool(inputs, -jnp.inf, lax.max, window_shape, strides, padding)


def min_pool(
    inputs: ArrayLike,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """Return the minimum of each window.

    Args:
        inputs: as for `pool`.
        window_shape: as for `pool`.
        strides: as for `pool`.
        padding: as for `pool`; it has the value infinity.

    Returns:
        As `pool`.

    Raises:
        ValueError: as `pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.min_pool(jnp.arange(4.0)[:, None], (2,), (2,))[:, 0]
        Array([0., 2.], dtype=float32)
    """
    return pool(inputs, jnp.inf, lax.min, window_shape, strides, padding)
