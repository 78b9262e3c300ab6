r"""Recurrent cells: one step of a recurrence.

    cell : (carry, array[..., d]) -> (carry, array[..., features])

What goes from step to step is the carry, which `initialize_carry` makes. `liftax.nn.RNN` runs a cell along a sequence.
Here is what cells share; the cells themselves are in `liftax.nn.recurrent.gru` and `liftax.nn.recurrent.lstm`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from liftax import errors
from liftax.core import filters
from liftax.core.calls import calls
from liftax.module import Module, nowrap
from liftax.nn import activation
from liftax.nn.activation import sigmoid, tanh
from liftax.nn.initializers import lecun_normal, orthogonal, zeros, zeros_init
from liftax.nn.linear.dense import Dense
from liftax.nn.support.location import place
from liftax.nn.support.tracing import untraced
from liftax.typing import Array, Initializer, PRNGKey

__all__ = ["RNNCellBase"]


class RNNCellBase(Module):
    """The base of recurrent cells: a module that is called as `cell(carry, inputs)` and returns `(carry, output)`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Sum(nn.RNNCellBase):
        ...     num_feature_axes = 1
        ...     def initialize_carry(self, rng, input_shape):
        ...         return jnp.zeros(input_shape)
        ...     def __call__(self, carry, inputs):
        ...         return carry + inputs, carry + inputs
        >>> nn.RNN(Sum()).apply({}, jnp.ones((4, 1))).ravel()
        Array([1., 2., 3., 4.], dtype=float32)
    """

    @nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> Any:
        """Return the carry of the first step.

        Args:
            rng: a key for those carries that are drawn.
            input_shape: the shape of the input of one step.

        Returns:
            A pytree of arrays.

        Raises:
            NotImplementedError: the class doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define initialize_carry(rng, input_shape).")

    if TYPE_CHECKING:

        def __call__(self, carry: Any, inputs: Any) -> tuple[Any, Any]: ...  # noqa: D102

    @property
    def num_feature_axes(self) -> int:
        """The number of axes of an input that follow its batch axes: 1, and with convolutions those of space too."""
        raise NotImplementedError(f"{type(self).__name__} does not define num_feature_axes.")


