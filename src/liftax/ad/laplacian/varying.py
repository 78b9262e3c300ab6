"""A value that depends on the argument, with its derivatives.

    Varying : value, jacobian, second        y, (dy_i)_i, sum_i d^2 y / dx_i^2

A chain of steps that act on each number alone, as activations do, needs no directions: of `y_j = s(z_j)` a number is
kept, the slope `s'(z_j)`, and the derivatives of `z` are multiplied by it once at the chain's end,

    dy_ij = s' dz_ij,        ly_j = s' lz_j + s'' sum_i dz_ij^2.
"""

import functools
from typing import Any

import jax.numpy as jnp

from liftax.ad.laplacian.jacobian import Jacobian, inner


class Varying:
    """A value with its first derivatives, `slope * base` (a slope of None is one), and its Laplacian (None is zero).

    Args:
        value: The value.
        base: The derivatives of a value of the same shape.
        second: The Laplacian.
        slope: The derivative with respect to the value that `base` belongs to, number by number.
        zero: The value is zero, whatever the argument; see `rules.custom_jvp`.
    """

    def __init__(self, value: Any, base: Jacobian, second: Any, slope: Any = None, zero: bool = False):
        self.value, self.base, self.second, self.slope, self.zero = value, base, second, slope, zero

    @functools.cached_property
    def jacobian(self) -> Jacobian:
        """The first derivatives, multiplied out."""
        return self.base if self.slope is None else Jacobian(self.slope * self.base.data, self.base.pattern)

    @property
    def pattern(self) -> Any:
        """Which directions the numbers depend on."""
        return self.base.pattern

    @property
    def ndim(self) -> int:
        """The rank of the value."""
        return self.base.pattern.ndim


def product(x: Varying, y: Varying) -> Any:
    """Return the sum over directions of products of first derivatives, number by number; None for zero."""
    both = inner(x.base, y.base)
    return None if both is None else times(times(x.slope, y.slope), both)


def plus(x: Any, y: Any) -> Any:
    """Add where None is zero."""
    return x if y is None else y if x is None else x + y


def times(x: Any, y: Any) -> Any:
    """Multiply where None is one."""
    return x if y is None else y if x is None else x * y


def value_of(x: Any) -> Any:
    """Return the value of what may be varying or constant."""
    return x.value if isinstance(x, Varying) else x


def second_of(x: Any) -> Any:
    """Return the Laplacian of what may be varying or constant."""
    second = x.second if isinstance(x, Varying) else None
    return jnp.zeros_like(value_of(x)) if second is None else second


def is_inexact(x: Any) -> bool:
    """Tell whether an array or a type has numbers that derivatives are taken of."""
    return jnp.issubdtype(x.dtype, jnp.inexact)
