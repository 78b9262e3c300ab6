"""Products in 8-bit floating point: scaling, products, and the layers of both, at Linen's address `nn.fp8_ops`."""

from typing import Any

from liftax.nn.fp8_ops import scaling
from liftax.nn.fp8_ops.layers import (
    OVERWRITE_WITH_GRADIENT,
    Fp8DirectDotGeneralOp,
    Fp8DotGeneral,
    Fp8DotGeneralBase,
    Fp8DotGeneralOp,
    Fp8Einsum,
    NANOOFp8DotGeneralOp,
    compute_amax_history,
    compute_scale,
    dequantize,
    dot_general_with_precision,
    fp8_scaled_dot_general,
    get_fp8_max,
    in_qdq,
    out_qdq,
    qdq,
    quantize,
    update_fp8_meta,
)

__all__ = [
    "OVERWRITE_WITH_GRADIENT", "Fp8DirectDotGeneralOp", "Fp8DotGeneral", "Fp8DotGeneralBase", "Fp8DotGeneralOp",
    "Fp8Einsum", "NANOOFp8DotGeneralOp", "compute_amax_history", "compute_scale", "dequantize",
    "dot_general_with_precision", "fm32", "fp8_scaled_dot_general", "fp32_max_grad", "get_fp8_max", "in_qdq", "out_qdq",
    "qdq", "quantize", "update_fp8_meta",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("fm32", "fp32_max_grad"):
        return getattr(scaling, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
