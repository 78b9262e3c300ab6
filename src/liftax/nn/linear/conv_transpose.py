"""The convolution that goes the other way: one element of the input reaches a window of the output.

ConvTranspose : array[*batch, *space, d] -> array[*batch, *space', features]
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact
from liftax.nn import dtypes
from liftax.nn.dtypes import PromoteDtype
from liftax.nn.initializers import lecun_normal, zeros_init
from liftax.nn.linear.conv import check_mask, masked
from liftax.nn.linear.dense import add_bias
from liftax.nn.linear.windows import Pads, batched, padding_of, per_axis, unbatched
from liftax.nn.support.location import place
from liftax.nn.support.tracing import traced_once, untraced
from liftax.typing import Array, Initializer

__all__ = ["ConvTranspose"]


class ConvTranspose(Module):
    r"""Convolve with strides that the output takes: the transpose of a convolution.

    $$y_{s p + d q - o,\, j} \mathrel{+}= \sum_i x_{p i} W_{q i j}, \qquad y \mathrel{+}= b$$

    The symbols are those of `Conv`.

    Parameters (collection `params`): `kernel`, $W$, of shape `(*kernel_size, d, features)`, or, with
    `transpose_kernel`, `(*kernel_size, features, d)`; `bias`, $b$, of shape `(features,)`. Initializing draws from the
    stream `params`; applying draws nothing.

    Args:
        features: the size of the last axis of the output.
        kernel_size: the size of the kernel along each spatial axis; an integer for one spatial axis.
        strides: how far the window moves over the output, for all spatial axes or each.
        padding: `'SAME'`, `'VALID'`, `'CIRCULAR'` (the output is wrapped around), an integer, or for each spatial axis
            an integer or a pair.
        kernel_dilation: the distance of neighbours of the kernel.
        use_bias: whether to add a bias.
        mask: an array of the shape of the kernel, by which the kernel is multiplied.
        dtype: the dtype to compute in; None for the promoted dtype of the input and the parameters.
        param_dtype: the dtype in which parameters are made.
        precision: passed to `jax.lax.conv_transpose`.
        kernel_init: the initializer of `kernel`.
        bias_init: the initializer of `bias`.
        transpose_kernel: whether the kernel is that of the convolution of which this is the transpose: its spatial axes
            are flipped, and its last two axes exchanged.
        promote_dtype: the function that casts input, kernel and bias; see `liftax.nn.dtypes.promote_dtype`.
        preferred_element_type: the dtype in which products are summed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.ConvTranspose(features=4, kernel_size=(3, 3), strides=(2, 2))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (4,), 'kernel': (3, 3, 2, 4)}}
        >>> layer.apply(variables, jnp.ones((1, 4, 4, 2))).shape
        (1, 8, 8, 4)

    Source:
        Zeiler et al., Deconvolutional Networks, 2010.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: Sequence[int] | None = None
    padding: str | int | Sequence[int | tuple[int, int]] = "SAME"
    kernel_dilation: Sequence[int] | None = None
    use_bias: bool = True
    mask: Any = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros_init()
    transpose_kernel: bool = False
    promote_dtype: PromoteDtype = dtypes.promote_dtype
    preferred_element_type: DTypeLike | None = None

    @compact
    def __call__(self, inputs: ArrayLike) -> Array:
        """Apply the layer.

        Args:
            inputs: shape `(*batch, *space, d)`, any numeric dtype, with one spatial axis for each entry of
                `kernel_size`. Any number of batch axes, none included.

        Returns:
            An array of shape `(*batch, *space', features)`.

        Raises:
            ValueError: `inputs` has too few axes; strides, dilation or padding can't be; `mask` does not have the shape
                of the kernel.
            ScopeParamShapeError: `kernel` was made for inputs with another `d`.
        """
        where = place(self)
        size = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        n = len(size)
        size = per_axis(where, "kernel_size", size, n)
        strides = per_axis(where, "strides", self.strides, n)
        dilation = per_axis(where, "kernel_dilation", self.kernel_dilation, n)
        padding = padding_of(where, self.padding, n, ("SAME", "VALID", "CIRCULAR"))
        x, batch = batched(where, inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs), n)
        ends = (self.features, x.shape[-1]) if self.transpose_kernel else (x.shape[-1], self.features)
        check_mask(where, self.mask, (*size, *ends))
        kernel = self.param("kernel", self.kernel_init, (*size, *ends), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        own = self.promote_dtype is dtypes.promote_dtype
        y = (_transposed if own else untraced(_transposed))(
            x,
            kernel,
            bias,
            self.mask,
            promote_dtype=self.promote_dtype,
            dtype=self.dtype,
            strides=strides,
            padding=padding,
            dilation=dilation,
            transpose_kernel=self.transpose_kernel,
            precision=self.precision,
            preferred=self.preferred_element_type,
        )
        return unbatched(where, y, x, batch)


@traced_once
def _transposed(
    x: Array,
    kernel: Array,
    bias: Array | None,
    mask: Any,
    *,
    promote_dtype: PromoteDtype,
    dtype: DTypeLike | None,
    strides: tuple[int, ...],
    padding: str | Pads,
    dilation: tuple[int, ...],
    transpose_kernel: bool,
    precision: lax.PrecisionLike,
    preferred: DTypeLike | None,
) -> Array:
    x, kernel, bias = promote_dtype(x, masked(kernel, mask), bias, dtype=dtype)
    y = lax.conv_transpose(
        x,
        kernel,
        strides,
        "VALID" if padding == "CIRCULAR" else padding,
        rhs_dilation=dilation,
        transpose_kernel=transpose_kernel,
        precision=precision,
        preferred_element_type=preferred,
    )
    if padding == "CIRCULAR":
        y = _wrapped(y, [n * s for n, s in zip(x.shape[1:-1], strides, strict=True)], transpose_kernel)
    return y if bias is None else add_bias(y, bias, (y.ndim - 1,))


def _wrapped(y: Array, periods: list[int], transpose_kernel: bool) -> Array:
    """Add up what lies a period apart along each spatial axis.

    The input starts at a multiple of the period: what is added on both sides makes an even number of periods. An odd
    remainder goes before, or, with a transposed kernel, after, so that the layer is the transpose of `Conv`.
    """
    pads = []
    for size, period in zip(y.shape[1:-1], periods, strict=True):
        more = -(size - period) % (2 * period)
        half, rest = more // 2, more - more // 2
        pads.append((half, rest, 0) if transpose_kernel else (rest, half, 0))
    if any(map(any, pads)):
        y = lax.pad(y, y.dtype.type(0), [(0, 0, 0), *pads, (0, 0, 0)])
    for axis, period in enumerate(periods, 1):
        if y.shape[axis] != period:
            y = jnp.reshape(y, (*y.shape[:axis], -1, period, *y.shape[axis + 1 :])).sum(axis)
    return y