class StateCell(RNNCellBase):
    """A cell whose carry is one array, of shape `(..., features)`."""

    @nowrap
    def initialize_carry(self: Any, rng: PRNGKey, input_shape: tuple[int, ...]) -> Array:
        """Return the carry of the first step; see `RNNCellBase.initialize_carry`."""
        return self.carry_init(rng, carry_shape(self, input_shape), self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """See `RNNCellBase.num_feature_axes`."""
        return 1


class MemoryCell(RNNCellBase):
    """A cell whose carry is a pair of arrays of one shape: the memory `c` and the state `h`."""

    @nowrap
    def initialize_carry(self: Any, rng: PRNGKey, input_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Return the carry of the first step; see `RNNCellBase.initialize_carry`."""
        shape = carry_shape(self, input_shape)
        # Zeros are not drawn, so there is no need of two keys.
        keys = (rng, rng) if self.carry_init is zeros else jax.random.split(rng)
        return self.carry_init(keys[0], shape, self.param_dtype), self.carry_init(keys[1], shape, self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """See `RNNCellBase.num_feature_axes`."""
        return 1


class GatedCell(RNNCellBase):
    """The fields of cells with gates, which `GRUCell` describes."""

    features: int
    gate_fn: Callable[..., Any] = sigmoid
    activation_fn: Callable[..., Any] = tanh
    kernel_init: Initializer = lecun_normal()
    recurrent_kernel_init: Initializer = orthogonal()
    bias_init: Initializer = zeros_init()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros_init()


def carry_shape(cell: Any, input_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a part of the carry, for inputs of `input_shape`."""
    _check_rank(cell, tuple(input_shape), type(cell).__name__)
    return (*input_shape[:-1], cell.features)


def one_state(cell: Any, carry: Any, inputs: ArrayLike) -> tuple[Array, Array]:
    """Return `(h, x)`: carry and input of a `StateCell` as arrays, checked."""
    (h,), x = _checked(cell, carry, (carry,), inputs, "an array")
    return h, x


def memory_and_state(cell: Any, carry: Any, inputs: ArrayLike | jax.ShapeDtypeStruct) -> tuple[Array, Array, Any]:
    """Return `(c, h, x)`: both parts of the carry, and the input, of a `MemoryCell` as arrays, checked.

    Of the `inputs` a type alone will do, which is returned as it is.
    """
    parts = carry if isinstance(carry, tuple | list) and len(carry) == 2 else ()
    (c, h), x = _checked(cell, carry, parts, inputs, "a pair (c, h) of arrays, each")
    return c, h, x


def demand_cell(rnn: Any) -> Any:
    """Return the cell of an `RNN`."""
    if isinstance(rnn.cell, type) or not hasattr(rnn.cell, "initialize_carry"):
        raise errors.TransformTargetError(
            f"{place(rnn)} got {_kind(rnn.cell)} as cell, expected a cell, such as nn.LSTMCell(4): an instance."
        )
    return rnn.cell


def demand_layers(module: Any) -> tuple[Any, Any]:
    """Return the layers of a `Bidirectional`."""
    layers = module.forward_rnn, module.backward_rnn
    for layer in layers:
        if isinstance(layer, type | RNNCellBase):
            raise errors.TransformTargetError(
                f"{place(module)} got {_kind(layer)}, expected a layer that runs along a sequence, such as "
                "nn.RNN(nn.LSTMCell(4))."
            )
    return layers


def _kind(x: Any) -> str:
    return f"the class {x.__name__}" if isinstance(x, type) else f"an instance of {type(x).__name__}"


def steps_are_pure(rnn: Any) -> bool:
    """Tell whether a step of an `RNN` is in reach of nothing but parameters, and no one sees the calls of its cell."""
    frame = calls.top
    return (
        not rnn.variable_axes
        and filters.in_filter(rnn.variable_broadcast, "params")
        and filters.is_empty(rnn.variable_carry)
        and not any(rnn.split_rngs.values())
        and not frame.interceptors
        and frame.capture is None
    )


def check_carry(rnn: Any, old: Any, new: Any) -> None:
    """Check that a step returns a carry of the type that it gets."""
    same = jax.tree.structure(old) == jax.tree.structure(new)
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True) if same else ()
    for a, b in pairs:
        a, b = jax.typeof(a), jax.typeof(b)
        same = same and a.shape == b.shape and (a.dtype == b.dtype or a.weak_type)
    if not same:
        types = [jax.tree.map(lambda x: jax.typeof(x).str_short(short_dtypes=False), tree) for tree in (old, new)]
        raise errors.CarryError(
            f"{place(rnn)}: {type(rnn.cell).__name__} gets a carry of type {types[0]} and returns one of type "
            f"{types[1]}, expected the same in all steps. Pass an initial_carry of that type; or let the dtypes of the "
            "cell agree, since its first carry has its param_dtype."
        )


def dense_maps(cell: Any, h: Array) -> tuple[partial[Dense], partial[Dense]]:
    """Return what makes the `Dense` layers on the input, which have a bias, and on the state `h`, which have none."""
    common = partial(Dense, h.shape[-1], dtype=cell.dtype, param_dtype=cell.param_dtype)
    return (
        partial(common, kernel_init=cell.kernel_init),
        partial(common, kernel_init=cell.recurrent_kernel_init, use_bias=False),
    )


def arithmetic(f: Callable[..., Any], *functions: Any) -> Callable[..., Any]:
    """Return `f`, made by `traced_once`, unless it is to call functions that are not activation functions of ours."""
    return f if all(any(g is own for own in _ACTIVATIONS) for g in functions) else untraced(f)


_ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__)


def _checked(
    cell: Any, carry: Any, parts: Sequence[Any], inputs: ArrayLike | jax.ShapeDtypeStruct, expected: str
) -> tuple[tuple[Array, ...], Any]:
    """Return the parts of `carry`, and the input, as arrays; raise an error unless they fit the cell."""
    x = inputs if isinstance(inputs, jax.Array | jax.ShapeDtypeStruct) else jnp.asarray(inputs)
    _check_rank(cell, x.shape, place(cell))
    states = tuple(s if isinstance(s, jax.Array) else jnp.asarray(s) for s in parts if not isinstance(s, tuple | list))
    axes = cell.num_feature_axes
    fits = bool(parts) and len(states) == len(parts) and all(s.ndim >= axes for s in states)
    widths = {s.shape[-1] for s in states} if fits else set()
    # The first carry is of `features`; a carry that the user made has the width that it has, and so has the cell then.
    width = widths.pop() if axes == 1 and len(widths) == 1 else cell.features
    shape = (*x.shape[:-1], width)
    # A state that is convolved may be of any width: only the memory meets the gates.
    fits = fits and all(s.shape[-1] == width for s in (states if axes == 1 else states[:1]))
    if fits:
        try:
            # A carry without axes of the batch is one for all examples.
            jnp.broadcast_shapes(*(s.shape for s in states), shape) if axes == 1 else None
        except ValueError:
            fits = False
    if not fits:
        raise errors.CarryError(
            f"{place(cell)} got a carry of shape {jax.tree.map(jnp.shape, carry)}, expected {expected} of shape "
            f"{shape} for inputs of shape {x.shape}. Make it with initialize_carry(key, {x.shape}) of this cell."
        )
    return states, x


def _check_rank(cell: Any, shape: tuple[int, ...], where: str) -> None:
    axes = cell.num_feature_axes
    if len(shape) < axes:
        expected = "(..., features)" if axes == 1 else f"(..., *space, features), with {axes - 1} axes of space"
        raise ValueError(f"{where} got an input of shape {shape}, expected one of shape {expected}.")
