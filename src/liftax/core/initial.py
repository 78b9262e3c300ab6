"""Running initializers: those of JAX by way of traces that are kept.

    initialized : (initializer, key, shape, dtype) -> array

A model makes dozens of parameters, of few shapes, with few initializers. Traced, an initializer of
`jax.nn.initializers` costs many times what its operations cost; under `jax.jit(…, inline=True)` it is traced once for
all parameters that agree in shape and dtype, and the program gets the operations that a plain call gives. Outside of a
trace only what rounds nothing may run compiled, since values have to agree with Linen's to the bit, and XLA rounds
otherwise where it fuses: zeros, ones, and the fold of a key.

What a user wrote is always called plainly: it may close over anything, and look at its arguments.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
from jax.nn import initializers

from liftax import _compat
from liftax.core.shapes import fingerprint

KEYLESS = (initializers.zeros, initializers.ones)
"""Initializers that do not look at their key: it is counted as drawn, and not made."""
TRUSTED = frozenset({initializers.zeros.__module__, initializers.normal(1.0).__module__})
"""Modules whose initializers return an array of the shape that they are given, and depend on nothing else."""

_representatives: dict[Any, Callable[..., Any]] = {}
_known: weakref.WeakKeyDictionary[Callable[..., Any], Callable[..., Any] | None] = weakref.WeakKeyDictionary()


def trusted(init_fn: Any) -> bool:
    """Tell whether `init_fn` is an initializer of JAX."""
    return getattr(init_fn, "__module__", "") in TRUSTED


def keyless(init_fn: Any) -> bool:
    """Tell whether `init_fn` is known to leave its key alone."""
    return any(init_fn is f for f in KEYLESS)


def initialized(init_fn: Callable[..., Any], key: Any, *args: Any, **kwargs: Any) -> Any:
    """Return `init_fn(key, *args, **kwargs)`.

    Args:
        init_fn: an initializer.
        key: its key; any value if it is `keyless`.
        *args: most often the shape and the dtype.
        **kwargs: handed to `init_fn`.
    """
    if not kwargs and trusted(init_fn):
        try:
            if keyless(init_fn):
                return _filled(init_fn, args)
            if _compat.is_staged(key):
                like = _representative(init_fn)
                if like is not None:
                    return _drawn(key, like, args)
        except (TypeError, ValueError):  # such as an argument that can't be hashed: the plain call says what is wrong
            pass
    return init_fn(key, *args, **kwargs)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _filled(init_fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return init_fn(None, *args)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _drawn(key: Any, init_fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return init_fn(key, *args)


def _representative(init_fn: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the first initializer that was seen and does what `init_fn` does, or None where that can't be told."""
    if init_fn not in _known:
        found = fingerprint(init_fn)
        if len(_representatives) > 1024:
            _representatives.clear()
        _known[init_fn] = None if found is None else _representatives.setdefault(found, init_fn)
    return _known[init_fn]
