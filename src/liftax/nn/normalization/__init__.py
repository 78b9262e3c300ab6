"""Normalization of activations and of weights, at Linen's address `nn.normalization`."""

from liftax.nn.normalization.layer_norm import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    RMSNorm,
    SpectralNorm,
    WeightNorm,
    _canonicalize_axes,
    _compute_stats,
    _normalize,
)

__all__ = [
    "BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm", "SpectralNorm", "WeightNorm",
]  # fmt: skip
