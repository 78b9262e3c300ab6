"""The projections of attention: affine maps between the axis of features and the axes of heads.

DenseGeneral : array[..., *d] -> array[..., *features], over the last axes
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from liftax.module import Module, compact
from liftax.nn import dtypes
from liftax.nn.initializers import lecun_normal, zeros_init
from liftax.nn.linear import add_bias
from liftax.nn.tracing import traced_once, untraced
from liftax.typing import Array, Initializer

__all__: list[str] = []


class DenseGeneral(Module):
    """Contract the last `axes` axes of the input with a kernel of shape `(*d, *features)`, and add a bias.

    The parameters are made as those of a matrix and then reshaped, so that `kernel_init` sees the true fan-in and
    fan-out.
    """

    features: tuple[int, ...]
    axes: int = 1
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros_init()
    precision: lax.PrecisionLike = None
    dot_general: Callable[..., Array] | None = None
    dot_general_cls: Any = None

    @compact
    def __call__(self, x: Array) -> Array:
        """Apply the layer to an array of shape `(..., *d)`."""
        contracted = x.shape[x.ndim - self.axes :]
        flat = (math.prod(contracted), math.prod(self.features))

        def kernel_init(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
            return jax.tree.map(lambda k: jnp.reshape(k, shape), self.kernel_init(key, flat, dtype))

        def bias_init(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
            return jax.tree.map(lambda b: jnp.reshape(b, shape), self.bias_init(key, flat[1:], dtype))

        kernel = self.param("kernel", kernel_init, (*contracted, *self.features), self.param_dtype)
        bias = self.param("bias", bias_init, self.features, self.param_dtype) if self.use_bias else None
        dot_general = self.dot_general or lax.dot_general
        if self.dot_general_cls is not None:
            dot_general = self.dot_general_cls()
        run = _projected if dot_general is lax.dot_general else untraced(_projected)
        return run(x, kernel, bias, axes=self.axes, dtype=self.dtype, dot_general=dot_general, precision=self.precision)


@traced_once
def _projected(
    x: Array,
    kernel: Array,
    bias: Array | None,
    *,
    axes: int,
    dtype: DTypeLike | None,
    dot_general: Callable[..., Array],
    precision: lax.PrecisionLike,
) -> Array:
    """Return the product over the last `axes` of `x` and the first of `kernel`, plus `bias`."""
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=dtype)
    last = tuple(range(x.ndim - axes, x.ndim))
    y = dot_general(x, kernel, ((last, tuple(range(axes))), ((), ())), precision=precision)
    return y if bias is None else add_bias(y, bias, tuple(range(y.ndim - bias.ndim, y.ndim)))
