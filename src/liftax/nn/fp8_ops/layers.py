r"""Products of matrices in floating-point numbers of 8 bits, for `dot_general_cls` of a layer.

    Fp8DirectDotGeneralOp : (lhs, rhs, dimension_numbers) -> array

Operands are rounded to `float8_e4m3fn`, and cotangents, which spread wider, to `float8_e5m2`. `scaling.py` says how
the scales follow the data, and `fp8_product.py` what is multiplied.
"""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from liftax import _compat
from liftax.module import Module, nowrap
from liftax.nn.fp8_ops.product import Meta, Static, dot_general_with_precision, fp8_scaled_dot_general, scaled_product
from liftax.nn.fp8_ops.scaling import (
    compute_amax_history,
    compute_scale,
    dequantize,
    get_fp8_max,
    in_qdq,
    out_qdq,
    qdq,
    quantize,
    update_fp8_meta,
)
from liftax.nn.support.location import place
from liftax.typing import Array

__all__ = [
    "OVERWRITE_WITH_GRADIENT",
    "Fp8DirectDotGeneralOp",
    "Fp8DotGeneral",
    "Fp8DotGeneralBase",
    "Fp8DotGeneralOp",
    "Fp8Einsum",
    "NANOOFp8DotGeneralOp",
    "compute_amax_history",
    "compute_scale",
    "dequantize",
    "dot_general_with_precision",
    "fp8_scaled_dot_general",
    "get_fp8_max",
    "in_qdq",
    "out_qdq",
    "qdq",
    "quantize",
    "update_fp8_meta",
]


if TYPE_CHECKING:
    fm32: Any
    fp32_max_grad: Any


OVERWRITE_WITH_GRADIENT = "_overwrite_with_gradient"
"""The collection of variables whose gradient is their next value."""


class Fp8DotGeneralBase(Module):
    """Hold the scales and histories of a product of two operands.

    Collection `_overwrite_with_gradient`: `input_scale`, `kernel_scale` and `output_grad_scale`, of shape `(1,)`, from
    1; `input_amax_history`, `kernel_amax_history` and `output_grad_amax_history`, of shape `(amax_history_length,)`,
    from 0; all in float32. Calls read them; their gradients are their next values. Nothing is drawn.

    Args:
        amax_history_length: how many calls a history holds.
        e4m3_dtype: the dtype to which operands are rounded.
        e5m2_dtype: the dtype to which the cotangent of the product is rounded.
    """

    amax_history_length: int = 1024
    e4m3_dtype: DTypeLike = jnp.float8_e4m3fn
    e5m2_dtype: DTypeLike = jnp.float8_e5m2

    def setup(self) -> None:
        """Make scales and histories."""
        if self.amax_history_length < 1:
            raise ValueError(
                f"{place(self)} got amax_history_length={self.amax_history_length}, expected a length of at least 1."
            )

        def made(name: str, init: Any, size: int) -> Any:
            return self.variable(OVERWRITE_WITH_GRADIENT, name, init, (size,), jnp.float32)

        self.input_amax_history = made("input_amax_history", jnp.zeros, self.amax_history_length)
        self.kernel_amax_history = made("kernel_amax_history", jnp.zeros, self.amax_history_length)
        self.output_grad_amax_history = made("output_grad_amax_history", jnp.zeros, self.amax_history_length)
        self.input_scale = made("input_scale", jnp.ones, 1)
        self.kernel_scale = made("kernel_scale", jnp.ones, 1)
        self.output_grad_scale = made("output_grad_scale", jnp.ones, 1)

    @nowrap
    def _metas(self) -> tuple[Meta, Meta, Meta]:
        """Return scale and history of the left operand, of the right one, and of the cotangent of the product."""
        return (
            Meta(self.input_scale.value, self.input_amax_history.value),
            Meta(self.kernel_scale.value, self.kernel_amax_history.value),
            Meta(self.output_grad_scale.value, self.output_grad_amax_history.value),
        )

    @nowrap
    def _operands(self, lhs: ArrayLike, rhs: ArrayLike) -> tuple[Array, Array]:
        """Return the operands in the dtype of the right one, in which a layer computes."""
        rhs = jnp.asarray(rhs)
        if not jnp.issubdtype(rhs.dtype, jnp.floating):
            raise TypeError(
                f"{place(self)} got a kernel of dtype {rhs.dtype.name}, expected a floating-point one: it is "
                "rounded to 8 bits from the dtype that the layer computes in."
            )
        return jnp.asarray(lhs, rhs.dtype), rhs


