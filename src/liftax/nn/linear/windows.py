"""The geometry of windows that slide over spatial axes: sizes, strides, dilations, padding.

    per_axis : int or (int, ...) -> (int, ...), one for each spatial axis

Convolutions and pooling check it here, once, before anything is traced, and name the field that can't be.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from liftax.typing import Array

__all__: list[str] = []

Pads = tuple[tuple[int, int], ...]


def per_axis(where: str, field: str, value: Any, n: int) -> tuple[int, ...]:
    """Return `value` as one positive integer for each of `n` spatial axes; None stands for 1."""
    found = (1 if value is None else value,) * n if value is None or isinstance(value, int) else tuple(value)
    if len(found) != n or not all(_is_int(v) and v >= 1 for v in found):
        raise ValueError(
            f"{where} got {field}={value!r}, expected a positive integer, or one for each of the {n} spatial axes."
        )
    return found


def padding_of(where: str, value: Any, n: int, names: Sequence[str]) -> str | Pads:
    """Return a padding as one of `names`, or as a pair of integers for each of `n` spatial axes."""
    if isinstance(value, str):
        if value.upper() in names:
            return value.upper()
    elif _is_int(value):
        return ((value, value),) * n
    elif isinstance(value, Sequence) and len(value) == n:
        pairs = tuple((v, v) if _is_int(v) else tuple(v) if isinstance(v, Sequence) else () for v in value)
        if all(len(pair) == 2 and all(map(_is_int, pair)) for pair in pairs):
            return pairs  # pyright: ignore[reportReturnType]
    raise ValueError(
        f"{where} got padding={value!r}, expected one of {', '.join(map(repr, names))}, an integer, or for each of the "
        f"{n} spatial axes an integer or a pair (before, after)."
    )


def batched(where: str, x: Array, n: int) -> tuple[Array, tuple[int, ...]]:
    """Return `x` with its batch axes made one, and their sizes."""
    if x.ndim < n + 1:
        raise ValueError(
            f"{where} got an input of shape {x.shape}, expected (*batch, {', '.join(['size'] * n)}, features): a "
            f"window over {n} spatial axes needs at least {n + 1} axes."
        )
    batch = x.shape[: x.ndim - n - 1]
    return (x if len(batch) == 1 else jnp.reshape(x, (-1, *x.shape[len(batch) :]))), batch


def unbatched(where: str, y: Array, x: Array, batch: tuple[int, ...]) -> Array:
    """Return `y`, which windows over `x` gave, with its first axis split into those of sizes `batch`."""
    check_fits(where, y, x)
    return y if len(batch) == 1 else jnp.reshape(y, (*batch, *y.shape[1:]))


def check_fits(where: str, y: Array, x: Array) -> None:
    """Check that windows over `x` gave anything."""
    if 0 in y.shape and 0 not in x.shape:
        raise ValueError(
            f"{where} got an input of shape {x.shape}, padding included where it pads by itself, and a window that is "
            "larger than that: there is no place for it. Use more padding, or a smaller window or dilation."
        )


def _is_int(x: Any) -> bool:
    return hasattr(x, "__index__") and not isinstance(x, bool)
