r"""The function that does the attention of a layer: Linen's, a user's, or the one of `jax.nn`.

    attend : (module, query[..., q, h, d], key[..., k, h, d], value[..., k, h, d]) -> array[..., q, h, d]

`jax.nn.dot_product_attention` never makes the array of weights where it has a kernel for the device, and takes the
softmax in float32. It gives no weights to drop or to sow.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from liftax import errors
from liftax.nn.attention.dot_product import dot_product_attention
from liftax.nn.support.location import place
from liftax.typing import Array, PRNGKey

__all__: list[str] = []


def attend(
    module: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    dropout_rng: PRNGKey | None,
    deterministic: bool,
    sow_weights: bool,
) -> Array:
    """Return what `module.attention_fn` makes of query, key and value, with the fields of `module`."""
    fn = module.attention_fn
    options: dict[str, Any] = {
        "mask": mask,
        "dropout_rng": dropout_rng,
        "dropout_rate": module.dropout_rate,
        "broadcast_dropout": module.broadcast_dropout,
        "deterministic": deterministic,
        "dtype": module.dtype,
        "precision": module.precision,
        "force_fp32_for_softmax": module.force_fp32_for_softmax,
        "qk_attn_weights_einsum": _made(module.qk_attn_weights_einsum_cls),
        "attn_weights_value_einsum": _made(module.attn_weights_value_einsum_cls),
    }
    if sow_weights:
        options["module"] = module
    if fn is dot_product_attention:
        return fn(query, key, value, **options)
    if _unwrapped(fn) is jax.nn.dot_product_attention:
        return _fused(module, fn, query, key, value, options)
    return fn(query, key, value, **_taken(module, fn, options))


def _made(cls: Callable[[], Any] | None) -> Any:
    return None if cls is None else cls()


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _wishes(options: dict[str, Any]) -> dict[str, str]:
    """Return those options that change the result and so can't be left out, and what each is for."""
    wishes = {
        "mask": options["mask"] is not None and "a mask",
        "dropout_rate": not options["deterministic"] and f"dropout_rate={options['dropout_rate']}",
        "module": "module" in options and "sow_weights=True",
        "force_fp32_for_softmax": options["force_fp32_for_softmax"] and "force_fp32_for_softmax=True",
        "qk_attn_weights_einsum": options["qk_attn_weights_einsum"] and "qk_attn_weights_einsum_cls",
        "attn_weights_value_einsum": options["attn_weights_value_einsum"] and "attn_weights_value_einsum_cls",
    }
    return {name: text for name, text in wishes.items() if text}


def _taken(module: Any, fn: Callable[..., Array], options: dict[str, Any]) -> dict[str, Any]:
    """Return those of `options` that `fn` has a parameter for."""
    parameters = inspect.signature(fn).parameters
    known = set(parameters)
    if "module" in options and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        known.add("module")
    if known & {"dropout_rng", "deterministic"}:
        known.add("dropout_rate")  # the rate may be one of its own
    for name, wish in _wishes(options).items():
        if name not in known:
            raise errors.ArityError(
                f"{place(module)} was given {wish}, and its attention_fn {getattr(_unwrapped(fn), '__name__', fn)} has "
                f"no parameter {name!r}, so it would have no effect. Give attention_fn that parameter, by name."
            )
    return {name: value for name, value in options.items() if name in parameters or name == "module"}


def _fused(
    module: Any, fn: Callable[..., Array], query: Array, key: Array, value: Array, options: dict[str, Any]
) -> Array:
    """Return what `jax.nn.dot_product_attention` makes of arrays with any number of batch axes, and of any mask."""
    wishes = _wishes(options)
    if module.precision is not None:
        wishes["precision"] = f"precision={module.precision}"
    for name in ("mask", "force_fp32_for_softmax"):  # its softmax is in float32 anyway
        wishes.pop(name, None)
    if wishes:
        raise ValueError(
            f"{place(module)} was given {' and '.join(wishes.values())}, which jax.nn.dot_product_attention has no "
            "means for: it never makes the weights. Leave that out, or take attention_fn=nn.dot_product_attention."
        )
    *batch, _, _, _ = query.shape
    mask = options["mask"]
    if mask is not None:
        mask = mask if mask.dtype == jnp.bool_ else mask != 0
        mask = jnp.reshape(mask, (1,) * (query.ndim - mask.ndim) + mask.shape)
        if len(batch) != 1:
            mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-3:])).reshape(-1, *mask.shape[-3:])
    if len(batch) != 1:
        query, key, value = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
    given = {} if mask is None else {"mask": mask}
    return fn(query, key, value, **given).reshape(*batch, *query.shape[-3:-1], value.shape[-1])
