"""Boxes: a value of a variable together with metadata about its axes.

A box is a pytree node around one array, so it passes through every JAX transform, and derivatives come boxed alike.
Modules read the plain value: `param` unboxes. A box answers to four methods, whatever library it comes from; subclass
`AxisMetadata` to write one.
"""

import abc
from typing import Any, Generic, TypeVar

import jax
import numpy as np

A = TypeVar("A")


class AxisMetadata(Generic[A], metaclass=abc.ABCMeta):
    """Base of boxes. Register the subclass as a pytree node (`flax.struct`, `jax.tree_util.register_dataclass`, …).

    Example:
        >>> import dataclasses, jax, jax.numpy as jnp
        >>> from liftax import core
        >>> @jax.tree_util.register_dataclass
        ... @dataclasses.dataclass
        ... class Named(core.AxisMetadata):
        ...     value: jax.Array
        ...     names: tuple = dataclasses.field(metadata={'static': True})
        ...     def unbox(self): return self.value
        ...     def replace_boxed(self, value): return Named(value, self.names)
        ...     def add_axis(self, index, params): return Named(self.value, ('new', *self.names))
        ...     def remove_axis(self, index, params): return Named(self.value, self.names[1:])
        >>> core.unbox({'kernel': Named(jnp.ones(2), ('features',))})
        {'kernel': Array([1., 1.], dtype=float32)}
    """

    @abc.abstractmethod
    def unbox(self) -> Any:
        """Return the value without its metadata."""

    @abc.abstractmethod
    def replace_boxed(self, value: Any) -> "AxisMetadata":
        """Return a box with the same metadata around `value`."""

    @abc.abstractmethod
    def add_axis(self, index: int, params: dict[Any, Any]) -> "AxisMetadata":
        """Return the metadata after a transform stacked a new axis at `index`."""

    @abc.abstractmethod
    def remove_axis(self, index: int, params: dict[Any, Any]) -> "AxisMetadata":
        """Return the metadata after a transform took the axis at `index` away."""


def is_box(x: Any) -> bool:
    """Tell whether `x` is a box, by what it can do: boxes of Flax are boxes here.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import core, nn
        >>> core.is_box(nn.Partitioned(jnp.ones(2), ('model',))), core.is_box(jnp.ones(2))
        (True, False)
    """
    return isinstance(x, AxisMetadata) or (hasattr(x, "replace_boxed") and hasattr(x, "unbox"))


def unbox(tree: Any) -> Any:
    """Replace every box in `tree` by its value.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> nn.unbox({'kernel': nn.Partitioned(jnp.ones(2), ('model',)), 'bias': 0.0})
        {'bias': 0.0, 'kernel': Array([1., 1.], dtype=float32)}
    """
    if isinstance(tree, jax.Array | np.ndarray):  # by far the most frequent case
        return tree
    if is_box(tree):
        return unbox(tree.unbox())
    return jax.tree.map(lambda x: unbox(x.unbox()) if is_box(x) else x, tree, is_leaf=is_box)


def replace_boxed(tree: Any, values: Any) -> Any:
    """Put `values` into the boxes of `tree`; where `tree` has no box, or `values` is boxed already, take `values`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import core, nn
        >>> box = nn.Partitioned(jnp.ones(1), ('model',))
        >>> core.replace_boxed({'kernel': box}, {'kernel': jnp.zeros(1)})['kernel'].names
        ('model',)
    """
    if is_box(tree):
        return values if is_box(values) else tree.replace_boxed(values)
    if jax.tree.structure(tree, is_leaf=is_box) != jax.tree.structure(values, is_leaf=is_box):
        return values
    put = lambda box, value: box.replace_boxed(value) if is_box(box) and not is_box(value) else value  # noqa: E731
    return jax.tree.map(put, tree, values, is_leaf=is_box)


def add_axis(tree: Any, index: int, params: Any) -> Any:
    """Tell every box in `tree` that a transform stacked a new axis at `index`; `params` are those of the transform."""
    return jax.tree.map(lambda x: x.add_axis(index, params) if is_box(x) else x, tree, is_leaf=is_box)


def remove_axis(tree: Any, index: int, params: Any) -> Any:
    """Tell every box in `tree` that a transform took the axis at `index` away."""
    return jax.tree.map(lambda x: x.remove_axis(index, params) if is_box(x) else x, tree, is_leaf=is_box)
