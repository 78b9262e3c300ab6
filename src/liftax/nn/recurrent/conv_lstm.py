r"""The recurrent cell for images in time: a long short-term memory whose affine maps are convolutions.

ConvLSTMCell : ((c, h), array[..., *space, d]) -> ((c', h'), h'),  c, h : array[..., *space, features]
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from liftax import errors
from liftax.module import compact, nowrap
from liftax.nn.activation import sigmoid, tanh
from liftax.nn.initializers import zeros_init
from liftax.nn.linear.conv import Conv
from liftax.nn.recurrent.cell import MemoryCell, memory_and_state
from liftax.nn.support.location import place
from liftax.nn.support.tracing import traced_once
from liftax.typing import Array, Initializer

__all__ = ["ConvLSTMCell"]


class ConvLSTMCell(MemoryCell):
    r"""Long short-term memory at each position of an image, that sees the neighbours too.

    $$\begin{aligned}
    (i, g, f, o) &= W_{ih} * x + b_{ih} + W_{hh} * h + b_{hh} \\
    c' &= \sigma(f + 1) \odot c + \sigma(i) \odot \tanh(g) \\
    h' &= \sigma(o) \odot \tanh(c')
    \end{aligned}$$

    where $*$ is the convolution of `liftax.nn.Conv`, and the 1 lets a new cell remember. The carry is $(c', h')$, each
    of shape `(*batch, *space, features)`, and the output is $h'$.

    Parameters (collection `params`): kernels `ih/kernel` of shape `(*kernel_size, d, 4 * features)` and `hh/kernel` of
    shape `(*kernel_size, features, 4 * features)`; biases `ih/bias` and `hh/bias` of shape `(4 * features,)`.
    Initializing draws from the stream `params`; applying draws nothing.

    Args:
        features: the size of the last axis of both parts of the carry, and of the output.
        kernel_size: the size of the kernels along each spatial axis.
        strides: as for `Conv`. Both convolutions have them, and the result has to have the shape of the carry.
        padding: as for `Conv`, with the same condition.
        use_bias: whether both convolutions have a bias.
        dtype: the dtype of the convolutions.
        param_dtype: the dtype in which parameters and the first carry are made.
        carry_init: the initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer, films = nn.RNN(nn.ConvLSTMCell(features=4, kernel_size=(3, 3))), jnp.ones((2, 7, 5, 5, 3))
        >>> y, variables = layer.init_with_output(jax.random.key(0), films)
        >>> y.shape, jax.tree.map(jnp.shape, variables['params']['cell']['hh'])
        ((2, 7, 5, 5, 4), {'bias': (16,), 'kernel': (3, 3, 4, 16)})

    Source:
        Shi et al., Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting, 2015;
        Jozefowicz, Zaremba and Sutskever, An Empirical Exploration of Recurrent Network Architectures, 2015, for the 1.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: str | int | Sequence[int | tuple[int, int]] = "SAME"
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros_init()

    @compact
    def __call__(self, carry: tuple[ArrayLike, ArrayLike], inputs: ArrayLike) -> tuple[tuple[Array, Array], Array]:
        """Take one step.

        Args:
            carry: $(c, h)$, each of shape `(*batch, *space, features)`.
            inputs: $x$, of shape `(*batch, *space, d)`, with one spatial axis for each entry of `kernel_size`.

        Returns:
            The next carry $(c', h')$, and the output $h'$.

        Raises:
            ValueError: `inputs` has too few axes; strides or padding can't be.
            CarryError: `carry` is no pair of arrays, they don't have the shape above, or the convolutions, for their
                strides or padding, don't keep it.
            ScopeParamShapeError: the kernel on the input was made for another `d`.
        """
        c, h, x = memory_and_state(self, carry, inputs)
        on_input, on_state = self._map("ih")(x), self._map("hh")(h)
        try:
            fits = jnp.broadcast_shapes(on_input.shape[:-1], on_state.shape[:-1], c.shape[:-1]) == on_input.shape[:-1]
        except ValueError:
            fits = False
        if not fits:
            raise errors.CarryError(
                f"{place(self)} got a carry of shape {(c.shape, h.shape)} and inputs of shape {x.shape}, which "
                f"strides={self.strides} and padding={self.padding!r} turn into {on_state.shape} and {on_input.shape}, "
                f"expected {(*c.shape[:-1], 4 * self.features)} for both: the carry has one shape at all steps. Make "
                f"it with initialize_carry(key, {x.shape}), and let the strides be 1 and the padding 'SAME'."
            )
        new_c, new_h = _conv_lstm(c, on_input, on_state)
        return (new_c, new_h), new_h

    @nowrap
    def _map(self, name: str) -> Conv:
        """Return the convolution to the four gates."""
        return Conv(
            4 * self.features,
            self.kernel_size,
            self.strides,
            self.padding,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    @property
    def num_feature_axes(self) -> int:
        """See `RNNCellBase.num_feature_axes`."""
        return len(self.kernel_size) + 1


@traced_once
def _conv_lstm(c: Array, on_input: Array, on_state: Array) -> tuple[Array, Array]:
    i, g, f, o = jnp.split(on_input + on_state, 4, axis=-1)
    new_c = sigmoid(f + 1) * c + sigmoid(i) * tanh(g)
    return new_c, sigmoid(o) * tanh(new_c)
