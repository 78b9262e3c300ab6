"""The gradient of a function to a scalar: its vector-Jacobian product with the cotangent 1.

    grad : (a -> R) -> a -> CT a

As `jax.grad`, with `reduce_axes` (see `liftax.ad.reduce`) and with errors that say what was returned. They are said
while the function is traced, before its backward pass is built.

Source: `jax.grad`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from liftax.ad.argnums import indices, positions
from liftax.ad.checks import check_float_primals, check_scalar_output
from liftax.ad.reduce import mark, resolve_axes
from liftax.explain.functions import demand_callable, demand_pair, explain_arity
from liftax.explain.transform import Transform
from liftax.typing import AxisName

_OPTIONS = frozenset({"argnums", "holomorphic", "allow_int"})
GRAD = Transform("grad", "(f)(x)", options=_OPTIONS)
VALUE_AND_GRAD = Transform("value_and_grad", "(f)(x)", options=_OPTIONS)


def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
) -> Callable[..., Any]:
    """Return a function that computes the gradient of `fun`.

    For an output that is no scalar use `vjp`; for functions of a module use the lifted `nn.grad`.

    Args:
        fun: The function. Its output is a real floating-point scalar (shape `()`).
        argnums: Which positional arguments to differentiate with respect to; negative ones count from the last.
        has_aux: `fun` returns a pair `(output, aux)`, and `aux` is not differentiated.
        holomorphic: `fun` is promised to be holomorphic; inputs and output are complex.
        allow_int: Accept integer and Boolean arguments; their gradients have dtype `float0`.
        reduce_axes: Names of axes of enclosing `jax.vmap`s over which gradients of shared arguments are summed, as in
            `vjp`.

    Returns:
        A function of the arguments of `fun`, keyword arguments included, that returns `grads`, or `(grads, aux)` if
        `has_aux`. `grads` has the structure of the argument if `argnums` is an integer, and else is a tuple.

    Raises:
        ArityError: `argnums` names an argument that was not given; `fun` can't be called with the arguments.
        AuxError: With `has_aux`, `fun` returned no pair.
        NonDifferentiableOutputError: The output is not a real floating-point scalar.
        NonDifferentiablePrimalError: An argument to be differentiated is not floating-point.
        ReduceAxesError: `reduce_axes` holds something that is no name of an axis bound at the call.

    Example:
        >>> from liftax import ad
        >>> print(ad.grad(lambda x, y: x * y**2, argnums=(0, -1))(2.0, 3.0))
        (Array(9., dtype=float32, weak_type=True), Array(12., dtype=float32, weak_type=True))
    """
    run = gradient(fun, argnums, has_aux, holomorphic, allow_int, reduce_axes, GRAD)

    def grad_fn(*args: Any, **kwargs: Any) -> Any:
        _, grads, *aux = run(args, kwargs)
        return (grads, *aux) if has_aux else grads

    return functools.update_wrapper(grad_fn, fun, updated=())


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
) -> Callable[..., Any]:
    """Return a function that computes both `fun` and its gradient.

    See `grad` for the arguments and the errors.

    Returns:
        A function of the arguments of `fun` that returns `(value, grads)`, or `((value, aux), grads)` if `has_aux`.

    Example:
        >>> from liftax import ad
        >>> value, g = ad.value_and_grad(lambda x: x**3)(2.0)
        >>> print(value, g)
        8.0 12.0
    """
    run = gradient(fun, argnums, has_aux, holomorphic, allow_int, reduce_axes, VALUE_AND_GRAD)

    def value_and_grad_fn(*args: Any, **kwargs: Any) -> Any:
        value, grads, *aux = run(args, kwargs)
        return ((value, *aux), grads) if has_aux else (value, grads)

    return functools.update_wrapper(value_and_grad_fn, fun, updated=())


def gradient(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    holomorphic: bool,
    allow_int: bool,
    reduce_axes: AxisName | Sequence[AxisName],
    transform: Transform,
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]:
    """Return `(args, kwargs) -> (value, grads[, aux])`; errors name `transform`."""
    demand_callable(fun, transform)
    wanted = indices(argnums, transform, f" lx.{transform} returns a function of the arguments: lx.{transform}(f)(x).")

    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        where = positions(wanted, len(args), transform)
        axes = resolve_axes(reduce_axes, transform) if reduce_axes != () else ()
        primals = tuple(args[i] for i in where)
        names = [f"argument {i}" for i in where]
        check_float_primals(primals, names, transform, holomorphic=holomorphic, allow_int=allow_int)

        def pure(*primals: Any) -> Any:
            full = list(args)
            for i, primal in zip(where, mark(primals, axes) if axes else primals, strict=True):
                full[i] = primal
            out = fun(*full, **kwargs)
            pair = demand_pair(out, transform) if has_aux else (out,)
            check_scalar_output(pair[0], transform, holomorphic=holomorphic)
            return pair if has_aux else out

        try:
            value, vjp_fn, *aux = jax.vjp(functools.update_wrapper(pure, fun, updated=()), *primals, has_aux=has_aux)
        except TypeError as error:
            explain_arity(fun, args, kwargs, error, transform)
            raise
        grads = vjp_fn(jnp.ones_like(value))
        return (value, grads if isinstance(wanted, tuple) else grads[0], *aux)

    return run
