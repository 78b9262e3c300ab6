"""Products in floating-point numbers of 8 bits, as layers use them."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from ..table import Mistake, Row, numbers

ROUNDED = "rounding to 8 bits has no derivative that differences would show"
NO_JVP = "the gradient of a scale is its next value, and no derivative that could be pushed forwards"
ALONE = {"raw-jvp": NO_JVP, "lifted-jvp": NO_JVP}


def quietly(lib: Any, name: str) -> Any:
    """Return a maker of the operation without Linen's warning that there are newer ones."""

    def make() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return getattr(lib, name)(amax_history_length=4)

    return make


def dense(name: str, **fields: Any) -> Any:
    """Return the maker of a `Dense` that multiplies by this operation."""
    return lambda lib, dtype: lib.Dense(5, dtype=dtype, dot_general_cls=quietly(lib, name), **fields)


def scale_by_hand(largest: float, meta: Any, side: str) -> jax.Array:
    amax, scale = meta[f"{side}_amax_history"].max(), meta[f"{side}_scale"]
    return 1 / jnp.where((amax > 0) & jnp.isfinite(amax), largest / amax, 1 / scale)


def rounded_by_hand(x: jax.Array, dtype: Any, scale: jax.Array) -> jax.Array:
    largest = jnp.finfo(dtype).max.astype("float32")
    wide = jax.lax.broadcast_in_dim(scale, x.shape, (1,))
    return jax.lax.convert_element_type(jax.lax.clamp(-largest, x / wide, largest), dtype)


def product_by_hand(meta: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    scales = [scale_by_hand(448.0, meta, side) for side in ("input", "kernel")]
    operands = [rounded_by_hand(v, jnp.float8_e4m3fn, scale) for v, scale in zip((x, kernel), scales, strict=True)]
    y = jnp.matmul(*operands, preferred_element_type="float32")
    return y * jax.lax.broadcast_in_dim(scales[0] * scales[1], y.shape, (1,))


def direct_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    (meta,) = variables["_overwrite_with_gradient"].values()
    params = variables["params"]
    y = product_by_hand(meta, x, params["kernel"])
    return y + jax.lax.broadcast_in_dim(params["bias"], y.shape, (1,))


def einsum_by_hand(variables: Any, a: jax.Array, b: jax.Array, _: Any) -> jax.Array:
    (meta,) = variables["_overwrite_with_gradient"].values()
    return product_by_hand(meta, a, b)


def rounding_by_hand(dtype: Any) -> Any:
    def by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
        (meta,) = variables["_overwrite_with_gradient"].values()
        params = variables["params"]

        def rounded(x: jax.Array, side: str) -> jax.Array:
            scale = scale_by_hand(float(jnp.finfo(dtype).max), meta, side)
            numbers = rounded_by_hand(x, dtype, scale).astype("float32")
            return numbers * jax.lax.broadcast_in_dim(scale, x.shape, (1,))

        y = rounded(x, "input") @ rounded(params["kernel"], "kernel")
        return y + jax.lax.broadcast_in_dim(params["bias"], y.shape, (1,))

    return by_hand


def contraction(lib: Any, equation: str, **options: Any) -> Any:
    """Return a module with the equation as a field, since a row's inputs are arrays."""

    class Contraction(lib.Module):
        @lib.compact
        def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
            return lib.Fp8Einsum(amax_history_length=3)(equation, a, b, **options)

    return Contraction()


def kernel_of_integers(lib: Any, dtype: Any) -> Any:
    def cast(*args: Any, dtype: Any) -> list[Any]:
        return [jnp.asarray(x, jnp.int32) for x in args]

    return lib.Dense(5, promote_dtype=cast, dot_general_cls=lib.Fp8DirectDotGeneralOp)


WITHOUT: Any = {"smooth": ROUNDED, "alone": ALONE}

ROWS = [
    Row(
        "Fp8DirectDotGeneralOp",
        "default",
        dense("Fp8DirectDotGeneralOp"),
        by_hand=direct_by_hand,
        mistakes=(
            Mistake(
                "history",
                ValueError,
                "/inner/Fp8DirectDotGeneralOp_0.*amax_history_length=0",
                make=lambda lib, _: lib.Dense(2, dot_general_cls=lambda: lib.Fp8DirectDotGeneralOp(0)),
            ),
            Mistake("integers", TypeError, "/inner/Fp8DirectDotGeneralOp_0.*int32", make=kernel_of_integers),
        ),
        **WITHOUT,
    ),
    Row(
        "Fp8DirectDotGeneralOp", "4d", dense("Fp8DirectDotGeneralOp", use_bias=False), (numbers(2, 1, 4, 3),), **WITHOUT
    ),
    Row(
        "Fp8DirectDotGeneralOp",
        "axes",
        lambda lib, dtype: lib.DenseGeneral(
            (2, 3), (3, 1), batch_dims=(0,), dot_general_cls=quietly(lib, "Fp8DirectDotGeneralOp")
        ),
        (numbers(2, 4, 2, 3),),
        **WITHOUT,
    ),
    Row("Fp8DotGeneral", "default", dense("Fp8DotGeneral"), by_hand=direct_by_hand, **WITHOUT),
    Row("Fp8DotGeneralOp", "default", dense("Fp8DotGeneralOp"), by_hand=rounding_by_hand(jnp.float8_e4m3fn), **WITHOUT),
    Row(
        "NANOOFp8DotGeneralOp",
        "default",
        dense("NANOOFp8DotGeneralOp"),
        by_hand=rounding_by_hand(jnp.float8_e4m3fnuz),
        **WITHOUT,
    ),
    Row(
        "Fp8Einsum",
        "default",
        lambda lib, dtype: contraction(lib, "ab,bc->ac"),
        (numbers(4, 3), numbers(3, 2)),
        by_hand=einsum_by_hand,
        any_width="the shapes are given by both operands",
        **WITHOUT,
    ),
    Row(
        "Fp8Einsum",
        "exchanged",
        lambda lib, dtype: contraction(lib, "nab,hbd->hnad", preferred_element_type=dtype),
        (numbers(2, 4, 3), numbers(2, 3, 5)),
        **WITHOUT,
    ),
]
