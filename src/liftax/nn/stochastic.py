"""Layers that draw random numbers each time they are applied.

Dropout : (key, array) -> array, of one shape
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from liftax.module import Module, compact, merge_param, nowrap
from liftax.nn.support.location import place
from liftax.nn.support.masking import keep
from liftax.nn.support.tracing import traced_once
from liftax.typing import Array, PRNGKey

__all__ = ["Dropout"]


class Dropout(Module):
    r"""Set elements to zero at random, and scale up the others so that the expected value stays.

    $$y = \frac{m \odot x}{1 - r}, \qquad m \sim \mathrm{Bernoulli}(1 - r)$$

    Parameters: none. Applying draws one key from the stream `rng_collection`, unless it is deterministic, `rate` is 0
    or 1, or a key is given in the call.

    Args:
        rate: $r$, the probability that an element is dropped, from 0 to 1; a number, not a traced value.
        broadcast_dims: axes along which all elements share one draw.
        deterministic: whether to return the input as it is. It is given either here or in the call.
        rng_collection: the rng stream to draw from.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Dropout(rate=0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.ones(1000), rngs={"dropout": jax.random.key(0)})
        >>> jnp.unique(y)
        Array([0., 2.], dtype=float32)

    Source:
        Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014.
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @compact
    def __call__(self, inputs: ArrayLike, deterministic: bool | None = None, rng: PRNGKey | None = None) -> Array:
        """Apply the layer.

        Args:
            inputs: any shape; a floating-point or complex dtype where elements are to be dropped.
            deterministic: as the field of this name, which is then None.
            rng: the key to draw with, in place of one from the stream.

        Returns:
            An array of the shape and dtype of `inputs`.

        Raises:
            ValueError: `deterministic` is given twice or not at all; `rate` is not a probability; `broadcast_dims`
                names an axis that `inputs` does not have.
            TypeError: `inputs` are integers or Booleans.
            InvalidRngError: a key is needed, and there is no stream that gives one.
        """
        deterministic = merge_param("deterministic", self.deterministic, deterministic)
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"{place(self)} got rate={self.rate}, expected a probability from 0 to 1.")
        x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
        if deterministic or self.rate == 0.0:
            return x
        if self.rate == 1.0:
            return jnp.zeros_like(x)
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise TypeError(
                f"{place(self)} got inputs of dtype {x.dtype.name}, expected a floating-point or complex dtype: the "
                "elements that are kept are divided by 1 - rate. Cast the inputs."
            )
        key = self.make_rng(self.rng_collection) if rng is None else rng
        return _dropped(x, key, kept=1.0 - float(self.rate), shape=self._mask_shape(x.shape))

    @nowrap
    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return `shape` with size 1 along `broadcast_dims`."""
        sizes = list(shape)
        for dim in self.broadcast_dims:
            if not -len(shape) <= dim < len(shape):
                raise ValueError(
                    f"{place(self)} got broadcast_dims={tuple(self.broadcast_dims)} and an input of shape {shape}, "
                    f"which has no axis {dim}. Name axes of the input."
                )
            sizes[dim] = 1
        return tuple(sizes)


@traced_once
def _dropped(x: Array, key: PRNGKey, *, kept: float, shape: tuple[int, ...]) -> Array:
    """Return `x / kept` where a mask of `shape` has True, with probability `kept`, and 0 elsewhere."""
    return keep(jax.random.bernoulli(key, kept, shape), x / kept)
