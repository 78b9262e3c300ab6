"""Attention: the layers, and what they are made of.

`liftax.nn.attention` is the address that Linen has for them.
"""

from liftax.nn.attention.layer import (
    MultiHeadAttention,
    MultiHeadDotProductAttention,
    SelfAttention,
    combine_masks,
    dot_product_attention,
    dot_product_attention_weights,
    make_attention_mask,
    make_causal_mask,
)

__all__ = [
    "MultiHeadAttention", "MultiHeadDotProductAttention", "SelfAttention", "combine_masks", "dot_product_attention",
    "dot_product_attention_weights", "make_attention_mask", "make_causal_mask",
]  # fmt: skip
