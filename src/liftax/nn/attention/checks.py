"""What attention asks of its inputs, checked before anything is traced, and in the words of attention."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from liftax.nn.support.location import place
from liftax.typing import Array

__all__: list[str] = []


def check_broadcasts(where: str, name: str, shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    """Check that an array that is added to the weights, or masks them, does not ask for more of them."""
    fits = len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))
    if not fits:
        raise ValueError(
            f"{where} got a {name} of shape {shape}, expected one that broadcasts to (..., heads, q, k) = {to}."
        )


def check_rate(where: str, rate: float) -> None:
    """Check the rate of dropout, which divides by `1 - rate`."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"{where} got dropout_rate={rate}, expected a probability from 0 to below 1.")


def check_heads(where: str, query: Array, key: Array, value: Array | None = None) -> None:
    """Check that query, key and value agree in their axes: `(..., length, heads, size)`."""
    given = {"query": query, "key": key} | ({} if value is None else {"value": value})
    shapes = ", ".join(f"{name} {x.shape}" for name, x in given.items())
    if any(x.ndim < 3 for x in given.values()):
        expected = "three axes at least: (..., length, heads, size)"
    elif len({x.ndim for x in given.values()}) > 1:
        expected = "arrays of one rank"
    elif len({x.shape[:-3] for x in given.values()}) > 1:
        expected = "the same axes of the batch, which are all but the last three"
    elif len({x.shape[-2] for x in given.values()}) > 1:
        expected = "one number of heads, which is the last axis but one"
    elif query.shape[-1] != key.shape[-1]:
        expected = "query and key to be of one size, which is the last axis"
    elif value is not None and key.shape[-3] != value.shape[-3]:
        expected = "a value for each key, along the last axis but two"
    else:
        return
    raise ValueError(f"{where} got the shapes {shapes}, expected {expected}.")


def inputs_of(
    module: Any, q: ArrayLike, k: ArrayLike | None, v: ArrayLike | None, kv: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Return what queries, keys and values are made of, from the arguments of a layer."""
    if kv is not None:
        if k is not None or v is not None:
            raise ValueError(
                f"{place(module)} got inputs_kv together with inputs_k or inputs_v, expected one or the other: "
                "inputs_kv is both of them."
            )
        k = kv
    elif k is None and v is not None:
        raise ValueError(
            f"{place(module)} got inputs_v without inputs_k, expected both, or inputs_k alone, which then serves for "
            "values too."
        )
    q = q if isinstance(q, jax.Array) else jnp.asarray(q)
    k = q if k is None else k if isinstance(k, jax.Array) else jnp.asarray(k)
    v = k if v is None else v if isinstance(v, jax.Array) else jnp.asarray(v)
    _check_inputs(module, q, k, v)
    return q, k, v


def head_size(module: Any, features: int) -> int:
    """Return the size of each head, where all of them together have `features`."""
    heads = module.num_heads
    if heads < 1 or features % heads:
        field = "the features of inputs_q" if module.qkv_features is None else "qkv_features"
        raise ValueError(
            f"{place(module)} got num_heads={heads}, which does not divide {field}, {features}. Choose a number of "
            "heads that does, or set qkv_features to a multiple of it."
        )
    return features // heads


def _check_inputs(module: Any, inputs_q: Array, inputs_k: Array, inputs_v: Array) -> None:
    """Check that the inputs of a layer agree in all axes but the last: `(..., length, features)`."""
    given = {"inputs_q": inputs_q, "inputs_k": inputs_k, "inputs_v": inputs_v}
    if inputs_k is inputs_q and inputs_v is inputs_q:
        given = {"inputs_q": inputs_q}
    shapes = ", ".join(f"{name} {x.shape}" for name, x in given.items())
    if any(x.ndim < 2 for x in given.values()):
        expected = "two axes at least: (..., length, features)"
    elif len({x.ndim for x in given.values()}) > 1 or len({x.shape[:-2] for x in given.values()}) > 1:
        expected = "the same axes of the batch, which are all but the last two"
    elif inputs_k.shape[-2] != inputs_v.shape[-2]:
        expected = "a value for each key, along the last axis but one"
    else:
        return
    hint = ""
    if (
        inputs_v is not inputs_k
        and inputs_v.ndim > 2
        and inputs_v.shape[-2:] == (inputs_q.shape[-2], inputs_k.shape[-2])
    ):
        hint = " If the third argument is a mask, give it by name: mask=…"
    raise ValueError(f"{place(module)} got the shapes {shapes}, expected {expected}.{hint}")
