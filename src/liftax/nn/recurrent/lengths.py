"""Sequences of several lengths in one array: padded at the end, with the lengths beside them.

    flip_sequences : (array[..., time, d], int[...]) -> array[..., time, d]

A gather whose slices are whole steps, with the axes of the batch as batching axes: one index for a step, none for its
features. The indices are in bounds by construction, so nothing is traced to bring them there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from liftax.typing import Array

__all__ = ["flip_sequences"]


def flip_sequences(inputs: ArrayLike, seq_lengths: ArrayLike | None, num_batch_dims: int, time_major: bool) -> Array:
    """Turn sequences around, and leave the padding at their ends.

    Args:
        inputs: shape `(*batch, time, ...)`, or `(time, *batch, ...)` with `time_major`.
        seq_lengths: integers of shape `(*batch,)`, from 0 to the number of steps; None for sequences without padding.
        num_batch_dims: the number of axes of the batch.
        time_major: whether time is the first axis.

    Returns:
        An array of the shape of `inputs`. The order of the padding is turned around too.

    Raises:
        ValueError: `inputs` has too few axes, or `seq_lengths` is not as above.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax.nn.recurrent.rnn import flip_sequences
        >>> x = jnp.array([[1, 0, 0], [2, 3, 0], [4, 5, 6]])
        >>> flip_sequences(x, jnp.array([1, 2, 3]), num_batch_dims=1, time_major=False)
        Array([[1, 0, 0],
               [3, 2, 0],
               [6, 5, 4]], dtype=int32)
    """
    x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
    if x.ndim <= num_batch_dims:
        raise ValueError(
            f"flip_sequences got an input of shape {x.shape}, expected one with an axis of time besides "
            f"num_batch_dims={num_batch_dims} axes of the batch."
        )
    time = 0 if time_major else num_batch_dims
    if seq_lengths is None:
        return lax.rev(x, (time,))
    batch = tuple(axis for axis in range(num_batch_dims + 1) if axis != time)
    lengths = check_lengths("flip_sequences", seq_lengths, tuple(x.shape[axis] for axis in batch))
    steps = x.shape[time]
    shape = x.shape[: num_batch_dims + 1]
    from_end = np.arange(steps - 1, -1, -1, dtype=lengths.dtype).reshape(
        [steps if axis == time else 1 for axis in range(len(shape))]
    )
    # Step t of a sequence of n comes from step n - 1 - t. Padding, where that is negative, comes from the padding.
    times = lax.rem(lax.broadcast_in_dim(lengths, shape, batch) + from_end, np.array(steps, lengths.dtype))
    return _gathered(x, times, time, batch, batch)


def at_step(x: Array, lengths: Array) -> Array:
    """Return, from `x` of shape `(time, *batch, ...)`, the last step of each of the sequences that have `lengths`."""
    batch = tuple(range(lengths.ndim))
    # As an unsigned number, the step before the first is beyond the last, which is where the gather puts it.
    times = lax.convert_element_type(lengths, jnp.uint32) - np.uint32(1)
    return _gathered(x, times, 0, tuple(axis + 1 for axis in batch), batch, lax.GatherScatterMode.CLIP)


def check_lengths(where: str, seq_lengths: ArrayLike, batch: tuple[int, ...]) -> Array:
    """Return `seq_lengths` as an array of at least 32 bits; raise an error unless it fits the axes of the batch."""
    lengths = seq_lengths if isinstance(seq_lengths, jax.Array) else jnp.asarray(seq_lengths)
    if lengths.shape != batch:
        raise ValueError(
            f"{where} got seq_lengths of shape {lengths.shape}, expected {batch}: one length for each sequence of the "
            "batch."
        )
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"{where} got seq_lengths of dtype {lengths.dtype}, expected integers.")
    return lengths if lengths.dtype == jnp.int32 else lax.convert_element_type(lengths, jnp.int32)


def _gathered(
    x: Array,
    times: Array,
    time: int,
    batch: tuple[int, ...],
    times_batch: tuple[int, ...],
    mode: lax.GatherScatterMode = lax.GatherScatterMode.PROMISE_IN_BOUNDS,
) -> Array:
    """Return the steps `times` along the axis `time` of `x`, where the axes `batch` of `x` are those of `times`."""
    sizes = tuple(1 if axis == time or axis in batch else size for axis, size in enumerate(x.shape))
    numbers = lax.GatherDimensionNumbers(
        offset_dims=tuple(range(times.ndim, times.ndim + x.ndim - len(batch) - 1)),
        collapsed_slice_dims=(time,),
        start_index_map=(time,),
        operand_batching_dims=batch,
        start_indices_batching_dims=times_batch,
    )
    return lax.gather(x, lax.expand_dims(times, (times.ndim,)), numbers, sizes, mode=mode)
