r"""The cache of keys and values with which attention decodes one position after the other.

    with_cache : (key[..., 1, h, d], value[..., 1, h, d]) -> all keys and values so far, and the mask that shows them

A decoder that writes a text calls the model once for each position. What earlier positions contribute to attention is
their keys and values, which do not change any more: kept, each step costs one position instead of all of them.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from liftax import errors
from liftax._compat import is_tracer
from liftax.module import Module
from liftax.nn.dtypes import constant
from liftax.nn.support.location import place
from liftax.nn.support.tracing import traced_once
from liftax.typing import Array

__all__: list[str] = []


class Attended(NamedTuple):
    """What a query attends to.

    Attributes:
        key: shape `(..., k, h, d)`.
        value: shape `(..., k, h, d)`.
        visible: Boolean, of shape `(..., 1, 1, k)`, False at positions that are still to come; None where all are seen.
    """

    key: Array
    value: Array
    visible: Array | None


def with_cache(module: Module, query: Array, key: Array, value: Array) -> Attended:
    """Make the cache, or add a position to it.

    Where there is no cache, or while initializing, it is made for as many positions as `key` has, and the query attends
    to `key` and `value` as they are.
    """
    made = module.has_variable("cache", "cached_key")
    if not made and not module.is_mutable_collection("cache"):
        raise errors.ScopeCollectionNotFound(
            f"{place(module)} decodes, and the variables hold no cache for it. Make one by init with inputs as long as "
            "the text is to become, and pass it on:\n"
            "  cache = model.init(key, jnp.zeros((batch, length, features)))['cache']\n"
            "  out, updates = model.apply({'params': params, 'cache': cache}, x, mutable=['cache'])"
        )
    keys = module.variable("cache", "cached_key", jnp.zeros, key.shape, key.dtype)
    values = module.variable("cache", "cached_value", jnp.zeros, value.shape, value.dtype)
    index = module.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
    if not made or module.is_initializing():
        return Attended(key, value, None)
    _check(module, query, key, value, keys.value, values.value, index.value)
    if not module.is_mutable_collection("cache"):
        raise errors.ModifyScopeVariableError(
            f"{place(module)} decodes, and the collection 'cache' is immutable, so the position that it adds would be "
            "lost. Pass mutable=['cache'] to apply, and the cache that it returns to the next call."
        )
    keys.value, values.value, index.value, visible = _appended(keys.value, values.value, index.value, key, value)
    return Attended(keys.value, values.value, visible)


@traced_once
def _appended(keys: Array, values: Array, index: Array, key: Array, value: Array) -> tuple[Array, Array, Array, Array]:
    """Return the cache with one position added, and which of its positions are written.

    A position beyond the end has no place. A compiled program can't raise an error, so its value becomes NaN, and with
    it all that attends to it.
    """
    length, axis = keys.shape[-3], keys.ndim - 3
    fits = lax.lt(index, constant(length, index))
    value = lax.select(fits, value, lax.full_like(value, jnp.nan))
    zero = constant(0, index)  # of the index's dtype, as JAX asks for, also where integers are wide
    start = (*(zero,) * axis, index, zero, zero)
    keys = lax.dynamic_update_slice(keys, key, start, allow_negative_indices=False)
    values = lax.dynamic_update_slice(values, value, start, allow_negative_indices=False)
    written = lax.le(lax.iota(index.dtype, length), index)
    visible = lax.broadcast_in_dim(written, (*keys.shape[:-3], 1, 1, length), (axis + 2,))
    return keys, values, lax.add(index, constant(1, index)), visible


def _check(module: Module, query: Array, key: Array, value: Array, keys: Array, values: Array, index: Any) -> None:
    """Check that one position of `key` and `value` can join the cache."""
    *batch, length, heads, size = jnp.shape(keys)
    where = place(module)
    if (query.shape[-3], key.shape[-3]) != (1, 1):
        raise ValueError(
            f"{where} decodes one position in a call, and got {query.shape[-3]} queries and {key.shape[-3]} keys. Give "
            f"it inputs of shape {(*query.shape[:-3], 1, 'features')}; a whole text at once takes a model with "
            "decode=False, which has the same parameters."
        )
    expected = (*batch, 1, heads, size)
    if key.shape != expected or value.shape != expected or jnp.shape(values) != jnp.shape(keys):
        raise errors.ScopeParamShapeError(
            f"cache/cached_key at {where} has shape {jnp.shape(keys)} and cache/cached_value {jnp.shape(values)}: a "
            f"batch of {tuple(batch)}, {length} positions, {heads} heads of size {size}. The call has a batch of "
            f"{key.shape[:-3]} and {key.shape[-2]} heads of size {key.shape[-1]}. Make the cache by init with inputs "
            "of the batch that is to be decoded."
        )
    if key.dtype != keys.dtype or value.dtype != values.dtype:
        raise errors.ScopeParamShapeError(
            f"cache/cached_key at {where} holds {keys.dtype.name} and cache/cached_value {values.dtype.name}, and the "
            f"call has keys of {key.dtype.name} and values of {value.dtype.name}. Make the cache by init with inputs "
            "of the dtype that is to be decoded."
        )
    if jnp.shape(index) or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise errors.ScopeParamShapeError(
            f"cache/cache_index at {where} is {jnp.result_type(index).name}{list(jnp.shape(index))}, expected one "
            "integer: the number of positions so far."
        )
    if not is_tracer(index) and int(index) >= length:
        raise ValueError(
            f"{where} was called for position {int(index)}, and its cache has room for positions 0 to {length - 1}. "
            "Make the cache by init with longer inputs."
        )
