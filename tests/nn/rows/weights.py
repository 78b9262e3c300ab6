"""Layers that change the weights of another layer."""

from typing import Any

import jax
import jax.numpy as jnp

from liftax import errors

from ..table import Mistake, Row, numbers

TRAIN: dict[str, Any] = {"update_stats": True}
BOXES = "Linen does not take boxed and unboxed variables alike here: test_weights.py compares what it does take"


def scaled(lib: Any, dtype: Any) -> Any:
    return lib.WeightNorm(lib.Dense(5), scale_init=lib.initializers.normal(1.0))


def weight_norm_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    params = variables["params"]
    kernel, bias = params["layer_instance"]["kernel"], params["layer_instance"]["bias"]
    scale = params["layer_instance/kernel/scale"]
    kernel = kernel * jax.lax.rsqrt((kernel * kernel).sum(0, keepdims=True) + 1e-12) * scale.reshape(1, -1)
    return x @ kernel + jax.lax.broadcast_in_dim(bias, (4, 5), (1,))


def spectral_norm_by_hand(variables: Any, x: jax.Array, _: Any) -> Any:
    params, stats = variables["params"]["layer_instance"], variables["batch_stats"]

    def unit(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt((x * x).sum() + 1e-12)

    fixed, u = jax.lax.stop_gradient((params["kernel"], stats["layer_instance/kernel/u"]))
    product = unit(u @ fixed.T) @ params["kernel"]
    u = unit(jax.lax.stop_gradient(product))
    sigma = (product @ u.T)[0, 0]
    y = x @ (params["kernel"] / jnp.where(sigma != 0, sigma, 1)) + jax.lax.broadcast_in_dim(
        params["bias"], (4, 5), (1,)
    )
    return y, {"layer_instance/kernel/u": u, "layer_instance/kernel/sigma": sigma}


ROWS = [
    Row(
        "WeightNorm",
        "default",
        scaled,
        (numbers(4, 3),),
        by_hand=weight_norm_by_hand,
        any_dtype="its dtype is that of the weights, checked where they are cast",
        any_names=BOXES,
        mistakes=(
            Mistake(
                "class", errors.TransformTargetError, "an instance, not a class", make=lambda lib, _: lib.WeightNorm(3)
            ),
            Mistake(
                "axes",
                ValueError,
                "no axis 2.*feature_axes",
                make=lambda lib, _: lib.WeightNorm(lib.Dense(5), feature_axes=2),
            ),
        ),
    ),
    Row(
        "WeightNorm",
        "all",
        lambda lib, dtype: lib.WeightNorm(lib.Dense(5), dtype=dtype, variable_filter=None, feature_axes=None),
        (numbers(4, 3),),
        any_dtype="see above",
    ),
    Row(
        "SpectralNorm",
        "default",
        lambda lib, dtype: lib.SpectralNorm(lib.Dense(5)),
        (numbers(4, 3),),
        by_hand=spectral_norm_by_hand,
        call=TRAIN,
        collections=("batch_stats",),
        started=True,
        smooth="the vectors of power iteration take part in no derivative",
        any_dtype="its dtype is that of the weights, checked where they are cast",
        any_names=BOXES,
    ),
]
