"""Products of the generalized Gauss-Newton matrix with a vector, without the matrix.

    gauss_newton_product : (a -> b) -> (b -> R) -> (a, T a) -> (R, CT a)

For a loss of a model, `loss(fun(x))`, the matrix is `J^T H J`, where `J` is the Jacobian of the model and `H` the
Hessian of the loss with respect to the model's output. It is the Hessian of the composition without the term that has
second derivatives of the model; where the loss is convex it is positive semidefinite, which second-order optimizers
rely on. One forward sweep (`J v`), a Hessian-vector product of the loss, and one backward sweep (`J^T`).

Source: Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 14
(2002).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from liftax.ad.checks import check_float_primals, check_pair_of_sequences, check_scalar_output
from liftax.ad.notes import tangents_explained
from liftax.explain.functions import arity_explained, demand_callable, demand_pair
from liftax.explain.transform import Transform

GAUSS_NEWTON_PRODUCT = Transform("gauss_newton_product", "(f, loss, (x,), (v,))")


def gauss_newton_product(
    fun: Callable[..., Any],
    loss: Callable[[Any], Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """Multiply the generalized Gauss-Newton matrix of `loss(fun(*primals))` with a vector.

    For the Hessian itself use `hvp`; for functions of a module use `nn.gauss_newton_product`.

    Args:
        fun: The model: a function to a tree of floating-point arrays.
        loss: Called as `loss(output)`; returns a real floating-point scalar. What it closes over, such as labels, is
            constant.
        primals: Where: a tuple or list with one value for each positional argument of `fun`, all floating-point.
        tangents: The vector: a tuple or list with the structure, the shapes and the dtypes of `primals`.
        has_aux: `fun` returns a pair `(output, aux)`.

    Returns:
        `(value, products)`, or `(value, products, aux)` if `has_aux`: the loss, and a tuple like `primals`.

    Raises:
        TangentError: `tangents` do not fit `primals`, or one of them is not a tuple or list.
        NonDifferentiableOutputError: `loss` does not return a real floating-point scalar.
        ArityError, AuxError, NonDifferentiablePrimalError: see `grad`.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> value, (product,) = lx.gauss_newton_product(
        ...     lambda w: jnp.array([w**2, w]), lambda y: jnp.sum(y**2), (3.0,), (1.0,)
        ... )
        >>> print(value, product)  # J = [2 w, 1], H = 2: J^T H J = 8 w**2 + 2
        90.0 74.0
    """
    demand_callable(fun, GAUSS_NEWTON_PRODUCT)
    check_pair_of_sequences(primals, tangents, GAUSS_NEWTON_PRODUCT)
    check_float_primals(primals, [f"argument {i}" for i in range(len(primals))], GAUSS_NEWTON_PRODUCT)

    def pure(*args: Any) -> tuple[Any, Any]:
        out = fun(*args)
        return demand_pair(out, GAUSS_NEWTON_PRODUCT) if has_aux else (out, None)

    with (
        tangents_explained(primals, tangents, GAUSS_NEWTON_PRODUCT),
        arity_explained(fun, primals, {}, GAUSS_NEWTON_PRODUCT),
    ):
        value, products, aux = product(pure, loss, tuple(primals), tuple(tangents), GAUSS_NEWTON_PRODUCT)
    return (value, products, aux) if has_aux else (value, products)


def product(
    pure: Callable[..., tuple[Any, Any]], loss: Callable[[Any], Any], point: Any, vector: Any, transform: Transform
) -> tuple[Any, Any, Any]:
    """Return `(value, products, aux)` for `pure(*point) -> (output, aux)`; errors name `transform`."""

    def value_of(out: Any) -> Any:
        value = loss(out)
        check_scalar_output(value, transform)
        return value

    out, jvp_fn, aux = jax.linearize(pure, *point, has_aux=True)
    (value, _), (_, curvature) = jax.jvp(jax.value_and_grad(value_of), (out,), (jvp_fn(*vector),))
    return value, jax.linear_transpose(jvp_fn, *vector)(curvature), aux
