"""Linear maps with a transpose of their own, for which JAX has solutions of linear systems.

linear : (a -o b) -> (b -o a) -> a -> b
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def linear(
    forward: Callable[[Any], Any],
    backward: Callable[[Any], Any],
    differentiable: Callable[[Any], Any],
    u: Any,
    like: Any,
) -> Any:
    """Return `forward(u)`, linear in u, with `backward` for its transpose.

    JAX knows linear maps with a transpose of their own as solutions of linear systems. With F = `forward`, its
    transpose B, and the symmetric S(u, w) = (B w, F u), the system

        [ S  1 ] [ y1 ]   [ b1 ]                                  [ y1 ]   [ b2        ]
        [ 1  0 ] [ y2 ] = [ b2 ]     is solved by                 [ y2 ] = [ b1 - S b2 ]

    For b1 = 0 and b2 = (u, 0), y2 is (0, -F u). JAX never multiplies by the matrix, but differentiates it in what F and
    B close over. It is symmetric, so that JAX does not transpose it either. Forwards, a solution takes F but not B, and
    backwards B but not F.

    Args:
        forward: The map.
        backward: Its transpose.
        differentiable: The transpose as a function that can be differentiated in what it closes over, as `forward` can.
        u: What the map is applied to.
        like: Arrays or types like its result.
    """
    zeros_u, zeros_w = (jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree) for tree in (u, like))

    def add(a: Any, b: Any) -> Any:
        return jax.tree.map(jnp.add, a, b)

    def less(a: Any, b: Any) -> Any:
        return jax.tree.map(jnp.subtract, a, b)

    def matrix(y: Any) -> Any:
        (u1, w1), (u2, w2) = y
        return _entangled(((add(differentiable(w1), u2), add(forward(u1), w2)), (u1, w1)))

    def solve(_: Any, b: Any) -> Any:
        (u1, w1), (u2, w2) = b
        return (u2, w2), (u1, less(w1, forward(u2)))

    def solve_transposed(_: Any, b: Any) -> Any:
        (u1, w1), (u2, w2) = b
        return (u2, w2), (less(u1, backward(w2)), w1)

    b = _entangled(((zeros_u, zeros_w), (u, zeros_w)))
    y = jax.lax.custom_linear_solve(matrix, b, solve, solve_transposed, symmetric=True)
    _, (_, w) = _entangled(y)
    return jax.tree.map(jnp.negative, w)


def _entangled(tree: Any) -> Any:
    """Return `tree`, as a linear function each part of which takes in all others, if only as zero.

    JAX transposes a linear system only if either all of its right-hand side is differentiated or nothing.
    """

    def part(x: Any) -> Any:
        return jnp.sum(jnp.real(x)).astype(float)

    zero = sum(map(part, jax.tree.leaves(tree)), jnp.zeros((), float))
    zero = jax.lax.select(False, zero, jnp.zeros_like(zero))
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)
