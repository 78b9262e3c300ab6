"""One cell of the table: a wrapped model, and the same model called as its library calls it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

KEY = jax.random.key(5)


class Case(NamedTuple):
    """A model.

    Args:
        wrapper: the module of liftax.
        variables: the types of the wrapper's variables: most cells compare programs, which needs no values.
        x: an argument.
        own: `(variables, x, rngs=rngs) -> (out, moved state)` by the library's own means.
        rngs: the rng streams of a call.
        moved: the collections that a call writes.
    """

    wrapper: Any
    variables: Any
    x: jax.Array
    own: Callable[..., tuple[Any, Any]]
    rngs: dict[str, Any]
    moved: tuple[str, ...]

    def values(self) -> Any:
        """Return variables."""
        return _init(self.wrapper, self.rngs, self.x)


def wrapped(wrapper: Any, x: jax.Array, own: Any, moved: tuple[str, ...], streams: tuple[str, ...] = ()) -> Case:
    """Return the case of a wrapper that draws from `streams`."""
    rngs = dict.fromkeys(streams, KEY)
    return Case(wrapper, jax.eval_shape(lambda: _init(wrapper, rngs, x)), x, own, rngs, moved)


def _init(wrapper: Any, rngs: Any, x: Any) -> Any:
    return wrapper.init({"params": jax.random.key(1), **rngs}, x)


def table() -> jax.Array:
    return jax.random.normal(jax.random.key(2), (4, 3))


def image() -> jax.Array:
    return jax.random.normal(jax.random.key(3), (2, 4, 4, 2))


def sequence(features: int) -> jax.Array:
    return jax.random.normal(jax.random.key(4), (2, 3, features))
