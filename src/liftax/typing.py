"""Names for the types that the public API speaks of."""

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import jax

if TYPE_CHECKING:
    from liftax.core.filters import DenyList

Array: TypeAlias = jax.Array
PRNGKey: TypeAlias = jax.Array
"""A typed key from `jax.random.key`, or a raw `uint32` key from `jax.random.PRNGKey`."""

Filter: TypeAlias = Union[bool, str, Collection[str], "DenyList"]
"""Which collections (or rng streams): all, none, one name, several names, or all but some."""

Rngs: TypeAlias = Mapping[str, PRNGKey]
Variables: TypeAlias = Mapping[str, Any]
"""Collection name -> nested mapping of arrays: `{'params': {'Dense_0': {'kernel': …}}}`."""

Path: TypeAlias = tuple[str, ...]
Initializer: TypeAlias = Callable[..., Any]
AxisName: TypeAlias = Hashable
PyTree: TypeAlias = Any
