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
    Row("Fp8DotGeneral", "default", dense("Fp8DotGeneral"), **WITHOUT),
    Row("Fp8DotGeneralOp", "default", dense("Fp8DotGeneralOp"), **WITHOUT),
    Row("NANOOFp8DotGeneralOp", "default", dense("NANOOFp8DotGeneralOp"), **WITHOUT),
    Row(
        "Fp8Einsum",
        "default",
        lambda lib, dtype: contraction(lib, "ab,bc->ac"),
        (numbers(4, 3), numbers(3, 2)),
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
