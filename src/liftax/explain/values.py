"""Descriptions of single values: `float32[3]`, `int (int32[])`, `a tuple of 2`, `a str`.

describe : value -> text
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(x: Any) -> str:
    """Return a few words about `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> describe(jnp.ones(3)), describe(2), describe([1, 2]), describe("a")
        ('float32[3]', 'int (int32[])', 'a list of 2', 'a str')
    """
    dtype = dtype_of(x)
    if dtype is not None:
        text = type_text(dtype, jnp.shape(x))
        return f"{type(x).__name__} ({text})" if isinstance(x, bool | int | float | complex) else text
    if x is None:
        return "None"
    article = "an" if type(x).__name__[0] in "aeiouAEIOU" else "a"
    if isinstance(x, dict):
        return f"{article} {type(x).__name__} with keys {list(x)!r}"
    if isinstance(x, tuple | list):
        return f"{article} {type(x).__name__} of {len(x)}"
    return f"{article} {type(x).__name__}"


def describe_type(x: Any) -> str:
    """Return dtype and shape of an array or a number, and what `describe` returns for anything else."""
    dtype = dtype_of(x)
    return describe(x) if dtype is None else type_text(dtype, jnp.shape(x))


def type_text(dtype: Any, shape: tuple[int, ...]) -> str:
    """Return a dtype and a shape as JAX writes them: `float32[2,3]`."""
    name = "float0" if dtype == jax.dtypes.float0 else getattr(dtype, "name", str(dtype))
    return f"{name}[{','.join(map(str, shape))}]"


def is_value(x: Any) -> bool:
    """Return whether `x` is an array or a number, so that JAX can work with it."""
    return dtype_of(x) is not None


def dtype_of(x: Any) -> Any | None:
    """Return the dtype that JAX sees in `x`, or None for anything but an array or a number."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.dtype
    try:
        return getattr(jax.typeof(x), "dtype", None)
    except TypeError:
        return None


def type_of(x: Any) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of an array or a Python number."""
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype if hasattr(x, "dtype") else jax.dtypes.result_type(x))
