"""Running initializers: those of JAX by way of traces that are kept.

    initialized : (initializer, key, shape, dtype) -> array

A model makes dozens of parameters, of few shapes, with few initializers. Traced, an initializer of
`jax.nn.initializers` costs many times what its operations cost; under `jax.jit(…, inline=True)` it is traced once for
all parameters that agree in shape and dtype, together with the fold that makes its key, and the program gets the
operations that a plain call gives. Outside of a trace only what rounds nothing may run compiled, since values have to
agree with Linen's to the bit, and XLA rounds otherwise where it fuses: zeros, ones, and the fold of a key.

What a user wrote is always called plainly: it may close over anything, and look at its arguments.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.nn import initializers

from liftax import _compat, errors
from liftax.core import refusals, rngs
from liftax.core.shapes import fingerprint, initialized_shapes

TRUSTED = {initializers.zeros.__module__, initializers.normal(1.0).__module__}
"""Modules whose initializers return an array of the shape that they are given, and depend on nothing else."""

_representatives: dict[Any, Callable[..., Any]] = {}
_known: weakref.WeakKeyDictionary[Callable[..., Any], Callable[..., Any] | None] = weakref.WeakKeyDictionary()


def trusted(init_fn: Any) -> bool:
    """Tell whether `init_fn` is an initializer of JAX, or of a layer's module that is listed as `TRUSTED`."""
    return getattr(init_fn, "__module__", "") in TRUSTED


def keyless(init_fn: Any) -> bool:
    """Tell whether `init_fn` is known not to look at its key: the key is counted as drawn then, and not made."""
    return init_fn is initializers.zeros or init_fn is initializers.ones


def initialized(init_fn: Callable[..., Any], key: Any, *args: Any, **kwargs: Any) -> Any:
    """Return `init_fn(key, *args, **kwargs)`.

    Args:
        init_fn: an initializer.
        key: its key; any value if it is `keyless`.
        *args: most often the shape and the dtype.
        **kwargs: handed to `init_fn`.
    """
    return drawn(init_fn, key, (), args, kwargs)


def drawn(
    init_fn: Callable[..., Any], key: Any, suffix: tuple[str | int, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return `init_fn(fold(key, *suffix), *args, **kwargs)`; see `rngs.fold`."""
    if not kwargs and trusted(init_fn):
        try:
            if keyless(init_fn):
                return _filled(init_fn, args)
            if _compat.is_staged(key):
                like = _representative(init_fn)
                if like is not None:
                    return _drawn(key, rngs.word(suffix) if suffix else None, like, args)
        except (TypeError, ValueError):  # such as an argument that can't be hashed: the plain call says what is wrong
            pass
    return init_fn(rngs.fold(key, *suffix), *args, **kwargs)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _filled(init_fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return init_fn(None, *args)


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _drawn(key: Any, word: Any, init_fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return init_fn(key if word is None else jax.random.fold_in(key, word), *args)


def _representative(init_fn: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the first initializer that was seen and does what `init_fn` does, or None where that can't be told."""
    if init_fn not in _known:
        found = fingerprint(init_fn)
        if len(_representatives) > 1024:
            _representatives.clear()
        _known[init_fn] = None if found is None else _representatives.setdefault(found, init_fn)
    return _known[init_fn]


def check_shape(
    value: Any, name: str, where: str, init_fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Raise ScopeParamShapeError if a parameter has another shape than its initializer gives.

    An initializer of JAX takes the shape first: where the parameter has that shape there is nothing to trace, and where
    not, the initializer itself decides. The first argument of a user's may be anything, an array too.
    """
    if trusted(init_fn) and args and isinstance(args[0], tuple) and getattr(value, "shape", None) == args[0]:
        return
    if not callable(init_fn):
        raise refusals.no_initializer("params", name, where, init_fn)
    got = [np.shape(x) for x in jax.tree.leaves(value)]
    expected = initialized_shapes(init_fn, args, kwargs)
    if got != expected:
        one = len(got) == len(expected) == 1
        raise errors.ScopeParamShapeError(
            f"The parameter {name!r} at {where} has shape{'' if one else 's'} {got[0] if one else got}, and its "
            f"initializer expects {expected[0] if one else expected}. Were the variables made for inputs or "
            "hyperparameters of another size?"
        )
