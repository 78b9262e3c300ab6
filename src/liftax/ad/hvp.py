"""Products of a Hessian with a vector, without the Hessian.

    hvp : (a -> R) -> (a, T a) -> (CT a, CT a)     the gradient, and H v
    vhp : (a -> R) -> (a, T a) -> (CT a, CT a)     the gradient, and v^T H

Both cost a small multiple of the gradient. `hvp` is the derivative of the gradient along `v`, forwards; `vhp` the
gradient of the gradient's product with `v`, backwards. The Hessian being symmetric they agree, where both are defined.

Source: Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994).
"""

from collections.abc import Callable, Sequence
from typing import Any

from liftax.ad.checks import check_float_primals, check_pair_of_sequences, explain_tangents
from liftax.ad.grad import gradient
from liftax.ad.jvp import run_jvp
from liftax.ad.vjp import vjp
from liftax.errors import CotangentError
from liftax.explain.transform import Transform

HVP = Transform("hvp", "(f, (x,), (v,))")
VHP = Transform("vhp", "(f, (x,), (v,))")


def hvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """Multiply the Hessian of a scalar function with a vector: forward-mode over reverse-mode differentiation.

    It takes less time and memory than `vhp`: use it unless a rule without forward mode stands in the way.

    Args:
        fun: The function; returns a real floating-point scalar.
        primals: Where: a tuple or list with one value for each positional argument of `fun`, all floating-point.
        tangents: The vector: a tuple or list with the structure, the shapes and the dtypes of `primals`.
        has_aux: `fun` returns a pair `(output, aux)`.

    Returns:
        `(grads, products)`, or `(grads, products, aux)` if `has_aux`: two tuples like `primals`, the gradient and the
        product of the Hessian with `tangents`.

    Raises:
        TangentError: `tangents` do not fit `primals`, or one of them is no tuple or list.
        ArityError, AuxError, NonDifferentiableOutputError, NonDifferentiablePrimalError: see `grad`.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> x, v = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
        >>> (slope,), (product,) = lx.hvp(lambda x: x[0] ** 2 * x[1], (x,), (v,))
        >>> print(slope, product)
        [4. 1.] [4. 2.]
    """
    _check(HVP, primals, tangents)
    return run_jvp(HVP, _gradient(HVP, fun, len(primals), has_aux), primals, tangents, has_aux)


def vhp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """Multiply a vector with the Hessian of a scalar function: reverse-mode over reverse-mode differentiation.

    Arguments, result and errors are those of `hvp`, which costs less. This one needs no forward-mode rule: functions
    whose backward pass itself contains a `jax.custom_vjp` have it alone.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> _, (product,) = lx.vhp(lambda x: x[0] ** 2 * x[1], (jnp.array([1.0, 2.0]),), (jnp.array([1.0, 0.0]),))
        >>> print(product)
        [4. 2.]
    """
    _check(VHP, primals, tangents)
    grads, vjp_fn, *aux = vjp(_gradient(VHP, fun, len(primals), has_aux), *primals, has_aux=has_aux)
    try:
        products = vjp_fn(tuple(tangents))
    except CotangentError as error:
        explain_tangents(primals, tangents, error, VHP)
        raise
    return (grads, products, *aux)


def _check(transform: Transform, primals: Sequence[Any], tangents: Sequence[Any]) -> None:
    check_pair_of_sequences(primals, tangents, transform)
    check_float_primals(primals, [f"argument {i}" for i in range(len(primals))], transform)


def _gradient(transform: Transform, fun: Callable[..., Any], count: int, has_aux: bool) -> Callable[..., Any]:
    run = gradient(fun, tuple(range(count)), has_aux, False, False, (), transform)

    def grads(*args: Any) -> Any:
        _, found, *aux = run(args, {})
        return (found, *aux) if has_aux else found

    return grads
