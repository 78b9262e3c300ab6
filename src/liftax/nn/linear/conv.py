"""Convolutions.

    Conv, ConvLocal : array[*batch, *space, d] -> array[*batch, *space', features]

Both are one operation of JAX. Where the padding is one that JAX does not know, the input is padded first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact, nowrap
from liftax.nn import dtypes
from liftax.nn.dtypes import PromoteDtype
from liftax.nn.initializers import lecun_normal, zeros_init
from liftax.nn.linear.dense import add_bias
from liftax.nn.linear.windows import Pads, batched, padding_of, per_axis, unbatched
from liftax.nn.support.location import place
from liftax.nn.support.tracing import traced_once, untraced
from liftax.typing import Array, Initializer

__all__ = ["Conv", "ConvLocal"]

PADDINGS = ("SAME", "SAME_LOWER", "VALID", "CIRCULAR", "REFLECT", "CAUSAL")


class _Conv(Module):
    """What `Conv` and `ConvLocal` share: fields, padding, checks."""

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = 1
    padding: str | int | Sequence[int | tuple[int, int]] = "SAME"
    input_dilation: int | Sequence[int] | None = 1
    kernel_dilation: int | Sequence[int] | None = 1
    feature_group_count: int = 1
    use_bias: bool = True
    mask: Any = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros_init()
    promote_dtype: PromoteDtype = dtypes.promote_dtype
    conv_general_dilated: Callable[..., Array] | None = None
    conv_general_dilated_cls: Any = None

    @compact
    def __call__(self, inputs: ArrayLike) -> Array:
        """Apply the layer.

        Args:
            inputs: shape `(*batch, *space, d)`, any numeric dtype, with one spatial axis for each entry of
                `kernel_size`. Any number of batch axes, none included.

        Returns:
            An array of shape `(*batch, *space', features)`.

        Raises:
            ValueError: `inputs` has too few axes; strides, dilation or padding can't be; `feature_group_count` does
                not divide `d` and `features`; `mask` does not have the shape of the kernel.
            ScopeParamShapeError: `kernel` was made for inputs with another `d`.
        """
        where = place(self)
        size = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        n = len(size)
        size = per_axis(where, "kernel_size", size, n)
        strides = per_axis(where, "strides", self.strides, n)
        spread = per_axis(where, "input_dilation", self.input_dilation, n)
        dilation = per_axis(where, "kernel_dilation", self.kernel_dilation, n)
        padding = padding_of(where, self.padding, n, PADDINGS)
        x, batch = batched(where, inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs), n)
        x, pads = _padded(where, x, padding, size, spread, dilation)
        geometry = {
            "window_strides": strides,
            "padding": pads,
            "lhs_dilation": spread,
            "rhs_dilation": dilation,
            "dimension_numbers": dimension_numbers(n),
        }
        return unbatched(where, self._convolve(where, x, size, geometry), x, batch)

    @nowrap
    def _convolve(self, where: str, x: Array, size: tuple[int, ...], geometry: dict[str, Any]) -> Array:
        raise NotImplementedError

    @nowrap
    def _params(self, where: str, kernel_shape: tuple[int, ...], bias_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Make or read the parameters."""
        check_mask(where, self.mask, kernel_shape)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, bias_shape, self.param_dtype) if self.use_bias else None
        return kernel, bias


