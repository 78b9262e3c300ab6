"""Embedding: rows of a table, found by index.

    Embed : int[...] -> array[..., features]

Looking up rows is the product with one-hot vectors, at the cost of reading the rows that are asked for.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module
from liftax.nn import dtypes
from liftax.nn.dtypes import PromoteDtype
from liftax.nn.initializers import variance_scaling
from liftax.nn.support.location import place
from liftax.nn.support.tracing import traced_once, untraced
from liftax.typing import Array, Initializer

__all__ = ["Embed"]


class Embed(Module):
    r"""Look up one vector for each integer of the input.

    $$y_{\dots j} = E_{x_{\dots} j}$$

    Parameters (collection `params`): `embedding`, $E$, of shape `(num_embeddings, features)`. Initializing draws from
    the stream `params`; applying draws nothing.

    A negative index counts from the end of the table. Any other index outside `[0, num_embeddings)` gives a row of NaN,
    and no gradient, since an error can't be raised from a compiled program. A table with one row gives that row for
    every index.

    Args:
        num_embeddings: the number of rows of the table.
        features: the size of each row.
        dtype: the dtype of the result; None for the dtype of the table.
        param_dtype: the dtype in which the table is made.
        embedding_init: the initializer of `embedding`.
        promote_dtype: the function that casts the table; see `liftax.nn.dtypes.promote_dtype`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Embed(num_embeddings=5, features=3)
        >>> variables = layer.init(jax.random.key(0), jnp.array([0]))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'embedding': (5, 3)}}
        >>> layer.apply(variables, jnp.array([[0, 4], [1, -1]])).shape
        (2, 2, 3)
        >>> layer.apply(variables, jnp.ones((7, 3)), method="attend").shape
        (7, 5)

    Source:
        `attend`: Press and Wolf, Using the Output Embedding to Improve Language Models, 2017.
    """

    num_embeddings: int
    features: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    embedding_init: Initializer = variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    promote_dtype: PromoteDtype = dtypes.promote_dtype

    def setup(self) -> None:
        """Make the table, for `__call__` and `attend` alike."""
        shape = (self.num_embeddings, self.features)
        self.embedding = self.param("embedding", self.embedding_init, shape, self.param_dtype)

    def __call__(self, inputs: ArrayLike) -> Array:
        """Look up the rows of the table.

        Args:
            inputs: indices, of any shape and any integer dtype.

        Returns:
            An array of shape `(*inputs.shape, features)`.

        Raises:
            ValueError: `inputs` is not of an integer dtype.
        """
        index = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
        if not jnp.issubdtype(index.dtype, jnp.integer):
            raise ValueError(
                f"{place(self)} got inputs of dtype {index.dtype.name}, expected integers: they are indices of rows. "
                "Cast them, or use attend for inputs that are vectors."
            )
        own = self.promote_dtype is dtypes.promote_dtype
        return (_rows if own else untraced(_rows))(
            self.embedding, index, promote_dtype=self.promote_dtype, dtype=self.dtype
        )

    def attend(self, query: ArrayLike) -> Array:
        r"""Return the inner product of each query with each row of the table.

        $$y_{\dots k} = \sum_j q_{\dots j} E_{kj}$$

        This is the last layer of a model that ties its output weights to its embedding.

        Args:
            query: shape `(..., features)`, any numeric dtype.

        Returns:
            An array of shape `(..., num_embeddings)`, in `dtype`, or in the promoted dtype of query and table.

        Raises:
            ValueError: the last axis of `query` does not have the size `features`.
        """
        shape = jnp.shape(query)
        if shape[-1:] != (self.features,):
            raise ValueError(
                f"attend at {place(self)} got a query of shape {shape}, expected (..., {self.features}). The last axis "
                "of a query has the size of a row of the table."
            )
        own = self.promote_dtype is dtypes.promote_dtype
        return (_products if own else untraced(_products))(
            query if isinstance(query, jax.Array) else jnp.asarray(query),
            self.embedding,
            promote_dtype=self.promote_dtype,
            dtype=self.dtype,
        )


@traced_once
def _rows(table: Array, index: Array, *, promote_dtype: PromoteDtype, dtype: DTypeLike | None) -> Array:
    """Return the rows of `table` at `index`."""
    (table,) = promote_dtype(table, dtype=dtype, inexact=False)
    size, features = table.shape
    if size == 1:
        return jnp.broadcast_to(table, (*index.shape, features))
    if size > jnp.iinfo(index.dtype).max:  # int8 can't hold the row that a negative index means
        index = index.astype(jnp.int32)
    return jnp.take(table, index, axis=0)


@traced_once
def _products(x: Array, table: Array, *, promote_dtype: PromoteDtype, dtype: DTypeLike | None) -> Array:
    """Return `x @ table.T`."""
    x, table = promote_dtype(x, table, dtype=dtype)
    # Contracting with the second axis of the table spares a transpose, forwards and backwards.
    return lax.dot_general(x, table, (((x.ndim - 1,), (1,)), ((), ())))
