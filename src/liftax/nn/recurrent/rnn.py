"""Recurrent layers: a cell that runs along a sequence.

    RNN : array[..., time, d] -> array[..., time, features]

One lifted `scan` of the cell; of an LSTM its own loop, which can have no other effect where all that it reaches are
parameters. A sequence that is read backwards and put back into order is scanned from its end, and nothing is turned
around, unless something else depends on the number of the step: lengths, variables or rngs.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from liftax import errors
from liftax.core.frozen_dict import FrozenDict
from liftax.explain.functions import demand_pair
from liftax.lift import scan
from liftax.module import Module
from liftax.nn.recurrent.cell import RNNCellBase, check_carry, demand_cell, demand_layers, steps_are_pure
from liftax.nn.recurrent.conv_lstm import ConvLSTMCell
from liftax.nn.recurrent.gru import GRUCell, MGUCell, SimpleCell
from liftax.nn.recurrent.lengths import at_step, check_lengths, flip_sequences
from liftax.nn.recurrent.lstm import LSTMCell, OptimizedLSTMCell
from liftax.nn.support.location import place
from liftax.typing import Array, Filter, PRNGKey

__all__ = [
    "RNN",
    "Bidirectional",
    "ConvLSTMCell",
    "GRUCell",
    "LSTMCell",
    "MGUCell",
    "OptimizedLSTMCell",
    "RNNCellBase",
    "SimpleCell",
    "flip_sequences",
]


class RNN(Module):
    r"""Run a cell along a sequence.

    $$(c_t, y_t) = \mathrm{cell}(c_{t-1}, x_t)$$

    Parameters, collections and rng streams: those of the cell, at `cell`. With the defaults the parameters are the same
    in all steps, and other collections and streams are out of the cell's reach.

    Args:
        cell: a cell; it is called as `cell(carry, inputs)`.
        time_major: whether time is the first axis of the input and the output, or the last one before the features'.
        return_carry: whether to return the last carry too.
        reverse: whether to read the sequence from its end. The output is then in the order of reading.
        keep_order: with `reverse`, whether to put the output into the order of the input.
        unroll: how many steps one iteration of the loop takes.
        variable_axes: as for `nn.scan`, and so all that follows: collections of which each step has its own slice.
        variable_broadcast: collections that are the same in all steps.
        variable_carry: collections that go from step to step.
        split_rngs: the rng streams in the cell's reach, and whether they differ from step to step.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.RNN(nn.GRUCell(features=4), return_carry=True)
        >>> x = jnp.ones((2, 5, 3))  # batch, time, features
        >>> (carry, y), variables = layer.init_with_output(jax.random.key(0), x, seq_lengths=jnp.array([5, 2]))
        >>> carry.shape, y.shape, list(variables['params'])
        ((2, 4), (2, 5, 4), ['cell'])
        >>> bool((carry == y[jnp.array([0, 1]), jnp.array([4, 1])]).all())  # the last step of each sequence
        True
    """

    cell: RNNCellBase
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1
    variable_axes: Mapping[Filter, Any] = FrozenDict()
    variable_broadcast: Filter = "params"
    variable_carry: Filter = False
    split_rngs: Mapping[Filter, bool] = FrozenDict({"params": False})

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Any = None,
        init_key: PRNGKey | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Run the cell.

        Args:
            inputs: shape `(*batch, time, *features)`, or `(time, *batch, *features)` with `time_major`. The cell says
                how many axes the features have: `num_feature_axes`.
            initial_carry: the first carry; None for that of the cell's `initialize_carry`.
            init_key: the key for `initialize_carry`; None for `jax.random.key(0)`. Most carries are zeros.
            seq_lengths: integers of shape `(*batch,)`: how many steps each sequence has. The carry returned is that
                after the last of them, and `reverse` turns around these steps alone. Steps after them are run all the
                same, and their output is not zero. A length of 0 counts as the full length where the carry is taken.
            return_carry: overrides the layer's, if not None.
            time_major: overrides the layer's, if not None.
            reverse: overrides the layer's, if not None.
            keep_order: overrides the layer's, if not None.

        Returns:
            The outputs of the cell, with an axis of time where the input has it; with `return_carry` the pair
            `(carry, outputs)`.

        Raises:
            ValueError: `inputs` has too few axes; `seq_lengths` has another shape than the batch, or is not of
                integers.
            CarryError: the cell can't work with `initial_carry`, or returns a carry of another structure, shape or
                dtype than it gets.
            AuxError: the cell returns no pair.
            TransformTargetError: `cell` is no cell.
            MappedAxisError, ControlFlowError: as for `nn.scan`.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order

        x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
        time = _time_axis(self, x.shape, time_major)
        shape = x.shape[:time] + x.shape[time + 1 :]  # of one step
        batch = len(shape) - self.cell.num_feature_axes
        lengths = None if seq_lengths is None else check_lengths(place(self), seq_lengths, shape[:batch])
        if initial_carry is None:
            with jax.ensure_compile_time_eval():  # a constant, which most cells don't use
                init_key = jax.random.key(0) if init_key is None else init_key
            initial_carry = self.cell.initialize_carry(init_key, shape)

        by_step = lengths is not None or self.variable_axes or any(self.split_rngs.values())
        from_end = reverse and keep_order and not by_step
        flip = reverse and not from_end
        if flip:
            x = flip_sequences(x, lengths, batch, time_major)
        # Each sequence ends with a step of its own, so all carries are kept.
        ends = lengths if return_carry else None

        def step(cell: RNNCellBase, carry: Any, x: Array) -> tuple[Any, Any]:
            new, y = demand_pair(
                cell(carry, x), f"RNN at {place(cell)}", pair="(carry, output)", why="a recurrence", who="the cell",
                remedy="return (carry, None)",
            )  # fmt: skip
            check_carry(self, carry, new)
            return new, ((new, y) if ends is not None else y)

        done = None
        # No subclass, which may override what a step does.
        if type(self.cell) in (LSTMCell, OptimizedLSTMCell) and steps_are_pure(self):
            options = {"time": time, "reverse": from_end, "unroll": self.unroll, "carries": ends is not None}
            done = self.cell.along(initial_carry, x, **options)
        carry, outputs = done or scan(
            step,
            in_axes=time,
            out_axes=(0, time) if ends is not None else time,
            reverse=from_end,
            unroll=self.unroll,
            variable_axes=self.variable_axes,
            variable_broadcast=self.variable_broadcast,
            variable_carry=self.variable_carry,
            split_rngs=self.split_rngs,
        )(self.cell, initial_carry, x)
        if ends is not None:
            carries, outputs = outputs
            carry = jax.tree.map(lambda c: at_step(c, ends), carries)
        if flip and keep_order:
            outputs = jax.tree.map(lambda y: flip_sequences(y, lengths, batch, time_major), outputs)
        return (carry, outputs) if return_carry else outputs


class _Recurrent(Protocol):
    """What `Bidirectional` runs: anything that is called as an `RNN` is."""

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: PRNGKey | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any: ...


def _concatenate(a: Array, b: Array) -> Array:
    return jnp.concatenate([a, b], axis=-1)


class Bidirectional(Module):
    """Run one recurrent layer along a sequence, and another one from its end, and merge their outputs.

    Parameters, collections and rng streams: those of the layers, at `forward_rnn` and `backward_rnn`.

    Args:
        forward_rnn: the layer that reads from the start, such as an `RNN`.
        backward_rnn: the layer that reads from the end. The same layer twice has its parameters once.
        merge_fn: what makes one output of the two of a step, which stand in the order of the input: called with each
            array of the one and of the other. By default it puts the features of one after those of the other.
        time_major: as for `RNN`; those of the layers don't count.
        return_carry: whether to return the last carries too; those of the layers don't count.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4)))
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
        >>> y.shape, sorted(variables['params'])
        ((2, 5, 8), ['backward_rnn', 'forward_rnn'])

    Source:
        Schuster and Paliwal, Bidirectional Recurrent Neural Networks, 1997.
    """

    forward_rnn: _Recurrent
    backward_rnn: _Recurrent
    merge_fn: Callable[[Array, Array], Array] = _concatenate
    time_major: bool = False
    return_carry: bool = False

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Any = None,
        init_key: PRNGKey | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Run both layers.

        Args:
            inputs: as for `RNN`, and so all that is not described here.
            initial_carry: the pair of the layers' first carries.
            init_key: split, one key for each of the layers.
            seq_lengths: how many steps each sequence has.
            return_carry: whether to return the last carries too.
            time_major: whether time is the first axis.
            reverse: has no effect: both directions are read.
            keep_order: has no effect: the output is in the order of the input.

        Returns:
            The merged outputs; with `return_carry` the pair `((forward carry, backward carry), outputs)`.

        Raises:
            CarryError: `initial_carry` is no pair.
            TransformTargetError: a layer is a cell.
            ValueError, AuxError, MappedAxisError, ControlFlowError: as for `RNN`.
        """
        time_major = self.time_major if time_major is None else time_major
        return_carry = self.return_carry if return_carry is None else return_carry
        x = inputs if isinstance(inputs, jax.Array) else jnp.asarray(inputs)
        if initial_carry is None:
            initial_carry = None, None
        elif not isinstance(initial_carry, tuple | list) or len(initial_carry) != 2:
            raise errors.CarryError(
                f"{place(self)} got an initial_carry of type {type(initial_carry).__name__}, expected a pair "
                "(forward carry, backward carry)."
            )
        keys = (None, None) if init_key is None else jax.random.split(init_key)
        (forward_carry, forward), (backward_carry, backward) = (
            layer(
                x, initial_carry=carry, init_key=key, seq_lengths=seq_lengths, return_carry=True,
                time_major=time_major, **order,
            )
            for layer, carry, key, order in zip(
                demand_layers(self), initial_carry, keys,
                ({"reverse": False}, {"reverse": True, "keep_order": True}), strict=True,
            )
        )  # fmt: skip
        outputs = jax.tree.map(self.merge_fn, forward, backward)
        return ((forward_carry, backward_carry), outputs) if return_carry else outputs


def _time_axis(rnn: RNN, shape: tuple[int, ...], time_major: bool) -> int:
    """Return which axis of an input of `shape` is that of time."""
    axes = demand_cell(rnn).num_feature_axes
    if len(shape) <= axes:
        expected = "(time, *batch, *features)" if time_major else "(*batch, time, *features)"
        raise ValueError(
            f"{place(rnn)} got an input of shape {shape}, expected one of shape {expected}, with "
            f"{'one axis' if axes == 1 else f'{axes} axes'} of features. Give it an axis of time."
        )
    return 0 if time_major else len(shape) - axes - 1