class Fp8DirectDotGeneralOp(Fp8DotGeneralBase):
    r"""Multiply in 8 bits, forwards and backwards, as hardware that has such products does it.

    $$y = s_a s_b\, Q(a) \cdot Q(b), \quad
    \bar a = s_b s_g\, Q(\bar y) \cdot Q(b)^T, \quad \bar b = s_a s_g\, Q(a)^T \cdot Q(\bar y)$$

    For collections and arguments, see `Fp8DotGeneralBase`. `Fp8DotGeneral` is another name of this class. Forward-mode
    derivatives (`jvp`) are not defined: the gradient of a scale is not a derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Dense(4, dot_general_cls=nn.Fp8DirectDotGeneralOp)
        >>> x = jnp.full((2, 3), 5.0)
        >>> variables = layer.init(jax.random.key(0), x)
        >>> grads = jax.grad(lambda v: layer.apply(v, x).sum())(variables)
        >>> params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads["params"])
        >>> replaced = nn.fp8_ops.OVERWRITE_WITH_GRADIENT
        >>> variables = {"params": params, replaced: grads[replaced]}  # a step of training
        >>> variables[replaced]["Fp8DirectDotGeneralOp_0"]["input_amax_history"][:3]
        Array([5., 0., 0.], dtype=float32)

    Source:
        Micikevicius et al., FP8 Formats for Deep Learning, 2022.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Multiply two arrays.

        Args:
            *args: those of `jax.lax.dot_general` up to its dimension numbers: two arrays, and the numbers. The left
                array is cast to the dtype of the right one, which is a layer's kernel.
            **kwargs: further ones, which are for products in more bits, and are not used.

        Returns:
            An array in the dtype of the right operand.

        Raises:
            TypeError: the right operand is not floating-point.
        """
        lhs, rhs = self._operands(*args[:2])
        dtype = rhs.dtype
        static = Static(args[2], dtype, dtype, dtype, dtype, self.e4m3_dtype, self.e5m2_dtype)
        return scaled_product(static, lhs, rhs, *self._metas())


Fp8DotGeneral = Fp8DirectDotGeneralOp


class Fp8DotGeneralOp(Fp8DotGeneralBase):
    r"""Multiply in the dtype of the kernel, with operands and cotangent rounded to the numbers of 8 bits.

    $$y = s_a Q(a) \cdot s_b Q(b)$$

    A compiler may fuse that to a product in 8 bits. `Fp8DirectDotGeneralOp` makes one in any case; arguments,
    collections, and calls are the same.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Dense(1, dot_general_cls=nn.Fp8DotGeneralOp, kernel_init=nn.initializers.ones)
        >>> layer.init_with_output(jax.random.key(0), jnp.array([0.1]))[0]  # the nearest to 0.1 with 3 bits
        Array([0.1015625], dtype=float32)
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Multiply two arrays, as `Fp8DirectDotGeneralOp` is called."""
        lhs, rhs = self._operands(*args[:2])
        lhs_meta, rhs_meta, out_meta = self._metas()
        dtype = rhs.dtype
        lhs = in_qdq(dtype, self.e4m3_dtype, lhs, *lhs_meta)
        rhs = in_qdq(dtype, self.e4m3_dtype, rhs, *rhs_meta)
        return out_qdq(dtype, self.e5m2_dtype, dot_general_with_precision(lhs, rhs, args[2]), *out_meta)


class NANOOFp8DotGeneralOp(Fp8DotGeneralOp):
    """Be `Fp8DotGeneralOp` in the types of 8 bits that have no negative zero and no infinity (`fnuz`).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Dense(1, dot_general_cls=nn.NANOOFp8DotGeneralOp, kernel_init=nn.initializers.ones)
        >>> layer.init_with_output(jax.random.key(0), jnp.array([0.1]))[0]
        Array([0.1015625], dtype=float32)
    """

    e4m3_dtype: DTypeLike = jnp.float8_e4m3fnuz
    e5m2_dtype: DTypeLike = jnp.float8_e5m2fnuz


class Fp8Einsum(Fp8DotGeneralBase):
    """Contract two arrays by an equation in Einstein's notation, in 8 bits.

    For collections and arguments, see `Fp8DotGeneralBase`; for the arithmetic, `Fp8DirectDotGeneralOp`. `jnp.einsum`
    may exchange the operands, and then `input_scale` is that of the right one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Fp8Einsum(amax_history_length=16)
        >>> a, b = jnp.ones((2, 3)), jnp.full((3, 4), 2.0)
        >>> out, variables = layer.init_with_output(jax.random.key(0), "ab,bc->ac", a, b)
        >>> out[0]
        Array([6., 6., 6., 6.], dtype=float32)
    """

    def __call__(
        self,
        eqn: str,
        lhs: ArrayLike,
        rhs: ArrayLike,
        precision: lax.PrecisionLike = None,
        preferred_element_type: DTypeLike | None = None,
    ) -> Array:
        """Contract two arrays.

        Args:
            eqn: the equation, such as `'ab,bc->ac'`.
            lhs: any numeric dtype; cast to that of `rhs`.
            rhs: floating-point, such as a kernel in the dtype that a layer computes in.
            precision: not used.
            preferred_element_type: the dtype in which products are summed, and of the result; None for that of `rhs`.

        Returns:
            An array of the axes that the equation gives.

        Raises:
            TypeError: `rhs` is not floating-point.
        """
        left, right = self._operands(lhs, rhs)

        def dot_general(a: Array, b: Array, numbers: Any, *_: Any, preferred_element_type: Any, **__: Any) -> Array:
            static = Static(
                numbers, a.dtype, b.dtype, preferred_element_type, b.dtype, self.e4m3_dtype, self.e5m2_dtype
            )
            return scaled_product(static, a, b, *self._metas())

        return _compat.einsum(eqn, left, right, dot_general=dot_general, preferred_element_type=preferred_element_type)
