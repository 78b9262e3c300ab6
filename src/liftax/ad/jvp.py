"""Forward mode: a function's value, and its directional derivative.

    jvp : (a -> b) -> (a, T a) -> (b, T b)

One call to `jax.jvp`, with errors that name the leaf.

Source: `jax.jvp`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

import jax

from liftax.ad.checks import check_pair_of_sequences, explain_tangents, explain_values
from liftax.ad.notes import add_note
from liftax.errors import LiftaxError
from liftax.explain.functions import demand_callable, demand_pair, explain_arity
from liftax.explain.transform import Transform

JVP = Transform("jvp", "(f, (x,), (x_dot,))", mode="forward")

T = TypeVar("T")
U = TypeVar("U")


@overload
def jvp(
    fun: Callable[..., T], primals: Sequence[Any], tangents: Sequence[Any], has_aux: Literal[False] = False
) -> tuple[T, T]: ...


@overload
def jvp(
    fun: Callable[..., tuple[T, U]], primals: Sequence[Any], tangents: Sequence[Any], has_aux: Literal[True]
) -> tuple[T, T, U]: ...


@overload
def jvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]: ...


def jvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """Compute a Jacobian-vector product of `fun`: its value and its derivative along `tangents`.

    For many inputs and one output use `grad`; for functions of a module use the lifted `nn.jvp`.

    Args:
        fun: The function. Its arguments and its output are arrays, scalars or pytrees of them.
        primals: Where to differentiate: a tuple or list with one value for each positional argument of `fun`.
        tangents: Along what: a tuple or list with the structure, the shapes and the dtypes of `primals` (`float0` for
            integers).
        has_aux: `fun` returns a pair `(output, aux)`, and `aux` is not differentiated.

    Returns:
        `(primals_out, tangents_out)`, or `(primals_out, tangents_out, aux)` if `has_aux`. `tangents_out` has the
        structure, the shapes and the dtypes of `primals_out`, which is `fun(*primals)` (`float0` for integers).

    Raises:
        ArityError: `fun` can't be called with that many arguments, or at all.
        AuxError: With `has_aux`, `fun` returned no pair.
        TangentError: `tangents` do not fit `primals`, or one of them is no tuple or list.
        NonDifferentiablePrimalError, NonDifferentiableOutputError: A primal, or what `fun` returned, is no array.

    Example:
        >>> import jax
        >>> from liftax import ad
        >>> y, y_dot = ad.jvp(jax.numpy.sin, (0.1,), (0.2,))
        >>> print(f"{y:.6f} {y_dot:.6f}")
        0.099833 0.199001
    """
    return run_jvp(JVP, fun, primals, tangents, has_aux)


def run_jvp(
    transform: Transform, fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool
) -> tuple[Any, ...]:
    """Return what `jvp` returns; errors name `transform`."""
    demand_callable(fun, transform)
    check_pair_of_sequences(primals, tangents, transform)
    pure = fun
    if has_aux:

        def pure(*args: Any) -> Any:
            return demand_pair(fun(*args), transform)

        functools.update_wrapper(pure, fun, updated=())
    try:
        return jax.jvp(pure, tuple(primals), tuple(tangents), has_aux=has_aux)
    except LiftaxError:
        raise
    except (TypeError, ValueError) as error:
        if isinstance(error, TypeError):
            explain_values(fun, primals, error, transform, has_aux)
        explain_tangents(primals, tangents, error, transform)
        if isinstance(error, TypeError):
            explain_arity(fun, primals, {}, error, transform)
        add_note(error)
        raise
