"""Layers that draw random numbers in every call."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp

from liftax import errors

from ..table import KEY, Mistake, Row, numbers

ON = {"deterministic": False}
ANY = "a mask is drawn for inputs of any size"
DROPOUT = ("dropout",)
OTHER_KEY = "`nn.jit` folds keys where it is called, and `nn.scan` splits them: other masks, in Linen as here"


def dropout_by_hand(_: Any, x: jax.Array, keys: Any) -> jax.Array:
    keep = jax.random.bernoulli(jax.random.fold_in(keys["dropout"], FIRST_DRAW), 0.6, x.shape)
    return jax.lax.select(keep, x / 0.6, jnp.zeros_like(x))


# What a module at the root folds into its key for the first draw from a stream.
FIRST_DRAW = int.from_bytes(hashlib.sha1((1).to_bytes(1, "big")).digest()[:4], "big")

ROWS = [
    Row(
        "Dropout",
        "default",
        lambda lib, dtype: lib.Dropout(0.4, deterministic=False),
        rngs=DROPOUT,
        alone={"lifted-jit": OTHER_KEY, "lifted-scan": OTHER_KEY},
        by_hand=dropout_by_hand,
        any_width=ANY,
        mistakes=(
            Mistake("rng", errors.InvalidRngError, "/inner.*'dropout'", made=True, rngs=False),
            Mistake("mode", ValueError, "deterministic", make=lambda lib, _: lib.Dropout(0.5)),
            Mistake("mode-twice", ValueError, "deterministic", call={"deterministic": True}),
            Mistake(
                "rate",
                ValueError,
                r"/inner.*rate=1\.5.*0 to 1",
                make=lambda lib, _: lib.Dropout(1.5, deterministic=False),
            ),
            Mistake("nan", ValueError, "rate=nan", make=lambda lib, _: lib.Dropout(float("nan"), deterministic=False)),
            Mistake(
                "axis",
                ValueError,
                r"broadcast_dims=\(2,\).*\(4, 3\)",
                make=lambda lib, _: lib.Dropout(0.5, (2,), deterministic=False),
            ),
            Mistake(
                "integers", TypeError, r"/inner \(Dropout\).*int32", inputs=(lambda _: jnp.arange(3, dtype=jnp.int32),)
            ),
        ),
    ),
    Row(
        "Dropout",
        "broadcast",
        lambda lib, dtype: lib.Dropout(0.3, (-1, 0), deterministic=False),
        (numbers(2, 4, 3),),
        dtypes=("float32",),
        rngs=DROPOUT,
    ),
    Row("Dropout", "all", lambda lib, dtype: lib.Dropout(1.0), call=ON, rngs=DROPOUT),
    Row("Dropout", "none", lambda lib, dtype: lib.Dropout(0.0), call=ON, rngs=DROPOUT),
    Row("Dropout", "deterministic", lambda lib, dtype: lib.Dropout(0.4), call={"deterministic": True}),
    Row(
        "Dropout",
        "stream",
        lambda lib, dtype: lib.Dropout(0.4, rng_collection="noise"),
        call=ON,
        rngs=("noise",),
        mistakes=(Mistake("rng", errors.InvalidRngError, "/inner.*'noise'", made=True, rngs=False),),
    ),
    Row(
        "Dropout",
        "key",
        lambda lib, dtype: lib.Dropout(0.4),
        call={"deterministic": False, "rng": KEY},
        dtypes=("float32",),
    ),
]
