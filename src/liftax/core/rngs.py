"""Rng streams: one key a stream at the root, and every draw a fold of where it happens.

    draw : (key of the stream, path of the module, how often it drew before) -> key

The path and the count are static, so they are hashed once (SHA-1, first four bytes, big-endian) into one 32-bit word
and folded into the key by a single `jax.random.fold_in`. This is the rule of Flax Linen, followed to the bit, so that
parameters and dropout masks agree for the same key.
"""

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import errors
from liftax.typing import PRNGKey


def fold(key: PRNGKey, *suffix: str | int) -> PRNGKey:
    """Fold static data, such as a module path and a counter, into `key`.

    Args:
        key: a key, typed or raw.
        *suffix: strings and non-negative integers.

    Returns:
        A key of the same kind; `key` itself when there is nothing to fold.

    Example:
        >>> import jax
        >>> from liftax.core import rngs
        >>> key = jax.random.key(0)
        >>> int(jax.random.key_data(rngs.fold(key, 'Dense_0', 1))[0])
        3043437727
    """
    return _folded(key, word(suffix)) if suffix else key


# Under an inlined jit: eager, one call of a compiled function; traced, one equation and no more checks.
_folded = jax.jit(jax.random.fold_in, inline=True)


@functools.lru_cache(maxsize=16384)
def word(suffix: tuple[str | int, ...]) -> np.uint32:
    """Return what `fold` folds into a key for `suffix`."""
    sha = hashlib.sha1()
    for part in suffix:
        if isinstance(part, str):
            sha.update(part.encode("utf-8"))
        else:
            sha.update(part.to_bytes((part.bit_length() + 7) // 8, byteorder="big"))
    return np.uint32(int.from_bytes(sha.digest()[:4], byteorder="big"))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rng"], meta_fields=["suffix"])
@dataclasses.dataclass(frozen=True)
class LazyRng:
    """A key, and what is still to be folded into it: for code that handles the keys of Linen's scopes.

    liftax hands out plain keys. A pytree with the key as its leaf.

    Args:
        rng: a key, typed or raw.
        suffix: strings and non-negative integers.

    Example:
        >>> import jax
        >>> from liftax.core.scope import LazyRng
        >>> lazy = LazyRng.create(jax.random.key(0), 'Dense_0', 1)
        >>> int(jax.random.key_data(lazy.as_jax_rng())[0]), lazy.clear_suffix().suffix
        (3043437727, ())
    """

    rng: PRNGKey
    suffix: tuple[str | int, ...] = ()

    @staticmethod
    def create(rng: "LazyRng | PRNGKey", *suffix: str | int) -> "LazyRng":
        """Return `rng` with more to be folded into it."""
        return LazyRng(rng.rng, rng.suffix + suffix) if isinstance(rng, LazyRng) else LazyRng(rng, suffix)

    def as_jax_rng(self) -> PRNGKey:
        """Return the key with the suffix folded in."""
        return fold(self.rng, *self.suffix)

    def clear_suffix(self) -> "LazyRng":
        """Return the key without the suffix."""
        return LazyRng(self.rng)


def is_key(x: Any) -> bool:
    """Tell whether `x` is one rng key: a typed scalar key, or a raw vector of `uint32`."""
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        return False
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x.shape == ()
    return x.dtype == np.uint32 and len(x.shape) == 1


def canonical(rngs: Any, what: str) -> dict[str, PRNGKey]:
    """Return `rngs` as a dict from stream to key; a single key is the `'params'` stream.

    Raises:
        InvalidRngError: `rngs` is neither a key nor a mapping from names to keys.
    """
    if rngs is None:
        return {}
    if is_key(rngs):
        return {"params": rngs}
    if not hasattr(rngs, "items"):
        raise errors.InvalidRngError(
            f"{what}: got rngs of type {type(rngs).__name__}{_shape(rngs)}. Expected a key from jax.random.key(seed), "
            "or a mapping from stream names to keys, such as {'params': key, 'dropout': key}."
        )
    if any(isinstance(key, LazyRng) for key in rngs.values()):
        rngs = {name: _plain(name, key, what) if isinstance(key, LazyRng) else key for name, key in rngs.items()}
    for name, key in rngs.items():
        if not isinstance(name, str) or not is_key(key):
            raise errors.InvalidRngError(
                f"{what}: the rng stream {name!r} has a {type(key).__name__}{_shape(key)}. Expected a key from "
                "jax.random.key(seed)."
            )
    return dict(rngs)


def _plain(name: str, key: LazyRng, what: str) -> PRNGKey:
    if key.suffix:
        raise errors.InvalidRngError(
            f"{what}: the rng stream {name!r} has a LazyRng with {key.suffix} still to be folded in, which draws would "
            "fold otherwise than Linen. Pass key.as_jax_rng()."
        )
    return key.rng


def _shape(x: Any) -> str:
    return f" of shape {x.shape} and dtype {x.dtype}" if hasattr(x, "shape") and hasattr(x, "dtype") else ""
