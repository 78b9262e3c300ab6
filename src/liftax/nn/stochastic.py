"""Layers that draw random numbers each time they are applied.

Dropout : (key, array) -> array, of one shape
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from liftax.module import Module, compact, merge_param
from liftax.nn import dtypes
from liftax.nn.location import place
from liftax.nn.masking import keep
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
        shape, kept = self._mask_shape(x.shape), 1.0 - float(self.rate)
        mask = _bernoulli(self.make_rng(self.rng_collection) if rng is None else rng, kept, shape)
        return keep(mask, lax.div(x, dtypes.constant(kept, x)))

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


def _bernoulli(key: PRNGKey, p: float, shape: tuple[int, ...]) -> Array:
    """Return `jax.random.bernoulli(key, p, shape)`, for a number `p` in (0, 1), in two equations instead of sixteen.

    JAX takes the highest `n` of the random bits as an integer `k` (`n` = 23 for float32), and asks whether the float
    `k / 2**n`, which is exact, is less than `p`. That is whether `k < t` for the integer `t = ceil(p * 2**n)`; and, for
    the whole word `w`, of which `k` is `w >> s`, whether `w < t << s`. `p` rounds to 1 at most, where `t << s` is one
    more than a word holds; so the comparison is `w <= (t << s) - 1`.
    """
    float_type = jnp.result_type(float)  # float64 where JAX is told to use it
    bits, mantissa = (32, 23) if float_type == jnp.float32 else (64, 52)
    t = math.ceil(float(float_type.type(p)) * 2**mantissa)
    words = jax.random.bits(key, shape, f"uint{bits}")
    return lax.le(words, dtypes.constant((t << (bits - mantissa)) - 1, words))
