r"""Layers in which each position gathers from others what they hold for it.

    MultiHeadDotProductAttention : (array[..., q, e], array[..., k, f]) -> array[..., q, out_features]

The arithmetic is that of `liftax.nn.attention.dot_product`, or of the function that `attention_fn` names; these layers
add the projections to heads and back, and the cache for decoding, which is in `liftax.nn.attention.cache`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact, merge_param
from liftax.nn.attention.backend import attend
from liftax.nn.attention.cache import with_cache
from liftax.nn.attention.checks import check_broadcasts, check_rate, head_size, inputs_of
from liftax.nn.attention.dot_product import dot_product_attention, dot_product_attention_weights
from liftax.nn.attention.masks import combine_masks, make_attention_mask, make_causal_mask
from liftax.nn.initializers import lecun_normal, zeros_init
from liftax.nn.linear.contractions import DenseGeneral
from liftax.nn.normalization.layer_norm import LayerNorm
from liftax.nn.support.location import place
from liftax.typing import Array, Initializer, PRNGKey

__all__ = [
    "MultiHeadAttention", "MultiHeadDotProductAttention", "SelfAttention", "combine_masks", "dot_product_attention",
    "dot_product_attention_weights", "make_attention_mask", "make_causal_mask",
]  # fmt: skip


class MultiHeadDotProductAttention(Module):
    r"""Let each query gather a mean of values, weighted by how well their keys match it, in several heads at once.

    $$Q_h = x_q W^Q_h, \quad K_h = x_k W^K_h, \quad V_h = x_v W^V_h, \qquad
    y = \sum_h \mathrm{softmax}\Big(\frac{Q_h K_h^T}{\sqrt{d}}\Big) V_h W^O_h$$

    Biases are left out here. $d$ is `qkv_features / num_heads`.

    Parameters (collection `params`): in `query`, `key` and `value` each a `kernel` of shape `(e, num_heads, d)`, where
    `e` is the number of features of the input that it projects, and a `bias` of shape `(num_heads, d)`; in `out` a
    `kernel` of shape `(num_heads, d, out_features)` and a `bias` of shape `(out_features,)`. With `normalize_qk`, in
    `query_ln` and `key_ln` each a `scale` of shape `(d,)`. Initializing draws from the stream `params`; applying draws
    one key from the stream `dropout`, where there is dropout and no key is given.

    State, with `decode` (collection `cache`): `cached_key` and `cached_value`, at first 0, of shape `(..., length,
    num_heads, d)`, where `length` is that of the keys at init; `cache_index`, the number of positions so far, an int32.
    Each call then takes one position, which sees itself and those before it, and the collection has to be mutable.

    Args:
        num_heads: the number of heads.
        dtype: the dtype to compute in; None for the promoted dtype of the inputs and the parameters.
        param_dtype: the dtype in which parameters are made.
        qkv_features: the features of queries, keys and values, of all heads together; None for those of `inputs_q`.
        out_features: the features of the output; None for those of `inputs_q`.
        broadcast_dropout: drop the same weights for the whole batch and in all heads.
        dropout_rate: the probability, from 0 to below 1, that a weight is set to zero.
        deterministic: whether to leave dropout out. Where there is any, it is given either here or in the call.
        precision: passed to `jax.lax.dot_general`.
        kernel_init: the initializer of `kernel`.
        out_kernel_init: that of the `kernel` of `out`; None for `kernel_init`.
        bias_init: the initializer of `bias`.
        out_bias_init: that of the `bias` of `out`; None for `bias_init`.
        use_bias: whether the projections add biases.
        attention_fn: `nn.dot_product_attention`, or a function called as it is, with those of its options that have
            a parameter of their name. `jax.nn.dot_product_attention`, also in a `functools.partial` such as one that
            chooses `implementation="cudnn"`, is the faster one where there is a kernel for the device. It takes no
            dropout, no `precision` and no einsums, and sows no weights; it takes the softmax in float32.
        decode: whether to decode one position after the other, with a cache.
        normalize_qk: whether to normalize queries and keys with a LayerNorm.
        force_fp32_for_softmax: take the softmax, and the mean of the values, in float32.
        qkv_dot_general: called in place of `jax.lax.dot_general` in the projections of the inputs.
        out_dot_general: called in place of `jax.lax.dot_general` in the projection of the output.
        qkv_dot_general_cls: called without arguments for each projection; what it returns is such a function.
        out_dot_general_cls: the same for the projection of the output.
        qk_attn_weights_einsum_cls: called without arguments; what it returns is called in place of `jax.numpy.einsum`,
            as `nn.dot_product_attention` says.
        attn_weights_value_einsum_cls: the same for the product of weights and values. These two are given together.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
        >>> x = jnp.ones((1, 5, 6))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> jax.tree.map(jnp.shape, variables["params"]["query"])
        {'bias': (2, 4), 'kernel': (6, 2, 4)}
        >>> jax.tree.map(jnp.shape, variables["params"]["out"])
        {'bias': (6,), 'kernel': (2, 4, 6)}
        >>> layer.apply(variables, x, mask=nn.make_causal_mask(x[..., 0])).shape
        (1, 5, 6)

        A text, position by position:

        >>> decoder = layer.clone(decode=True)
        >>> cache = decoder.init(jax.random.key(0), x)["cache"]
        >>> y, updates = decoder.apply({**variables, "cache": cache}, x[:, :1], mutable=["cache"])
        >>> y.shape, updates["cache"]["cache_index"]
        ((1, 1, 6), Array(1, dtype=int32))

    Source:
        Vaswani et al., Attention Is All You Need, 2017. `normalize_qk`: Dehghani et al., Scaling Vision Transformers to
        22 Billion Parameters, 2023.
    """

    num_heads: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    qkv_features: int | None = None
    out_features: int | None = None
    broadcast_dropout: bool = True
    dropout_rate: float = 0.0
    deterministic: bool | None = None
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    out_kernel_init: Initializer | None = None
    bias_init: Initializer = zeros_init()
    out_bias_init: Initializer | None = None
    use_bias: bool = True
    attention_fn: Callable[..., Array] = dot_product_attention
    decode: bool = False
    normalize_qk: bool = False
    force_fp32_for_softmax: bool = False
    qkv_dot_general: Callable[..., Array] | None = None
    out_dot_general: Callable[..., Array] | None = None
    qkv_dot_general_cls: Any = None
    out_dot_general_cls: Any = None
    qk_attn_weights_einsum_cls: Callable[..., Callable[..., Array]] | None = None
    attn_weights_value_einsum_cls: Callable[..., Callable[..., Array]] | None = None

    @compact
    def __call__(
        self,
        inputs_q: ArrayLike,
        inputs_k: ArrayLike | None = None,
        inputs_v: ArrayLike | None = None,
        *,
        inputs_kv: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        deterministic: bool | None = None,
        dropout_rng: PRNGKey | None = None,
        sow_weights: bool = False,
    ) -> Array:
        """Apply the layer.

        Args:
            inputs_q: what queries are made of, of shape `(..., q, e)`, any numeric dtype.
            inputs_k: what keys are made of, of shape `(..., k, f)`; None for `inputs_q`.
            inputs_v: what values are made of, of shape `(..., k, g)`; None for `inputs_k`.
            inputs_kv: both of these, under an older name.
            mask: of a shape that broadcasts to `(..., num_heads, q, k)`: True, or not 0, where a query sees a key.
            deterministic: as the field of this name, which is then None.
            dropout_rng: the key to draw dropout with, in place of one from the stream.
            sow_weights: sow the weights as `attention_weights` in the collection `intermediates`.

        Returns:
            An array of shape `(..., q, out_features)`.

        Raises:
            ValueError: the shapes of inputs or mask do not fit; `num_heads` does not divide the features; `inputs_v` is
                given without `inputs_k`, or `inputs_kv` with one of them; `deterministic` is given twice or, where
                there is dropout, not at all; decoding, a call brings more than one position or one beyond the end of
                the cache; `jax.nn.dot_product_attention` can't serve.
            ArityError: `attention_fn` has no parameter for a wish that would change its result.
            InvalidRngError: there is dropout, and there is no key and no stream that gives one.
            ScopeParamShapeError: parameters were made for another number of features, or the cache for other inputs.
            ScopeCollectionNotFound, ModifyScopeVariableError: decoding, the cache is missing, or is not mutable.
        """
        q, k, v = inputs_of(self, inputs_q, inputs_k, inputs_v, inputs_kv)
        size = head_size(self, self.qkv_features or q.shape[-1])
        project = functools.partial(
            DenseGeneral,
            features=(self.num_heads, size),
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            precision=self.precision,
            dot_general=self.qkv_dot_general,
            dot_general_cls=self.qkv_dot_general_cls,
        )
        query, key, value = project(name="query")(q), project(name="key")(k), project(name="value")(v)
        if self.normalize_qk:
            norm = functools.partial(LayerNorm, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
            query, key = norm(name="query_ln")(query), norm(name="key_ln")(key)

        visible = None
        if self.decode:
            key, value, visible = with_cache(self, query, key, value)
        if mask is not None:
            mask = mask if isinstance(mask, jax.Array) else jnp.asarray(mask)
            shape = (*query.shape[:-3], self.num_heads, query.shape[-3], key.shape[-3])
            check_broadcasts(place(self), "mask", mask.shape, shape)
            mask = mask if visible is None else jnp.logical_and(mask, visible)
        else:
            mask = visible
        check_rate(place(self), self.dropout_rate)
        if self.dropout_rate > 0.0:
            deterministic = merge_param("deterministic", self.deterministic, deterministic)
            if not deterministic and dropout_rng is None:
                dropout_rng = self.make_rng("dropout")
        else:
            deterministic = True
        return DenseGeneral(
            features=self.out_features or q.shape[-1],
            axis=(-2, -1),
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.out_kernel_init or self.kernel_init,
            bias_init=self.out_bias_init or self.bias_init,
            precision=self.precision,
            dot_general=self.out_dot_general,
            dot_general_cls=self.out_dot_general_cls,
            name="out",
        )(attend(self, query, key, value, mask, dropout_rng, deterministic, sow_weights))


class MultiHeadAttention(MultiHeadDotProductAttention):
    """See `MultiHeadDotProductAttention`: this is the same layer, and its automatic name is `MultiHeadAttention_0`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.MultiHeadAttention(num_heads=2).init_with_output(jax.random.key(0), jnp.ones((1, 5, 6)))[0].shape
        (1, 5, 6)
    """


class SelfAttention(MultiHeadDotProductAttention):
    """See `MultiHeadDotProductAttention`, which this is with one input for queries, keys and values.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> x = jnp.ones((1, 5, 6))
        >>> mask = nn.make_causal_mask(x[..., 0])
        >>> nn.SelfAttention(num_heads=2).init_with_output(jax.random.key(0), x, mask)[0].shape
        (1, 5, 6)
    """

    @compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs_q: ArrayLike,
        mask: ArrayLike | None = None,
        deterministic: bool | None = None,
        dropout_rng: PRNGKey | None = None,
        sow_weights: bool = False,
    ) -> Array:
        """Apply the layer; see `MultiHeadDotProductAttention`."""
        return super().__call__(
            inputs_q, mask=mask, deterministic=deterministic, dropout_rng=dropout_rng, sow_weights=sow_weights
        )
