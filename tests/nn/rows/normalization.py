"""Layers that normalize."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import errors

from ..table import Mistake, Rounding, Row, integers, numbers

MASK = np.array([[True, True, False], [False, True, True], [True, True, True], [True, False, True]])
TRAIN: dict[str, Any] = {"use_running_average": False}
STATS = ("batch_stats",)

ONE_CAST = Rounding(
    ("bfloat16/grads/x0", "float16/grads/x0"),
    "liftax casts an input of 16 bits to float32 once, and the cotangents of its uses are added in float32; "
    "Linen casts it for each use, and they are added in 16 bits",
)
ONE_DIFFERENCE = Rounding(
    ("grads/x0",),
    "x - mean is computed once, for the variance and for the output, in Linen twice: the cotangents of the two uses "
    "are added in another order",
)
ONE_MASK = Rounding(
    ("grads", "bfloat16/out", "float16/out"),
    "the elements that the mask hides are set to zero, and the others counted, once, in Linen for each mean: XLA fuses "
    "the two programs differently",
)
EXCESS_PRECISION = Rounding(
    ("out", "grads"),
    "XLA keeps more than 16 bits between operations that it fuses, and it fuses the two programs differently",
    unit="bfloat16",
)
HALF = "the row computes in 16 bits"


def inits(lib: Any) -> dict[str, Any]:
    """Return initializers for parameters that would start as zeros and ones, to make them tell."""
    return {"scale_init": lib.initializers.normal(1.0), "bias_init": lib.initializers.uniform(1.0)}


def norm(name: str, **fields: Any) -> Callable[..., Any]:
    return lambda lib, _: getattr(lib, name)(**inits(lib), **fields)


def norm_in(name: str, **fields: Any) -> Callable[..., Any]:
    return lambda lib, dtype: getattr(lib, name)(dtype=dtype, **inits(lib), **fields)


def rms(lib: Any, _: Any) -> Any:
    return lib.RMSNorm(scale_init=lib.initializers.normal(1.0))


def complex_numbers(_: Any) -> jax.Array:
    return numbers(4, 3)(jnp.float32) + 1j * numbers(4, 3)(jnp.float32)[::-1]


def scalar(_: Any) -> jax.Array:
    return jnp.ones(())


def layer_norm_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    mean, mean_square = x.mean(-1, keepdims=True), jax.lax.square(x).mean(-1, keepdims=True)
    var = jnp.maximum(mean_square - jax.lax.square(mean), 0.0)
    return (x - mean) * (jax.lax.rsqrt(var + 1e-6) * scale) + bias


def rms_norm_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    mean_square = jax.lax.square(x).mean(-1, keepdims=True)
    return x * (jax.lax.rsqrt(mean_square + 1e-6) * variables["params"]["scale"])


def instance_norm_by_hand(variables: Any, x: jax.Array, _: Any) -> jax.Array:
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    mean, mean_square = x.mean(1, keepdims=True), jax.lax.square(x).mean(1, keepdims=True)
    var = jnp.maximum(mean_square - jax.lax.square(mean), 0.0)
    return (x - mean) * (jax.lax.rsqrt(var + 1e-6) * scale) + bias


def batch_norm_by_hand(variables: Any, x: jax.Array, _: Any) -> Any:
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    stats = variables["batch_stats"]
    mean, mean_square = x.mean(0), jax.lax.square(x).mean(0)
    var = jnp.maximum(mean_square - jax.lax.square(mean), 0.0)
    state = {"mean": 0.99 * stats["mean"] + 0.01 * mean, "var": 0.99 * stats["var"] + 0.01 * var}
    return (x - mean) * (jax.lax.rsqrt(var + 1e-5) * scale) + bias, state


def wider(error: type[Exception], words: str) -> Mistake:
    return Mistake("features", error, words, inputs=(numbers(4, 5),), made=True)


LAYER_NORM = [
    Row(
        "LayerNorm",
        "default",
        norm("LayerNorm"),
        rounding=(ONE_CAST,),
        by_hand=layer_norm_by_hand,
        mistakes=(
            Mistake("scalar", ValueError, r"/inner \(LayerNorm\).*no axis -1", inputs=(scalar,)),
            Mistake("axes", ValueError, r"no axis 2.*feature_axes", make=norm("LayerNorm", feature_axes=(0, 2))),
            wider(errors.ScopeParamShapeError, "scale.*/inner"),
        ),
    ),
    Row("LayerNorm", "1d", norm("LayerNorm"), (numbers(3),), rounding=(ONE_CAST,)),
    Row("LayerNorm", "dtype", norm_in("LayerNorm"), rounding=(ONE_CAST,)),
    Row(
        "LayerNorm",
        "own-dtype",
        norm_in("LayerNorm", force_float32_reductions=False),
        dtypes=("bfloat16", "float16"),
        rounding=(EXCESS_PRECISION,),
        smooth="parameters are cast to param_dtype, which is float32",
    ),
    Row(
        "LayerNorm",
        "wide-input",
        norm("LayerNorm", dtype=jnp.float16, force_float32_reductions=False, use_fast_variance=False),
        (lambda dtype: numbers(4, 3)(jnp.float32) + 200,),
        dtypes=("float32",),
        smooth=HALF,
        tolerance=2e-3,
    ),
    Row("LayerNorm", "two-pass", norm("LayerNorm", use_fast_variance=False), rounding=(ONE_DIFFERENCE,)),
    Row("LayerNorm", "mask", norm("LayerNorm"), call={"mask": MASK}, rounding=(ONE_MASK,)),
    Row(
        "LayerNorm",
        "mask-two-pass",
        norm("LayerNorm", use_fast_variance=False),
        call={"mask": MASK[0]},
        rounding=(ONE_MASK,),
    ),
    Row(
        "LayerNorm",
        "axes",
        norm("LayerNorm", reduction_axes=(1, -1), feature_axes=(-1, -2)),
        (numbers(2, 4, 3),),
        rounding=(ONE_CAST,),
    ),
    Row("LayerNorm", "over-all", norm("LayerNorm", reduction_axes=(0, 1), feature_axes=1), rounding=(ONE_CAST,)),
    Row(
        "LayerNorm",
        "apart",
        norm("LayerNorm", reduction_axes=0, feature_axes=2),
        (numbers(4, 2, 3),),
        rounding=(ONE_CAST,),
    ),
    Row("LayerNorm", "bare", lambda lib, dtype: lib.LayerNorm(use_bias=False, use_scale=False), rounding=(ONE_CAST,)),
    Row(
        "LayerNorm",
        "param-dtype",
        norm("LayerNorm", param_dtype=jnp.bfloat16, epsilon=0.1),
        dtypes=("float16",),
        rounding=(ONE_CAST,),
        smooth="parameters are stored in bfloat16",
    ),
    Row("LayerNorm", "integers", norm("LayerNorm"), (integers(4, 3),), dtypes=("float32",)),
    Row(
        "LayerNorm",
        "complex",
        norm("LayerNorm"),
        (complex_numbers,),
        dtypes=("float32",),
        smooth="the absolute square is no holomorphic function, and the input is of complex64",
    ),
]

RMS_NORM = [
    Row(
        "RMSNorm",
        "default",
        rms,
        rounding=(ONE_CAST,),
        by_hand=rms_norm_by_hand,
        mistakes=(
            Mistake("scalar", ValueError, r"/inner \(RMSNorm\).*no axis -1", inputs=(scalar,)),
            wider(errors.ScopeParamShapeError, "scale.*/inner"),
        ),
    ),
    Row("RMSNorm", "mask", rms, call={"mask": MASK}, rounding=(ONE_CAST,)),
]

INSTANCE_NORM = [
    Row(
        "InstanceNorm",
        "default",
        norm("InstanceNorm"),
        (numbers(2, 4, 3),),
        rounding=(ONE_CAST,),
        by_hand=instance_norm_by_hand,
        mistakes=(
            Mistake(
                "batch",
                ValueError,
                r"/inner \(InstanceNorm\).*feature_axes=-3 names the first axis",
                make=norm("InstanceNorm", feature_axes=-3),
            ),
        ),
    ),
    Row(
        "InstanceNorm",
        "two-pass",
        norm("InstanceNorm", use_fast_variance=False),
        (numbers(2, 4, 3),),
        dtypes=("float32",),
        rounding=(ONE_DIFFERENCE,),
    ),
]

BATCH_NORM = [
    Row(
        "BatchNorm",
        "default",
        norm("BatchNorm"),
        call=TRAIN,
        collections=STATS,
        rounding=(ONE_CAST,),
        by_hand=batch_norm_by_hand,
        mistakes=(
            Mistake("axis", ValueError, r"/inner \(BatchNorm\).*no axis -3", make=norm("BatchNorm", axis=-3)),
            Mistake("mode", ValueError, "use_running_average", call={}),
            Mistake("mode-twice", ValueError, "use_running_average", make=norm("BatchNorm", use_running_average=True)),
            wider(errors.ScopeParamShapeError, r"batch_stats/mean at /inner \(BatchNorm\).*\(3,\).*\(5,\)"),
        ),
    ),
    Row(
        "BatchNorm",
        "4d",
        norm("BatchNorm", momentum=0.9),
        (numbers(2, 2, 4, 3),),
        TRAIN,
        collections=STATS,
        rounding=(ONE_CAST,),
    ),
    Row("BatchNorm", "dtype", norm_in("BatchNorm"), call=TRAIN, collections=STATS, rounding=(ONE_CAST,)),
    Row(
        "BatchNorm",
        "own-dtype",
        lambda lib, dtype: lib.BatchNorm(dtype=dtype, param_dtype=dtype, force_float32_reductions=False),
        call=TRAIN,
        dtypes=("bfloat16", "float16"),
        collections=STATS,
        rounding=(EXCESS_PRECISION,),
    ),
    Row(
        "BatchNorm",
        "two-pass",
        norm("BatchNorm", use_fast_variance=False),
        call=TRAIN,
        collections=STATS,
        rounding=(ONE_DIFFERENCE,),
    ),
    Row(
        "BatchNorm",
        "eval",
        norm("BatchNorm"),
        call={"use_running_average": True},
        mistakes=(Mistake("immutable", errors.ModifyScopeVariableError, "batch_stats", call=TRAIN, made=True),),
    ),
    Row(
        "BatchNorm",
        "mask",
        norm("BatchNorm"),
        call={"mask": MASK[:, :1], **TRAIN},
        collections=STATS,
        rounding=(ONE_MASK,),
    ),
    Row(
        "BatchNorm",
        "axis",
        norm("BatchNorm", axis=1),
        (numbers(2, 4, 3),),
        TRAIN,
        collections=STATS,
        rounding=(ONE_CAST,),
    ),
    Row(
        "BatchNorm",
        "axes",
        norm("BatchNorm", axis=(-1, 1)),
        (numbers(4, 2, 3),),
        TRAIN,
        collections=STATS,
        rounding=(ONE_CAST,),
    ),
    Row(
        "BatchNorm",
        "no-bias",
        lambda lib, dtype: lib.BatchNorm(use_bias=False),
        call=TRAIN,
        collections=STATS,
        rounding=(ONE_CAST,),
    ),
    Row(
        "BatchNorm",
        "no-scale",
        lambda lib, dtype: lib.BatchNorm(use_scale=False),
        call=TRAIN,
        collections=STATS,
        rounding=(ONE_CAST,),
    ),
]

ROWS = [*LAYER_NORM, *RMS_NORM, *INSTANCE_NORM, *BATCH_NORM]
