"""Lifted products of the generalized Gauss-Newton matrix with a vector, for second-order optimizers inside a model.

    gauss_newton_product : (Module -> a -> b) -> (b -> R) -> Module -> (a, T a) -> (R, CT a)

One call to `ad.gauss_newton.product`.

Source: see `liftax.ad.gauss_newton`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from liftax.ad.checks import check_pair_of_sequences
from liftax.ad.gauss_newton import product
from liftax.ad.notes import tangents_explained
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.operands import Operands
from liftax.typing import Filter

GAUSS_NEWTON_PRODUCT = Transform(
    "gauss_newton_product", "(fn, loss, module, primals, tangents)", filters=("wrt", "variables")
)


@described(GAUSS_NEWTON_PRODUCT)
def gauss_newton_product(
    fn: Callable[..., Any],
    loss: Callable[[Any], Any],
    mdl: Any,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    variable_tangents: Any = None,
    wrt: Filter | None = False,
    has_aux: bool = False,
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[Any, ...]:
    """Multiply the generalized Gauss-Newton matrix of `loss(fn(mdl, *primals))` with a vector.

    For the Hessian itself use `hvp`; outside of a module use `lx.gauss_newton_product`.

    Args:
        fn: Called as `fn(mdl, *primals)`; returns a tree of floating-point arrays.
        loss: Called as `loss(output)`; returns a real floating-point scalar.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        primals: A tuple or list: the arguments, all floating-point.
        tangents: A tuple or list: the part of the vector for each argument, of its structure, shapes and dtypes.
        variable_tangents: The part of the vector for the variables in `wrt`, `{collection: tree}`; what it leaves out
            is zero, None all of it.
        wrt: Which collections of variables take part in the matrix: a filter.
        has_aux: `fn` returns a pair `(output, aux)`.
        variables: The other collections that `fn` may use.
        rngs: The rng streams that `fn` may use.

    Returns:
        `(value, products)`, or `(value, products, aux)` if `has_aux`: the loss, and a tuple with one tree for each
        argument, and that of the variables before them if `wrt` is given.

    Raises:
        TangentError: The vector does not fit.
        NonDifferentiableOutputError: `loss` does not return a real floating-point scalar.
        NonDifferentiablePrimalError, TransformTargetError, UnboundModuleError, InvalidScopeError,
            UnknownCollectionError, ArityError, AuxError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Curvature(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, v):
        ...         dense, loss = nn.Dense(1, use_bias=False), lambda y: jnp.sum(y**2)
        ...         value, (product, _) = nn.gauss_newton_product(
        ...             lambda mdl, x: mdl(x), loss, dense, (x,), (jnp.zeros_like(x),), v, wrt='params')
        ...         return value, product['params']['kernel'].ravel()
        >>> kernel = jnp.array([[1.0], [2.0]])
        >>> v = {'params': {'kernel': jnp.array([[1.0], [0.0]])}}
        >>> Curvature().apply({'params': {'Dense_0': {'kernel': kernel}}}, jnp.array([3.0, 1.0]), v)  # 2 x x^T v
        (Array(25., dtype=float32), Array([18.,  6.], dtype=float32))
    """
    check_pair_of_sequences(primals, tangents, GAUSS_NEWTON_PRODUCT)
    operands = Operands.of(
        GAUSS_NEWTON_PRODUCT, mdl, primals, wrt=wrt or False, variables=variables, rngs=rngs, dtypes={}
    ).created(fn, has_aux)
    vector, pure = operands.vector(variable_tangents, tangents), operands.pure(fn, has_aux)
    with tangents_explained(primals, tangents, GAUSS_NEWTON_PRODUCT):
        value, products, (aux, run) = product(pure, loss, operands.point, vector, GAUSS_NEWTON_PRODUCT)
    operands.commit(run)
    return (value, operands.layout(products), aux) if has_aux else (value, operands.layout(products))
