"""`promote_dtype` against the one of flax.linen, and what it spares."""

import itertools
from typing import Any

import flax.linen.dtypes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax.nn import dtypes

VALUES = {
    "float32": jnp.ones(2),
    "bfloat16": jnp.ones(2, jnp.bfloat16),
    "float16": jnp.ones(2, jnp.float16),
    "int": jnp.arange(2),
    "bool": jnp.array([True, False]),
    "complex": jnp.ones(2) * 1j,
    "weak": jnp.asarray(1.5),
    "numpy": np.ones(2),
    "number": 2.5,
    "none": None,
}


CASES = [
    (a, b, dtype)
    for a, b in itertools.combinations_with_replacement(VALUES, 2)
    for dtype in (None, "bfloat16", "complex64")
    # Nothing to promote; and JAX warns where an imaginary part is lost.
    if not (a == b == "none" and dtype is None) and not ("complex" in (a, b) and dtype == "bfloat16")
]


@pytest.mark.parametrize(("a", "b", "dtype"), CASES)
def test_promotes_as_linen_does(a: str, b: str, dtype: str | None) -> None:
    ours = dtypes.promote_dtype(VALUES[a], VALUES[b], dtype=dtype)
    theirs = flax.linen.dtypes.promote_dtype(VALUES[a], VALUES[b], dtype=dtype)
    for x, y in zip(ours, theirs, strict=True):
        if y is None:
            assert x is None
        else:
            assert (x.dtype, x.weak_type, x.tolist()) == (y.dtype, y.weak_type, y.tolist())


@pytest.mark.parametrize("dtype", [None, jnp.float32, "float32"])
def test_what_has_the_dtype_comes_back_itself(dtype: Any) -> None:
    a, b = jnp.ones(2), jnp.zeros(3)
    ours = dtypes.promote_dtype(a, b, None, dtype=dtype)
    assert ours[0] is a
    assert ours[1] is b
    assert ours[2] is None


def test_integers_stay_where_inexact_is_not_asked_for() -> None:
    (x,) = dtypes.promote_dtype(jnp.arange(3), inexact=False)
    assert x.dtype == jnp.int32


@pytest.mark.parametrize("dtype", [jnp.int32, "bool"])
def test_integer_dtype_is_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match=f"dtype={jnp.dtype(dtype).name}, expected a floating-point"):
        dtypes.promote_dtype(jnp.ones(2), dtype=dtype)


def test_equal_dtypes_trace_no_equation() -> None:
    jaxpr = jax.make_jaxpr(lambda a, b: dtypes.promote_dtype(a, b))(jnp.ones(2), jnp.ones(3))
    assert len(jaxpr.eqns) == 0
