r"""Recurrent cells whose carry is what they put out.

    SimpleCell, GRUCell, MGUCell : (h, array[..., d]) -> (h', h'),  h : array[..., features]

The affine maps are `Dense` layers, named for the letters of their weights: `ir` maps the input to the gate `r`, `hr`
the state to the same gate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from liftax.module import compact
from liftax.nn.activation import sigmoid, tanh
from liftax.nn.initializers import lecun_normal, ones_init, orthogonal, zeros_init
from liftax.nn.recurrent.cell import GatedCell, StateCell, arithmetic, dense_maps, one_state
from liftax.nn.support.tracing import traced_once
from liftax.typing import Array, Initializer

__all__ = ["GRUCell", "MGUCell", "SimpleCell"]


class SimpleCell(StateCell):
    r"""The plain recurrence, also called Elman's.

    $$h' = \tanh(W_i x + b_i + W_h h)$$

    With `residual`, $h$ is added to the argument of $\tanh$. The carry is $h'$, of shape `(..., features)`, and so is
    the output.

    Parameters (collection `params`): `i/kernel` of shape `(d, features)`, `i/bias` of shape `(features,)` and
    `h/kernel` of shape `(features, features)`. Initializing draws from the stream `params`; applying draws nothing.

    Args:
        features: the size of the last axis of the carry and of the output.
        activation_fn: in place of $\tanh$.
        kernel_init: the initializer of the kernels on the input.
        recurrent_kernel_init: the initializer of the kernels on the carry.
        bias_init: the initializer of biases.
        dtype: the dtype of the affine maps; None for the promoted dtype of what they are applied to and the parameters.
        param_dtype: the dtype in which parameters and the first carry are made.
        carry_init: the initializer of the first carry.
        residual: whether to add $h$.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> cell, x = nn.SimpleCell(features=4), jnp.ones((2, 3))
        >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
        >>> (carry, y), variables = cell.init_with_output(jax.random.key(1), carry, x)
        >>> y.shape, jax.tree.map(jnp.shape, variables['params'])
        ((2, 4), {'h': {'kernel': (4, 4)}, 'i': {'bias': (4,), 'kernel': (3, 4)}})

    Source:
        Elman, Finding Structure in Time, 1990. `residual`: Yue et al., Residual Recurrent Neural Networks for Learning
        Sequential Representations, 2018.
    """

    features: int
    activation_fn: Callable[..., Any] = tanh
    kernel_init: Initializer = lecun_normal()
    recurrent_kernel_init: Initializer = orthogonal()
    bias_init: Initializer = zeros_init()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros_init()
    residual: bool = False

    @compact
    def __call__(self, carry: ArrayLike, inputs: ArrayLike) -> tuple[Array, Array]:
        """Take one step.

        Args:
            carry: $h$, of shape `(..., features)`. One of another width, such as the state of a wider encoder, makes
                the kernels and the output as wide as it is.
            inputs: $x$, of shape `(..., d)`.

        Returns:
            The next carry, and the output, which are the same array.

        Raises:
            ValueError: `inputs` is a scalar.
            CarryError: `carry` is no array, or not one of the shape above.
            ScopeParamShapeError: the kernels on the input were made for another `d`.
        """
        h, x = one_state(self, carry, inputs)
        on_input, on_state = dense_maps(self, h)
        new_h = on_input(name="i", bias_init=self.bias_init)(x) + on_state(name="h")(h)
        new_h = self.activation_fn(new_h + h if self.residual else new_h)
        return new_h, new_h


class GRUCell(GatedCell, StateCell):
    r"""The gated recurrent unit.

    $$\begin{aligned}
    r &= \sigma(W_{ir} x + b_{ir} + W_{hr} h) \\
    z &= \sigma(W_{iz} x + b_{iz} + W_{hz} h) \\
    n &= \tanh(W_{in} x + b_{in} + r \odot (W_{hn} h + b_{hn})) \\
    h' &= (1 - z) \odot n + z \odot h
    \end{aligned}$$

    The carry is $h'$, of shape `(..., features)`, and so is the output.

    Parameters (collection `params`): kernels `ir/kernel`, `iz/kernel`, `in/kernel` of shape `(d, features)` and
    `hr/kernel`, `hz/kernel`, `hn/kernel` of shape `(features, features)`; biases `ir/bias`, `iz/bias`, `in/bias` and
    `hn/bias` of shape `(features,)`. Initializing draws from the stream `params`; applying draws nothing.

    Args:
        features: the size of the last axis of the carry and of the output.
        gate_fn: in place of $\sigma$, the logistic function.
        activation_fn: as for `SimpleCell`, and so all that follows.
        kernel_init: the initializer of the kernels on the input.
        recurrent_kernel_init: the initializer of the kernels on the carry.
        bias_init: the initializer of biases.
        dtype: the dtype of the affine maps.
        param_dtype: the dtype in which parameters and the first carry are made.
        carry_init: the initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> cell, x = nn.GRUCell(features=4), jnp.ones((2, 3))
        >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
        >>> (carry, y), variables = cell.init_with_output(jax.random.key(1), carry, x)
        >>> y.shape, sorted(variables['params'])
        ((2, 4), ['hn', 'hr', 'hz', 'in', 'ir', 'iz'])

    Source:
        Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation, 2014;
        the place of $b_{hn}$ is that of cuDNN.
    """

    @compact
    def __call__(self, carry: ArrayLike, inputs: ArrayLike) -> tuple[Array, Array]:
        """Take one step; see `SimpleCell` for what it takes, returns and raises."""
        h, x = one_state(self, carry, inputs)
        on_input, on_state = dense_maps(self, h)
        on_input = partial(on_input, bias_init=self.bias_init)
        last = on_state(name="hn", use_bias=True, bias_init=self.bias_init)
        new_h = arithmetic(_gru, self.gate_fn, self.activation_fn)(
            h,
            (on_input(name="ir")(x), on_state(name="hr")(h)),
            (on_input(name="iz")(x), on_state(name="hz")(h)),
            (on_input(name="in")(x), last(h)),
            gate_fn=self.gate_fn,
            activation_fn=self.activation_fn,
        )
        return new_h, new_h


class MGUCell(StateCell):
    r"""The minimal gated unit: a `GRUCell` whose two gates are one.

    $$\begin{aligned}
    f &= \sigma(W_{if} x + b_{if} + W_{hf} h) \\
    n &= \tanh(W_{in} x + b_{in} + f \odot (W_{hn} h + b_{hn})) \\
    h' &= (1 - f) \odot n + f \odot h
    \end{aligned}$$

    Without `reset_gate`, $f \odot (W_{hn} h + b_{hn})$ is $W_{hn} h$. The carry is $h'$, of shape `(..., features)`,
    and so is the output.

    Parameters (collection `params`): kernels `if/kernel`, `in/kernel` of shape `(d, features)` and `hf/kernel`,
    `hn/kernel` of shape `(features, features)`; biases `if/bias`, `in/bias` and, with `reset_gate`, `hn/bias` of shape
    `(features,)`. Initializing draws from the stream `params`; applying draws nothing.

    Args:
        features: the size of the last axis of the carry and of the output.
        gate_fn: in place of $\sigma$, the logistic function.
        activation_fn: as for `SimpleCell`, and so all that is not described here.
        kernel_init: the initializer of the kernels on the input.
        recurrent_kernel_init: the initializer of the kernels on the carry.
        forget_bias_init: the initializer of $b_{if}$; ones keep the carry, and with it the gradient, for long.
        activation_bias_init: the initializer of $b_{in}$ and $b_{hn}$.
        dtype: the dtype of the affine maps.
        param_dtype: the dtype in which parameters and the first carry are made.
        carry_init: the initializer of the first carry.
        reset_gate: whether the gate acts on the carry's part of $n$ as well.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> cell, x = nn.MGUCell(features=4), jnp.ones((2, 3))
        >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
        >>> (carry, y), variables = cell.init_with_output(jax.random.key(1), carry, x)
        >>> y.shape, sorted(variables['params'])
        ((2, 4), ['hf', 'hn', 'if', 'in'])

    Source:
        Zhou et al., Minimal Gated Unit for Recurrent Neural Networks, 2016; Jozefowicz, Zaremba and Sutskever, An
        Empirical Exploration of Recurrent Network Architectures, 2015, for the bias of ones.
    """

    features: int
    gate_fn: Callable[..., Any] = sigmoid
    activation_fn: Callable[..., Any] = tanh
    kernel_init: Initializer = lecun_normal()
    recurrent_kernel_init: Initializer = orthogonal()
    forget_bias_init: Initializer = ones_init()
    activation_bias_init: Initializer = zeros_init()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros_init()
    reset_gate: bool = True

    @compact
    def __call__(self, carry: ArrayLike, inputs: ArrayLike) -> tuple[Array, Array]:
        """Take one step; see `SimpleCell` for what it takes, returns and raises."""
        h, x = one_state(self, carry, inputs)
        on_input, on_state = dense_maps(self, h)
        last = on_state(name="hn", use_bias=self.reset_gate, bias_init=self.activation_bias_init)
        new_h = arithmetic(_mgu, self.gate_fn, self.activation_fn)(
            h,
            (on_input(name="if", bias_init=self.forget_bias_init)(x), on_state(name="hf")(h)),
            (on_input(name="in", bias_init=self.activation_bias_init)(x), last(h)),
            gate_fn=self.gate_fn,
            activation_fn=self.activation_fn,
            reset_gate=self.reset_gate,
        )
        return new_h, new_h


Pair = tuple[Array, Array]


@traced_once
def _gru(
    h: Array, r: Pair, z: Pair, n: Pair, *, gate_fn: Callable[..., Any], activation_fn: Callable[..., Any]
) -> Array:
    reset, update = gate_fn(r[0] + r[1]), gate_fn(z[0] + z[1])
    new = activation_fn(n[0] + reset * n[1])
    return (1.0 - update) * new + update * h


@traced_once
def _mgu(
    h: Array,
    f: Pair,
    n: Pair,
    *,
    gate_fn: Callable[..., Any],
    activation_fn: Callable[..., Any],
    reset_gate: bool,
) -> Array:
    forget = gate_fn(f[0] + f[1])
    new = activation_fn(n[0] + (forget * n[1] if reset_gate else n[1]))
    return (1.0 - forget) * new + forget * h