class Conv(_Conv):
    r"""Convolve the input with a kernel that all positions share.

    $$y_{p j} = \sum_{q, i} x_{s p + d q - o,\, i} W_{q i j} + b_j$$

    $p$ runs over the positions of the output, $q$ over those of the kernel; $s$ are the strides, $d$ the dilation of
    the kernel and $o$ the padding before the input. As in all such layers, it is the correlation that is computed.

    Parameters (collection `params`): `kernel`, $W$, of shape `(*kernel_size, d // feature_group_count, features)`,
    where `d` is the size of the last axis of the input; `bias`, $b$, of shape `(features,)`. Initializing draws from
    the stream `params`; applying draws nothing.

    Args:
        features: the size of the last axis of the output.
        kernel_size: the size of the kernel along each spatial axis; an integer for one spatial axis.
        strides: how far the window moves, for all spatial axes or each.
        padding: `'SAME'`, `'SAME_LOWER'`, `'VALID'`, `'CIRCULAR'` (the input repeats), `'REFLECT'` (it is mirrored),
            `'CAUSAL'` (zeros before one spatial axis only), an integer, or for each spatial axis an integer or a pair.
        input_dilation: the distance of neighbours of the input, with zeros between them.
        kernel_dilation: the distance of neighbours of the kernel.
        feature_group_count: the number of groups that features of input and output are split into.
        use_bias: whether to add a bias.
        mask: an array of the shape of the kernel, by which the kernel is multiplied.
        dtype: the dtype to compute in; None for the promoted dtype of the input and the parameters.
        param_dtype: the dtype in which parameters are made.
        precision: passed to `jax.lax.conv_general_dilated`.
        kernel_init: the initializer of `kernel`.
        bias_init: the initializer of `bias`.
        promote_dtype: the function that casts input, kernel and bias; see `liftax.nn.dtypes.promote_dtype`.
        conv_general_dilated: called in place of `jax.lax.conv_general_dilated`.
        conv_general_dilated_cls: called without arguments in each call of the layer; what it returns is used as
            `conv_general_dilated`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Conv(features=4, kernel_size=(3, 3), strides=2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (4,), 'kernel': (3, 3, 2, 4)}}
        >>> layer.apply(variables, jnp.ones((1, 8, 8, 2))).shape
        (1, 4, 4, 4)

    Source:
        LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """

    @nowrap
    def _convolve(self, where: str, x: Array, size: tuple[int, ...], geometry: dict[str, Any]) -> Array:
        groups, d = self.feature_group_count, x.shape[-1]
        if groups < 1 or d % groups or self.features % groups:
            raise ValueError(
                f"{where} got feature_group_count={groups}, expected a divisor of the {d} features of the input and of "
                f"features={self.features}."
            )
        kernel, bias = self._params(where, (*size, d // groups, self.features), (self.features,))
        conv = self.conv_general_dilated or lax.conv_general_dilated
        if self.conv_general_dilated_cls is not None:
            conv = self.conv_general_dilated_cls()
        own = conv is lax.conv_general_dilated and self.promote_dtype is dtypes.promote_dtype
        return (_shared if own else untraced(_shared))(
            x,
            kernel,
            bias,
            self.mask,
            promote_dtype=self.promote_dtype,
            dtype=self.dtype,
            conv=conv,
            geometry=tuple(geometry.items()),
            groups=groups,
            precision=self.precision,
        )


class ConvLocal(_Conv):
    r"""Convolve the input with a kernel of its own at each position.

    $$y_{p j} = \sum_{q, i} x_{s p + d q - o,\, i} W_{p,\, (i q),\, j} + b_{p j}$$

    The symbols are those of `Conv`.

    Parameters (collection `params`): `kernel`, $W$, of shape `(*space', prod(kernel_size) * d, features)`, where
    `space'` are the sizes of the spatial axes of the output; `bias`, $b$, of shape `(*space', features)`. Initializing
    draws from the stream `params`; applying draws nothing.

    Args: as for `Conv`. `feature_group_count` has to be 1, and there is no convolution to inject.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.ConvLocal(features=4, kernel_size=3, padding='VALID')
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 2)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (6, 4), 'kernel': (6, 6, 4)}}
        >>> layer.apply(variables, jnp.ones((1, 8, 2))).shape
        (1, 6, 4)
    """

    @nowrap
    def _convolve(self, where: str, x: Array, size: tuple[int, ...], geometry: dict[str, Any]) -> Array:
        if self.feature_group_count != 1:
            raise NotImplementedError(
                f"{where} got feature_group_count={self.feature_group_count}, expected 1: JAX has no local "
                "convolution in groups."
            )
        if self.conv_general_dilated or self.conv_general_dilated_cls:
            raise ValueError(
                f"{where} got a function to convolve with, expected None: there is a kernel for each position."
            )
        d = x.shape[-1]
        kernel = jax.ShapeDtypeStruct((*size, d, self.features), x.dtype)
        space = jax.eval_shape(lambda x, k: lax.conv_general_dilated(x, k, **geometry), x, kernel).shape[1:-1]
        kernel, bias = self._params(where, (*space, int(np.prod(size)) * d, self.features), (*space, self.features))
        own = self.promote_dtype is dtypes.promote_dtype
        return (_local if own else untraced(_local))(
            x,
            kernel,
            bias,
            self.mask,
            promote_dtype=self.promote_dtype,
            dtype=self.dtype,
            size=size,
            geometry=tuple(geometry.items()),
            precision=self.precision,
        )


@traced_once
def _shared(
    x: Array,
    kernel: Array,
    bias: Array | None,
    mask: Any,
    *,
    promote_dtype: PromoteDtype,
    dtype: DTypeLike | None,
    conv: Callable[..., Array],
    geometry: tuple[tuple[str, Any], ...],
    groups: int,
    precision: lax.PrecisionLike,
) -> Array:
    x, kernel, bias = promote_dtype(x, masked(kernel, mask), bias, dtype=dtype)
    options = dict(geometry)
    strides, padding = options.pop("window_strides"), options.pop("padding")
    y = conv(x, kernel, strides, padding, feature_group_count=groups, precision=precision, **options)
    return y if bias is None else add_bias(y, bias, (y.ndim - 1,))


@traced_once
def _local(
    x: Array,
    kernel: Array,
    bias: Array | None,
    mask: Any,
    *,
    promote_dtype: PromoteDtype,
    dtype: DTypeLike | None,
    size: tuple[int, ...],
    geometry: tuple[tuple[str, Any], ...],
    precision: lax.PrecisionLike,
) -> Array:
    x, kernel, bias = promote_dtype(x, masked(kernel, mask), bias, dtype=dtype)
    y = lax.conv_general_dilated_local(x, kernel, filter_shape=size, precision=precision, **dict(geometry))
    return y if bias is None else add_bias(y, bias, tuple(range(1, y.ndim)))


def dimension_numbers(n: int) -> lax.ConvDimensionNumbers:
    """Return JAX's words for `(batch, *space, features)` and `(*space, features in, features out)`."""
    data = (0, n + 1, *range(1, n + 1))
    return lax.ConvDimensionNumbers(data, (n + 1, n, *range(n)), data)


def check_mask(where: str, mask: Any, shape: tuple[int, ...]) -> None:
    """Raise if there is a mask of another shape than that of the kernel."""
    if mask is not None and jnp.shape(mask) != shape:
        raise ValueError(f"{where} got a mask of shape {jnp.shape(mask)}, expected that of its kernel, {shape}.")


def masked(kernel: Array, mask: Any) -> Array:
    """Return the kernel times its mask, where there is one."""
    return kernel if mask is None else jnp.multiply(kernel, mask)


def _padded(
    where: str, x: Array, padding: str | Pads, size: Sequence[int], spread: Sequence[int], dilation: Sequence[int]
) -> tuple[Array, str | Pads]:
    """Return the input, padded where JAX does not know the padding, and the padding that is left for JAX."""
    reach = [(k - 1) * d for k, d in zip(size, dilation, strict=True)]
    if padding in ("CIRCULAR", "REFLECT"):
        pads = [(0, 0), *((r // 2, (r + 1) // 2) for r in reach), (0, 0)]
        return jnp.pad(x, pads, mode="wrap" if padding == "CIRCULAR" else "reflect"), ((0, 0),) * len(size)
    if padding == "CAUSAL":
        if len(size) != 1:
            raise ValueError(f"{where} got padding='CAUSAL' with {len(size)} spatial axes, expected one.")
        return x, ((reach[0] * spread[0], 0),)
    if padding == "VALID":
        return x, ((0, 0),) * len(size)
    if isinstance(padding, str) and any(s != 1 for s in spread):
        raise ValueError(
            f"{where} got padding={padding!r} with input_dilation={tuple(spread)}, expected the padding in numbers: "
            "JAX does not know it for an input with zeros between its elements."
        )
    return x, padding
