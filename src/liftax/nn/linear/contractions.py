"""Layers that contract chosen axes of the input with a kernel.

    DenseGeneral : array[..., *d] -> array[..., *features]
    Einsum       : array -> array, by an equation

Each is one `dot_general`, or what `jnp.einsum` makes of the equation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.core import meta
from liftax.core.initial import initialized
from liftax.module import Module, compact, merge_param
from liftax.nn import dtypes
from liftax.nn.dtypes import PromoteDtype
from liftax.nn.initializers import lecun_normal, zeros_init
from liftax.nn.linear.dense import add_bias
from liftax.nn.support.location import place
from liftax.nn.support.tracing import traced_once, untraced
from liftax.typing import Array, Initializer

__all__ = ["DenseGeneral", "Einsum"]


class DenseGeneral(Module):
    r"""Apply an affine map to chosen axes of the input.

    $$y_{b \dots j} = \sum_i x_{b \dots i} W_{b i j} + b_{b j}$$

    $b$ runs over `batch_dims`, $i$ over `axis`, and $j$ over `features`, each of which may be several axes.

    Parameters (collection `params`): `kernel`, $W$, with the sizes of `batch_dims`, of `axis`, and `features`; `bias`,
    $b$, with the sizes of `batch_dims` and `features`. Their initializers are called with the shape of a matrix and a
    vector, into which these are flattened. Initializing draws from the stream `params`; applying draws nothing.

    Args:
        features: the sizes of the last axes of the output.
        axis: the axes of the input that are summed over.
        batch_dims: the first axes of the input, for each index of which there is a kernel.
        use_bias: whether to add a bias.
        dtype: the dtype to compute in; None for the promoted dtype of the input and the parameters.
        param_dtype: the dtype in which parameters are made.
        kernel_init: the initializer of `kernel`.
        bias_init: the initializer of `bias`.
        precision: passed to `jax.lax.dot_general`.
        promote_dtype: the function that casts input, kernel and bias; see `liftax.nn.dtypes.promote_dtype`.
        dot_general: called in place of `jax.lax.dot_general`.
        dot_general_cls: as for `Dense`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.DenseGeneral(features=(4, 5), axis=(1, -1))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3, 6, 7)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (4, 5), 'kernel': (3, 7, 4, 5)}}
        >>> layer.apply(variables, jnp.ones((1, 3, 6, 7))).shape
        (1, 6, 4, 5)
    """

    features: int | Sequence[int]
    axis: int | Sequence[int] = -1
    batch_dims: Sequence[int] = ()
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros_init()
    precision: lax.PrecisionLike = None
    promote_dtype: PromoteDtype = dtypes.promote_dtype
    dot_general: Callable[..., Array] | None = None
    dot_general_cls: Any = None

    @compact
    def __call__(self, inputs: ArrayLike) -> Array:
        """Apply the layer.

        Args:
            inputs: any numeric dtype, with at least the axes that `axis` and `batch_dims` name.

        Returns:
            An array with the sizes of `batch_dims`, of the axes that are not named, and `features`.

        Raises:
            ValueError: `inputs` does not have the axes that are named, or `batch_dims` are not the first ones.
            ScopeParamShapeError: `kernel` was made for axes of other sizes.
        """
        x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
        features = _tuple(self.features)
        for name in ("axis", "batch_dims"):
            if any(not -x.ndim <= a < x.ndim for a in _tuple(getattr(self, name))):
                raise ValueError(
                    f"{place(self)} got an input of shape {x.shape} and {name}={getattr(self, name)}, expected axes of "
                    f"the input, from {-x.ndim} to {x.ndim - 1}."
                )
        axis = tuple(sorted(a % x.ndim for a in _tuple(self.axis)))
        batch = tuple(sorted(_tuple(self.batch_dims)))
        if batch != tuple(range(len(batch))) or len({*axis, *batch}) != len(axis) + len(batch):
            raise ValueError(
                f"{place(self)} got batch_dims={self.batch_dims} and axis={self.axis}, expected the first axes, "
                "counted from 0, as batch_dims, and no axis named twice."
            )
        sizes, sums = tuple(x.shape[a] for a in batch), tuple(x.shape[a] for a in axis)
        flat = (math.prod(sizes) * math.prod(sums), math.prod(features))
        kernel = self.param("kernel", _reshaped, (*sizes, *sums, *features), self.kernel_init, flat, self.param_dtype)
        bias = None
        if self.use_bias:
            flat = (math.prod(sizes) * math.prod(features),)
            bias = self.param("bias", _reshaped, (*sizes, *features), self.bias_init, flat, self.param_dtype)
        dot_general = self.dot_general or lax.dot_general
        if self.dot_general_cls is not None:
            dot_general = self.dot_general_cls()
        own = dot_general is lax.dot_general and self.promote_dtype is dtypes.promote_dtype
        return (_contracted if own else untraced(_contracted))(
            x,
            kernel,
            bias,
            promote_dtype=self.promote_dtype,
            dtype=self.dtype,
            dot_general=dot_general,
            precision=self.precision,
            axis=axis,
            batch=batch,
        )


class Einsum(Module):
    r"""Contract the input with a kernel by an equation in Einstein's notation, and add a bias.

    $$y = \mathrm{einsum}(\mathrm{einsum\_str}, x, W) + b$$

    Parameters (collection `params`): `kernel`, $W$, of shape `shape`; `bias`, $b$, with the sizes of the axes of the
    kernel that the output has too, in its order. Initializing draws from the stream `params`; applying draws nothing.

    Args:
        shape: the shape of the kernel.
        einsum_str: the equation, such as `'abc,cd->abd'`; here or in the call.
        use_bias: whether to add a bias.
        dtype: the dtype to compute in; None for the promoted dtype of the input and the parameters.
        param_dtype: the dtype in which parameters are made.
        precision: passed to `jnp.einsum`.
        kernel_init: the initializer of `kernel`.
        bias_init: the initializer of `bias`.
        promote_dtype: the function that casts input, kernel and bias; see `liftax.nn.dtypes.promote_dtype`.
        preferred_element_type: the dtype in which products are summed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Einsum((5, 6, 7), 'abc,cde->abde')
        >>> variables = layer.init(jax.random.key(0), jnp.ones((3, 4, 5)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (6, 7), 'kernel': (5, 6, 7)}}
    """

    shape: Sequence[int]
    einsum_str: str | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros_init()
    promote_dtype: PromoteDtype = dtypes.promote_dtype
    preferred_element_type: DTypeLike | None = None

    @compact
    def __call__(self, inputs: ArrayLike, einsum_str: str | None = None) -> Array:
        """Apply the layer.

        Args:
            inputs: of the axes that the equation names.
            einsum_str: the equation, where the layer was not made with one.

        Returns:
            An array of the axes that the equation gives.

        Raises:
            ValueError: there is no equation, or two, or it is not of the form `'x,kernel->y'`, or does not fit the
                shapes.
        """
        given = merge_param("einsum_str", self.einsum_str, einsum_str)
        equation = given.replace(" ", "")
        if equation.count("->") != 1 or equation.count(",") != 1:
            raise ValueError(f"{place(self)} got einsum_str={given!r}, expected the form 'x,kernel->y'.")
        x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
        shape = tuple(self.shape)
        left, _, result = equation.partition("->")
        terms = left.split(",")
        for name, term, ndim in (("input", terms[0], x.ndim), ("kernel", terms[1], len(shape))):
            letters = len(term.replace("...", ""))
            if letters > ndim or ("..." not in term and letters != ndim):
                raise ValueError(
                    f"{place(self)} got einsum_str={given!r} and an {name} of {ndim} axes, where the equation has "
                    f"{letters} letters for it: input {x.shape}, kernel {shape}."
                )
        named = _named(terms[1], len(shape))
        for letter, size in zip(_named(terms[0], x.ndim), x.shape, strict=True):
            other = shape[named.index(letter)] if letter in named else size
            if size != other and 1 not in (size, other):
                raise ValueError(
                    f"{place(self)} got einsum_str={given!r} and an input of shape {x.shape}, whose axis {letter!r} "
                    f"has size {size}, where that of the kernel, of shape {shape}, has size {other}."
                )
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias, axes = None, ()
        if self.use_bias:
            ndim = max(x.ndim - len(terms[0].replace("...", "")), len(shape) - len(terms[1].replace("...", "")))
            out = _named(result, ndim + len(result.replace("...", "")))
            axes = tuple(i for i, name in enumerate(out) if name in named)
            bias_shape = [shape[named.index(out[i])] for i in axes]
            bias = self.param("bias", self.bias_init, bias_shape, self.param_dtype)
        own = self.promote_dtype is dtypes.promote_dtype
        return (_einsum if own else untraced(_einsum))(
            x,
            kernel,
            bias,
            promote_dtype=self.promote_dtype,
            dtype=self.dtype,
            equation=equation,
            axes=axes,
            precision=self.precision,
            preferred=self.preferred_element_type,
        )


@traced_once
def _contracted(
    x: Array,
    kernel: Array,
    bias: Array | None,
    *,
    promote_dtype: PromoteDtype,
    dtype: DTypeLike | None,
    dot_general: Callable[..., Array],
    precision: lax.PrecisionLike,
    axis: tuple[int, ...],
    batch: tuple[int, ...],
) -> Array:
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=dtype)
    summed = tuple(range(len(batch), len(batch) + len(axis)))
    y = dot_general(x, kernel, ((axis, summed), (batch, batch)), precision=precision)
    if bias is None:
        return y
    return add_bias(y, bias, (*batch, *range(y.ndim - bias.ndim + len(batch), y.ndim)))


@traced_once
def _einsum(
    x: Array,
    kernel: Array,
    bias: Array | None,
    *,
    promote_dtype: PromoteDtype,
    dtype: DTypeLike | None,
    equation: str,
    axes: tuple[int, ...],
    precision: lax.PrecisionLike,
    preferred: DTypeLike | None,
) -> Array:
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=dtype)
    y = jnp.einsum(equation, x, kernel, precision=precision, preferred_element_type=preferred)
    return y if bias is None else add_bias(y, bias, axes)


def _reshaped(key: Any, shape: Sequence[int], init: Initializer, flat: tuple[int, ...], dtype: DTypeLike) -> Any:
    """Return what `init` gives for the shape `flat`, reshaped; a box around it stays."""
    value = initialized(init, key, flat, dtype)
    if isinstance(value, meta.AxisMetadata):
        return value.replace_boxed(jnp.reshape(value.unbox(), shape))
    return jnp.reshape(value, shape)


def _named(term: str, ndim: int) -> list[Any]:
    """Return a name for each axis of an operand of an equation: a letter, or a count from the end under dots."""
    before, dots, after = term.partition("...")
    hidden = ndim - len(before) - len(after) if dots else 0
    return [*before, *range(-hidden, 0), *after]


def _tuple(x: int | Sequence[int]) -> tuple[int, ...]:
    return (x,) if isinstance(x, int) else tuple(x)
