"""The dtype that a layer computes in, and casts to it that cost nothing when there is nothing to cast.

    promote_dtype : (x, kernel, bias, dtype=None) -> (x, kernel, bias), all of one dtype

A layer has two dtypes: `param_dtype`, in which its parameters are stored, and `dtype`, in which it computes. Where
`dtype` is None, the inputs and parameters decide by JAX's rules of promotion (JAX docs, "Type promotion semantics").
Dtypes are static, so all of this happens in Python while tracing. The usual case, in which everything has one dtype
already, is answered by comparing dtypes: no call into `jax.numpy`, and no equation in the traced program.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.typing import Array

__all__ = ["canonicalize_dtype", "promote_dtype"]


class PromoteDtype(Protocol):
    """The type of the field `promote_dtype` of layers: anything that is called as `promote_dtype` is."""

    def __call__(self, *args: Any, dtype: DTypeLike | None = None, inexact: bool = True) -> list[Any]:
        """See `promote_dtype`."""
        ...


def canonicalize_dtype(*args: ArrayLike | None, dtype: DTypeLike | None = None, inexact: bool = True) -> DTypeLike:
    """Return the dtype to compute in.

    Args:
        *args: arrays and scalars of any shape; those that are None are passed over.
        dtype: the answer, where it is given; otherwise the promoted dtype of `args` is.
        inexact: whether the answer has to be a floating-point or complex dtype. Integers and Booleans then promote with
            float32.

    Returns:
        `dtype` as it was given, or a NumPy dtype.

    Raises:
        ValueError: `dtype` is an integer or Boolean dtype, and `inexact` is True.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax.nn.dtypes import canonicalize_dtype
        >>> canonicalize_dtype(jnp.arange(3), None, jnp.ones(3, jnp.bfloat16))
        dtype(bfloat16)
        >>> canonicalize_dtype(jnp.arange(3))
        dtype('float32')
    """
    if dtype is None:
        found = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in args if x is not None]
        # The first comparison is the whole cost of the usual case.
        dtype = found[0].dtype if _one_dtype(found) else jnp.result_type(*found)
        if inexact and not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.promote_types(jnp.float32, dtype)
    elif inexact and not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"Got dtype={jnp.dtype(dtype).name}, expected a floating-point or complex dtype to compute in. Pass "
            "dtype=None to let the inputs and parameters decide."
        )
    return dtype


def promote_dtype(*args: Any, dtype: DTypeLike | None = None, inexact: bool = True) -> list[Any]:
    """Cast all arguments to the one dtype that `canonicalize_dtype` gives for them.

    Args:
        *args: arrays and scalars of any shape. None stays None.
        dtype: the dtype to cast to; None for the promoted dtype of `args`.
        inexact: as for `canonicalize_dtype`.

    Returns:
        A list with an array, or None, for each argument. An array that has the dtype already is returned as it is.

    Raises:
        ValueError: as `canonicalize_dtype`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax.nn.dtypes import promote_dtype
        >>> x, kernel, bias = promote_dtype(jnp.ones(2, jnp.bfloat16), jnp.ones((2, 3)), None)
        >>> x.dtype, kernel.dtype, bias
        (dtype('float32'), dtype('float32'), None)
    """
    dtype = jnp.dtype(canonicalize_dtype(*args, dtype=dtype, inexact=inexact))
    return [None if x is None else cast(x, dtype) for x in args]


def cast(x: ArrayLike, dtype: DTypeLike) -> Array:
    """Return `x` as an array of `dtype`; an array that is one already, and not weakly typed, comes back itself."""
    if isinstance(x, jax.Array):
        return x if x.dtype == dtype and not x.weak_type else lax.convert_element_type(x, dtype)
    return jnp.asarray(x, dtype)


def matched(a: Any, b: Any) -> tuple[Any, Any]:
    """Return `a` and `b` in their promoted dtype: what a `jax.lax` operation asks of its operands."""
    if a.dtype == b.dtype:
        return a, b
    dtype = jnp.result_type(a, b)
    return cast(a, dtype), cast(b, dtype)


def constant(value: Any, like: Any) -> Any:
    """Return the number `value` in the dtype of `like`; a Python number becomes a literal of the traced program."""
    return like.dtype.type(value) if isinstance(value, (int, float)) else jnp.asarray(value, like.dtype)


def _one_dtype(arrays: list[Array]) -> bool:
    return bool(arrays) and all(x.dtype == arrays[0].dtype for x in arrays)
