r"""Recurrent cells with a memory: long short-term memory.

    LSTMCell, OptimizedLSTMCell : ((c, h), array[..., d]) -> ((c', h'), h'),  c, h : array[..., features]

The memory is changed by products with gates and by sums only, so that gradients live long in it.

Where `LSTMCell` has eight matrix products a step, `OptimizedLSTMCell` joins the kernels of the four gates and has two.
Its parameters are the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax.module import Module, compact
from liftax.nn.cells import GatedCell, MemoryCell, arithmetic, dense_maps, memory_and_state
from liftax.nn.dtypes import promote_dtype
from liftax.nn.initializers import lecun_normal, zeros_init
from liftax.nn.tracing import traced_once
from liftax.typing import Array, Initializer

__all__ = ["LSTMCell", "OptimizedLSTMCell"]

GATES = "ifgo"
"""Input, forget, candidate (in the papers also j) and output."""


class LSTMCell(GatedCell, MemoryCell):
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

    @compact
    def __call__(self, carry: tuple[ArrayLike, ArrayLike], inputs: ArrayLike) -> tuple[tuple[Array, Array], Array]:
        """Take one step.

        Args:
            carry: $(c, h)$, each of shape `(..., features)`.
            inputs: $x$, of shape `(..., d)`.

        Returns:
            The next carry $(c', h')$, and the output $h'$.

        Raises:
            ValueError: `inputs` is a scalar.
            CarryError: `carry` is no pair of arrays, or they don't have the shape above.
            ScopeParamShapeError: the kernels on the input were made for another `d`.
        """
        c, h, x = memory_and_state(self, carry, inputs)
        on_input, on_state = dense_maps(self)
        on_input = partial(on_input, use_bias=False)
        on_state = partial(on_state, use_bias=True, bias_init=self.bias_init)
        gates = tuple((on_input(name=f"i{gate}")(x), on_state(name=f"h{gate}")(h)) for gate in GATES)
        new_c, new_h = arithmetic(_lstm, self.gate_fn, self.activation_fn)(
            c, gates, gate_fn=self.gate_fn, activation_fn=self.activation_fn
        )
        return (new_c, new_h), new_h


class OptimizedLSTMCell(GatedCell, MemoryCell):
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

    @compact
    def __call__(self, carry: tuple[ArrayLike, ArrayLike], inputs: ArrayLike) -> tuple[tuple[Array, Array], Array]:
        """Take one step; see `LSTMCell` for what it takes, returns and raises."""
        c, h, x = memory_and_state(self, carry, inputs)
        params = partial(DenseParams, self.features, param_dtype=self.param_dtype, bias_init=self.bias_init)
        on_input = partial(params, use_bias=False, kernel_init=self.kernel_init)
        on_state = partial(params, kernel_init=self.recurrent_kernel_init)
        kernels = [on_input(name=f"i{gate}")(x)[0] for gate in GATES]
        recurrent = [on_state(name=f"h{gate}")(h) for gate in GATES]
        new_c, new_h = arithmetic(_joined_lstm, self.gate_fn, self.activation_fn)(
            c,
            h,
            x,
            kernels,
            *zip(*recurrent, strict=True),
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
    kernels: list[Array],
    recurrent_kernels: tuple[Array, ...],
    biases: tuple[Array, ...],
    *,
    dtype: DTypeLike | None,
    gate_fn: Callable[..., Any],
    activation_fn: Callable[..., Any],
) -> tuple[Array, Array]:
    h, recurrent, bias = promote_dtype(
        h, jnp.concatenate(recurrent_kernels, axis=1), jnp.concatenate(biases), dtype=dtype
    )
    x, kernel = promote_dtype(x, jnp.concatenate(kernels, axis=1), dtype=dtype)
    from_state = _product(h, recurrent)
    from_state = from_state + lax.broadcast_in_dim(bias, from_state.shape, (from_state.ndim - 1,))
    return _step(c, jnp.split(from_state + _product(x, kernel), 4, axis=-1), gate_fn, activation_fn)


def _product(x: Array, kernel: Array) -> Array:
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _step(
    c: Array, gates: list[Array], gate_fn: Callable[..., Any], activation_fn: Callable[..., Any]
) -> tuple[Array, Array]:
    i, f, g, o = gates
    i, f, g, o = gate_fn(i), gate_fn(f), activation_fn(g), gate_fn(o)
    new_c = f * c + i * g
    return new_c, o * activation_fn(new_c)
