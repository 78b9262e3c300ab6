"""Layers that are linear in their parameters, under the address that they have in Linen, `nn.linear`."""

from typing import Any

from jax import lax

from liftax.nn.dtypes import PromoteDtype as PromoteDtypeFn
from liftax.nn.initializers import lecun_normal, variance_scaling
from liftax.nn.linear.contractions import DenseGeneral, Einsum
from liftax.nn.linear.conv import Conv, ConvLocal, dimension_numbers
from liftax.nn.linear.conv_transpose import ConvTranspose
from liftax.nn.linear.dense import Dense
from liftax.nn.linear.embed import Embed
from liftax.nn.linear.windows import padding_of

__all__ = [
    "Conv", "ConvLocal", "ConvTranspose", "Dense", "DenseGeneral", "Einsum", "Embed", "PromoteDtypeFn",
    "canonicalize_padding", "default_embed_init", "default_kernel_init",
]  # fmt: skip

default_kernel_init = lecun_normal()
default_embed_init = variance_scaling(1.0, "fan_in", "normal", out_axis=0)


def canonicalize_padding(padding: Any, rank: int) -> Any:
    """Return a padding of a convolution as `jax.lax` takes it: a name, or a pair for each of `rank` spatial axes.

    Args:
        padding: a name, an integer, or for each spatial axis an integer or a pair.
        rank: the number of spatial axes.

    Raises:
        ValueError: it is none of these.

    Example:
        >>> from liftax import nn
        >>> nn.linear.canonicalize_padding((1, (0, 2)), 2)
        [(1, 1), (0, 2)]
    """
    if isinstance(padding, str):
        return padding
    return list(padding_of("canonicalize_padding", padding, rank, ("SAME", "VALID")))


def _conv_dimension_numbers(input_shape: Any) -> lax.ConvDimensionNumbers:  # masked convolutions of others import it
    return dimension_numbers(len(input_shape) - 2)
