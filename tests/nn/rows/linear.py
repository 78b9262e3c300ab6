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
]
