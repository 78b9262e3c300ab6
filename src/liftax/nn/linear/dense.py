"""Layers that are linear, or affine, in their parameters.

    Dense : array[..., d] -> array[..., features]

Each is one `dot_general`. A bias is broadcast to the whole shape of the output before it is added: the transpose of
that is a single sum over the batch, and a sum keeps no residual, so nothing larger than the bias is stored for it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact
from liftax.nn import dtypes
from liftax.nn.dtypes import PromoteDtype
from liftax.nn.initializers import lecun_normal, zeros_init
from liftax.nn.support.location import place
from liftax.nn.support.tracing import traced_once, untraced
from liftax.typing import Array, Initializer

__all__ = ["Dense"]


class Dense(Module):
    r"""Apply an affine map to the last axis of the input.

    $$y_{\dots j} = \sum_i x_{\dots i} W_{ij} + b_j$$

    Parameters (collection `params`): `kernel`, $W$, of shape `(d, features)`, where `d` is the size of the last axis of
    the input; `bias`, $b$, of shape `(features,)`. Initializing draws from the stream `params`; applying draws nothing.

    Args:
        features: the size of the last axis of the output.
        use_bias: whether to add a bias.
        dtype: the dtype to compute in; None for the promoted dtype of the input and the parameters.
        param_dtype: the dtype in which parameters are made.
        precision: passed to `jax.lax.dot_general`.
        kernel_init: the initializer of `kernel`.
        bias_init: the initializer of `bias`.
        promote_dtype: the function that casts input, kernel and bias; see `liftax.nn.dtypes.promote_dtype`.
        dot_general: called in place of `jax.lax.dot_general`, for example to quantize.
        dot_general_cls: called without arguments in each call of the layer; what it returns is used as `dot_general`.
            A Module class makes a submodule that can hold state of its own.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Dense(features=4)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (4,), 'kernel': (3, 4)}}
        >>> layer.apply(variables, jnp.ones((2, 3))).shape
        (2, 4)

    Source:
        The default kernel: LeCun et al., Efficient BackProp, 1998.
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros_init()
    promote_dtype: PromoteDtype = dtypes.promote_dtype
    dot_general: Callable[..., Array] | None = None
    dot_general_cls: Any = None

    @compact
    def __call__(self, inputs: ArrayLike) -> Array:
        """Apply the layer.

        Args:
            inputs: shape `(..., d)`, any numeric dtype.

        Returns:
            An array of shape `(..., features)`.

        Raises:
            ValueError: `inputs` is a scalar.
            ScopeParamShapeError: `kernel` was made for inputs with another `d`.
        """
        x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
        if not x.shape:
            raise ValueError(
                f"{place(self)} got a scalar, expected an input of shape (..., d). Give it an axis for features."
            )
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        dot_general = self.dot_general or lax.dot_general
        if self.dot_general_cls is not None:
            dot_general = self.dot_general_cls()
        own = dot_general is lax.dot_general and self.promote_dtype is dtypes.promote_dtype
        return (affine if own else untraced(affine))(
            x,
            kernel,
            bias,
            promote_dtype=self.promote_dtype,
            dtype=self.dtype,
            dot_general=dot_general,
            precision=self.precision,
        )


@traced_once
def affine(
    x: Array,
    kernel: Array,
    bias: Array | None,
    *,
    promote_dtype: PromoteDtype,
    dtype: DTypeLike | None,
    dot_general: Callable[..., Array],
    precision: lax.PrecisionLike,
) -> Array:
    """Return `x @ kernel + bias`, in the dtype to which `promote_dtype` takes them."""
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=dtype)
    y = dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)
    return y if bias is None else add_bias(y, bias, (y.ndim - 1,))


def add_bias(y: Array, bias: Array, axes: tuple[int, ...]) -> Array:
    """Return `y + bias`, where the axes of `bias` run along `axes` of `y`, in ascending order."""
    y, bias = dtypes.matched(y, bias)  # before the broadcast, so that its transpose sums in the wider dtype
    return lax.add(y, lax.broadcast_in_dim(bias, y.shape, axes) if bias.ndim < y.ndim else bias)
