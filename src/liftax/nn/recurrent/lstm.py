r"""Recurrent cells with a memory: long short-term memory.

    LSTMCell, OptimizedLSTMCell : ((c, h), array[..., d]) -> ((c', h'), h'),  c, h : array[..., features]

The memory is changed by products with gates and by sums only, so that gradients live long in it.

Where `LSTMCell` has eight matrix products a step, `OptimizedLSTMCell` joins the kernels of the four gates and has two.
Its parameters are the same. Along a sequence it joins them once, before the loop: the gradient, too, is then summed for
the joined kernels, over the steps, and taken apart after the loop. Both cells' loops are traced once for all layers
alike; without an outer `jit` they are compiled once too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact
from liftax.nn.dtypes import promote_dtype
from liftax.nn.initializers import lecun_normal, zeros_init
from liftax.nn.recurrent.cell import GatedCell, MemoryCell, arithmetic, dense_maps, memory_and_state
from liftax.nn.support.tracing import traced_once
from liftax.typing import Array, Initializer

__all__ = ["LSTMCell", "OptimizedLSTMCell"]

GATES = "ifgo"
"""Input, forget, candidate (in the papers also j) and output."""


class LSTMBase(GatedCell, MemoryCell):
    """A cell with the parameters of an `LSTMCell`, all of whose steps can be taken at once."""

    joined: ClassVar[bool]

    @compact
    def along(
        self, carry: Any, inputs: Array, *, time: int, reverse: bool, unroll: int, carries: bool
    ) -> tuple[Any, Any] | None:
        """Take all steps of a sequence: what `RNN` calls where a step can have no effect besides what it returns.

        Args:
            carry: that of the first step.
            inputs: those of all steps.
            time: their axis of time.
            reverse: as for `jax.lax.scan`.
            unroll: as for `jax.lax.scan`.
            carries: whether to return the carries of all steps too.

        Returns:
            As the scan of the cell: `(carry, outputs)`, or `(carry, (carries, outputs))` with the time of the carries
            in front. None where it takes the scan to make the carry's type, or the functions, agree with the steps.

        Raises:
            ValueError, CarryError, ScopeParamShapeError: as for `LSTMCell`.
        """
        of_step = (*inputs.shape[:time], *inputs.shape[time + 1 :])
        c, h, x = memory_and_state(self, carry, jax.ShapeDtypeStruct(of_step, inputs.dtype))
        weights = _weights(self, x, h)
        computed = (x.dtype, *jax.tree.leaves(weights)) if self.dtype is None else (self.dtype,)
        same = c.shape == h.shape == (*of_step[:-1], h.shape[-1]) and type(carry) is tuple
        loop = arithmetic(_loop, self.gate_fn, self.activation_fn)
        if not same or not c.dtype == h.dtype == jnp.result_type(c.dtype, *computed) or loop is not _loop:
            return None
        return loop(
            (c, h), inputs, weights, joined=self.joined, dtype=self.dtype, gate_fn=self.gate_fn,
            activation_fn=self.activation_fn, time=time, reverse=reverse, unroll=unroll, carries=carries,
        )  # fmt: skip


class LSTMCell(LSTMBase):
    r"""Long short-term memory.

    $$\begin{aligned}
    i &= \sigma(W_{ii} x + W_{hi} h + b_{hi}) \\
    f &= \sigma(W_{if} x + W_{hf} h + b_{hf}) \\
    g &= \tanh(W_{ig} x + W_{hg} h + b_{hg}) \\
    o &= \sigma(W_{io} x + W_{ho} h + b_{ho}) \\
    c' &= f \odot c + i \odot g \\
    h' &= o \odot \tanh(c')
    \end{aligned}$$

    The carry is $(c', h')$, each of shape `(..., features)`, and the output is $h'$.

    Parameters (collection `params`): kernels `ii/kernel`, `if/kernel`, `ig/kernel`, `io/kernel` of shape
    `(d, features)` and `hi/kernel`, `hf/kernel`, `hg/kernel`, `ho/kernel` of shape `(features, features)`; biases
    `hi/bias`, `hf/bias`, `hg/bias`, `ho/bias` of shape `(features,)`. Initializing draws from the stream `params`;
    applying draws nothing.

    Args: as for `GRUCell`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> cell, x = nn.LSTMCell(features=4), jnp.ones((2, 3))
        >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
        >>> ((c, h), y), variables = cell.init_with_output(jax.random.key(1), carry, x)
        >>> y.shape, jax.tree.map(jnp.shape, variables['params']['hi'])
        ((2, 4), {'bias': (4,), 'kernel': (4, 4)})

    Source:
        Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; Gers, Schmidhuber and Cummins, Learning to Forget,
        2000, for the forget gate.
    """

    joined = False

    @compact
    def __call__(self, carry: tuple[ArrayLike, ArrayLike], inputs: ArrayLike) -> tuple[tuple[Array, Array], Array]:
        """Take one step.

        Args:
            carry: $(c, h)$, each of shape `(..., features)`; see `SimpleCell` for one of another width.
            inputs: $x$, of shape `(..., d)`.

        Returns:
            The next carry $(c', h')$, and the output $h'$.

        Raises:
            ValueError: `inputs` is a scalar.
            CarryError: `carry` is no pair of arrays, or they don't have the shape above.
            ScopeParamShapeError: the kernels on the input were made for another `d`.
        """
        c, h, x = memory_and_state(self, carry, inputs)
        on_input, on_state = dense_maps(self, h)
        on_input = partial(on_input, use_bias=False)
        on_state = partial(on_state, use_bias=True, bias_init=self.bias_init)
        gates = tuple((on_input(name=f"i{gate}")(x), on_state(name=f"h{gate}")(h)) for gate in GATES)
        new_c, new_h = arithmetic(_lstm, self.gate_fn, self.activation_fn)(
            c, gates, gate_fn=self.gate_fn, activation_fn=self.activation_fn
        )
        return (new_c, new_h), new_h


class OptimizedLSTMCell(LSTMBase):
    """An `LSTMCell` whose kernels are joined, so that a step has two matrix products instead of eight.

    The equations, the parameters and the arguments are those of `LSTMCell`, and the numbers too, up to rounding.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> x = jnp.ones((2, 3))
        >>> carry = nn.LSTMCell(features=4).initialize_carry(jax.random.key(0), x.shape)
        >>> variables = nn.LSTMCell(features=4).init(jax.random.key(1), carry, x)
        >>> _, y = nn.LSTMCell(features=4).apply(variables, carry, x)
        >>> _, same = nn.OptimizedLSTMCell(features=4).apply(variables, carry, x)
        >>> bool(jnp.allclose(y, same))
        True

    Source:
        Appleyard, Kociský and Blunsom, Optimizing Performance of Recurrent Neural Networks on GPUs, 2016.
    """

    joined = True

    @compact
    def __call__(self, carry: tuple[ArrayLike, ArrayLike], inputs: ArrayLike) -> tuple[tuple[Array, Array], Array]:
        """Take one step; see `LSTMCell` for what it takes, returns and raises."""
        c, h, x = memory_and_state(self, carry, inputs)
        new_c, new_h = arithmetic(_joined_lstm, self.gate_fn, self.activation_fn)(
            c,
            h,
            x,
            _weights(self, x, h),
            dtype=self.dtype,
            gate_fn=self.gate_fn,
            activation_fn=self.activation_fn,
        )
        return (new_c, new_h), new_h


class DenseParams(Module):
    """The parameters of a `Dense` layer without its arithmetic; the arguments are those of `Dense`."""

    features: int
    use_bias: bool = True
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros_init()

    @compact
    def __call__(self, inputs: Array) -> tuple[Array, Array | None]:
        """Return kernel and bias for `inputs`, of shape `(..., d)`."""
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features), self.param_dtype)
        return kernel, self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None


Weights = tuple[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]]
"""Kernels on the input, kernels on the state, and biases, of each gate."""


def _weights(cell: Any, x: Any, h: Any) -> Weights:
    params = partial(DenseParams, h.shape[-1], param_dtype=cell.param_dtype, bias_init=cell.bias_init)
    on_input = partial(params, use_bias=False, kernel_init=cell.kernel_init)
    on_state = partial(params, kernel_init=cell.recurrent_kernel_init)
    kernels = tuple(on_input(name=f"i{gate}")(x)[0] for gate in GATES)
    recurrent, biases = zip(*(on_state(name=f"h{gate}")(h) for gate in GATES), strict=True)
    return kernels, recurrent, biases


@traced_once
def _loop(
    carry: tuple[Array, Array],
    inputs: Array,
    weights: Weights,
    *,
    joined: bool,
    dtype: DTypeLike | None,
    gate_fn: Callable[..., Any],
    activation_fn: Callable[..., Any],
    time: int,
    reverse: bool,
    unroll: int,
    carries: bool,
) -> tuple[Any, Any]:
    # Joined, and no more: in the loop the kernels are cast to `dtype`, so that their gradient is summed in their own.
    # The bias is added as it is: a broadcast would be taken out of the loop, whose steps then read a whole batch of it.
    held: Any = _join(weights) if joined else weights
    gates: Callable[..., list[Array]] = _joined_gates if joined else _gates

    def step(carry: tuple[Array, Array], x: Array) -> tuple[Any, Any]:
        new = _step(carry[0], gates(carry[1], x, held, dtype), gate_fn, activation_fn)
        return new, ((new, new[1]) if carries else new[1])

    front = jnp.moveaxis(inputs, time, 0) if time else inputs
    carry, ys = lax.scan(step, carry, front, reverse=reverse, unroll=unroll)
    every, y = ys if carries else (None, ys)
    y = jnp.moveaxis(y, 0, time) if time else y
    return carry, ((every, y) if carries else y)


@traced_once
def _lstm(
    c: Array,
    gates: tuple[tuple[Array, Array], ...],
    *,
    gate_fn: Callable[..., Any],
    activation_fn: Callable[..., Any],
) -> tuple[Array, Array]:
    return _step(c, [a + b for a, b in gates], gate_fn, activation_fn)


@traced_once
def _joined_lstm(
    c: Array,
    h: Array,
    x: Array,
    weights: Weights,
    *,
    dtype: DTypeLike | None,
    gate_fn: Callable[..., Any],
    activation_fn: Callable[..., Any],
) -> tuple[Array, Array]:
    return _step(c, _joined_gates(h, x, _join(weights), dtype), gate_fn, activation_fn)


def _join(weights: Weights) -> Any:
    """Put the columns of the gates side by side."""
    return tuple(jnp.concatenate(parts, axis=-1) for parts in weights)


def _joined_gates(h: Array, x: Array, joined: tuple[Array, Array, Array], dtype: DTypeLike | None) -> list[Array]:
    kernel, recurrent, bias = joined
    h, recurrent, bias = promote_dtype(h, recurrent, bias, dtype=dtype)
    x, kernel = promote_dtype(x, kernel, dtype=dtype)
    from_state = _product(h, recurrent)
    return jnp.split(from_state + bias + _product(x, kernel), 4, axis=-1)


def _gates(h: Array, x: Array, weights: Weights, dtype: DTypeLike | None) -> list[Array]:
    gates = []
    for kernel, recurrent, bias in zip(*weights, strict=True):
        on_state = promote_dtype(h, recurrent, bias, dtype=dtype)
        on_input = promote_dtype(x, kernel, dtype=dtype)
        gates.append(_product(*on_input) + (_product(*on_state[:2]) + on_state[2]))
    return gates


def _product(x: Array, kernel: Array) -> Array:
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _step(
    c: Array, gates: list[Array], gate_fn: Callable[..., Any], activation_fn: Callable[..., Any]
) -> tuple[Array, Array]:
    i, f, g, o = gates
    i, f, g, o = gate_fn(i), gate_fn(f), activation_fn(g), gate_fn(o)
    new_c = f * c + i * g
    return new_c, o * activation_fn(new_c)
