"""Layers that are linear in their parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from liftax import errors

from ..table import Mistake, Row, integers, numbers

BIAS = jax.nn.initializers.normal()


def dot_float32(*args: Any, **kwargs: Any) -> jax.Array:
    return jax.lax.dot_general(*args, preferred_element_type=jnp.float32, **kwargs)


def scalar(_: Any) -> jax.Array:
    return jnp.ones(())


def dense_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    return x @ kernel + jax.lax.broadcast_in_dim(bias, (4, 5), (1,))


def general_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    return jnp.tensordot(x, kernel, 1) + jax.lax.broadcast_in_dim(bias, (4, 2, 5), (1, 2))


def einsum_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    return jnp.einsum("ab,bcd->acd", x, kernel) + jax.lax.broadcast_in_dim(bias, (4, 2, 5), (1, 2))


ROWS = [
    Row(
        "Dense",
        "default",
        lambda lib, dtype: lib.Dense(5, bias_init=BIAS),
        by_hand=dense_by_hand,
        mistakes=(
            Mistake("scalar", ValueError, r"/inner \(Dense\) got a scalar.*shape \(\.\.\., d\)", inputs=(scalar,)),
            Mistake("features", errors.ScopeParamShapeError, "kernel.*/inner", inputs=(numbers(4, 5),), made=True),
        ),
    ),
    Row("Dense", "1d", lambda lib, dtype: lib.Dense(5), (numbers(3),)),
    Row("Dense", "4d", lambda lib, dtype: lib.Dense(5), (numbers(2, 2, 4, 3),)),
    Row("Dense", "no-bias", lambda lib, dtype: lib.Dense(5, use_bias=False)),
    Row("Dense", "dtype", lambda lib, dtype: lib.Dense(5, dtype=dtype)),
    Row("Dense", "param-dtype", lambda lib, dtype: lib.Dense(5, param_dtype=dtype, bias_init=BIAS)),
    Row("Dense", "integers", lambda lib, dtype: lib.Dense(5, dtype=dtype), (integers(4, 3),)),
    Row(
        "Dense",
        "dot-general",
        lambda lib, dtype: lib.Dense(5, dtype=dtype, dot_general=dot_float32),
        smooth="the function that is injected computes in float32",
    ),
    Row("Dense", "dot-general-cls", lambda lib, dtype: lib.Dense(5, dot_general_cls=lambda: jax.lax.dot_general)),
    Row(
        "DenseGeneral",
        "default",
        lambda lib, dtype: lib.DenseGeneral((2, 5), bias_init=BIAS),
        by_hand=general_by_hand,
        mistakes=(
            Mistake("axis", ValueError, r"/inner \(DenseGeneral\).*axis=3", make=lambda lib, _: lib.DenseGeneral(2, 3)),
            Mistake(
                "batch", ValueError, "batch_dims.*first axes", make=lambda lib, _: lib.DenseGeneral(2, batch_dims=(1,))
            ),
            Mistake("features", errors.ScopeParamShapeError, "kernel.*/inner", inputs=(numbers(4, 5),), made=True),
        ),
    ),
    Row(
        "DenseGeneral", "axes", lambda lib, dtype: lib.DenseGeneral(5, (-1, 1), bias_init=BIAS), (numbers(2, 4, 2, 3),)
    ),
    Row(
        "DenseGeneral",
        "batch",
        lambda lib, dtype: lib.DenseGeneral((2, 5), -1, (0,), bias_init=BIAS, dtype=dtype),
        (numbers(2, 4, 3),),
    ),
    Row("DenseGeneral", "no-bias", lambda lib, dtype: lib.DenseGeneral(5, use_bias=False)),
    Row(
        "Einsum",
        "default",
        lambda lib, dtype: lib.Einsum((3, 2, 5), "ab,bcd->acd", bias_init=BIAS),
        by_hand=einsum_by_hand,
        mistakes=(
            Mistake("form", ValueError, "the form 'x,kernel->y'", make=lambda lib, _: lib.Einsum((3, 5), "ab,bc")),
            Mistake("rank", ValueError, "input of 2 axes", make=lambda lib, _: lib.Einsum((3, 5), "abc,cd->abd")),
            Mistake("none", ValueError, "einsum_str", make=lambda lib, _: lib.Einsum((3, 5))),
            Mistake(
                "size", ValueError, r"axis 'b' has size 3.*size 4", make=lambda lib, _: lib.Einsum((4, 5), "ab,bc->ac")
            ),
        ),
        any_width="the shape of the kernel is given, not taken from the input",
    ),
    Row("Einsum", "dots", lambda lib, dtype: lib.Einsum((3, 5), bias_init=BIAS), call={"einsum_str": "...b,bc->...c"}),
    Row(
        "Einsum",
        "transposed",
        lambda lib, dtype: lib.Einsum((2, 3, 5), "nab, hbd -> hnad", dtype=dtype, bias_init=BIAS),
        (numbers(2, 4, 3),),
    ),
]
