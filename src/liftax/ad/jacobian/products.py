"""The matrix of a linear map between trees, made of its products with unit vectors, a chunk of these at a time.

    columns : (a -o b) -> matrix[b, a]
    rows    : (CT b -o CT a) -> matrix[b, a]

A matrix from a tree `a` to a tree `b` is a tree like `b`, each array of which, of shape `s`, is replaced by a tree like
`a`, where an array of shape `t` is replaced by one of shape `s + t`: what `jax.jacfwd` and `jax.jacrev` return.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Flat:
    """A tree of arrays as one vector.

    Args:
        tree: the tree, of arrays or of `jax.ShapeDtypeStruct`s.
    """

    def __init__(self, tree: Any):
        leaves, self.treedef = jax.tree.flatten(tree)
        self.types = [jax.ShapeDtypeStruct(jnp.shape(x), jax.dtypes.result_type(x)) for x in leaves]
        self.dtype = jnp.result_type(*(t.dtype for t in self.types)) if leaves else jnp.dtype(float)
        self.offsets = np.cumsum([0, *(t.size for t in self.types)]).tolist()

    @property
    def size(self) -> int:
        """The number of numbers."""
        return self.offsets[-1]

    def pack(self, tree: Any) -> Any:
        """Return the numbers of a tree like this one as a vector."""
        leaves = [jnp.ravel(x).astype(self.dtype) for x in jax.tree.leaves(tree)]
        return jnp.concatenate(leaves) if leaves else jnp.zeros(0, self.dtype)

    def unpack(self, vector: Any) -> Any:
        """Return the tree that a vector holds."""
        parts = zip(self.types, self.offsets, strict=False)
        return self.treedef.unflatten([vector[i : i + t.size].reshape(t.shape).astype(t.dtype) for t, i in parts])

    def unpack_unit(self, i: Any) -> Any:
        """Return the tree that is one in place `i` and zero elsewhere."""
        return self.unpack((jnp.arange(self.size) == i).astype(self.dtype))


def columns(push: Callable[[Any], Any], inputs: Flat, outputs: Flat, chunk: int) -> Any:
    """Return the matrix of `push`, a linear map of a tree, by one product for each input, `chunk` at a time."""
    found = jax.lax.map(lambda i: push(inputs.unpack_unit(i)), jnp.arange(inputs.size), batch_size=chunk)

    def arranged(column: Any) -> Any:
        last = jnp.moveaxis(column, 0, -1)
        parts = zip(inputs.types, inputs.offsets, strict=False)
        return inputs.treedef.unflatten(
            [last[..., i : i + t.size].reshape(last.shape[:-1] + t.shape) for t, i in parts]
        )

    return outputs.treedef.unflatten([arranged(c) for c in jax.tree.leaves(found)])


def rows(pull: Callable[[Any], Any], inputs: Flat, outputs: Flat, chunk: int) -> Any:
    """Return the matrix of which `pull` is the transpose, by one product for each output, `chunk` at a time."""
    found = jax.lax.map(lambda i: pull(outputs.unpack_unit(i)), jnp.arange(outputs.size), batch_size=chunk)

    def arranged(t: jax.ShapeDtypeStruct, at: int) -> Any:
        return jax.tree.map(lambda row: row[at : at + t.size].reshape(t.shape + row.shape[1:]), found)

    parts = zip(outputs.types, outputs.offsets, strict=False)
    return outputs.treedef.unflatten([arranged(t, i) for t, i in parts])
