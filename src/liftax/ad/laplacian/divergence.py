"""The divergence: the trace of the Jacobian of a vector field.

    divergence : (R^n -> R^n) -> R^n -> (R^n, R)   f(x), sum_i d f_i / dx_i

Source: for the estimate, Hutchinson, Communications in Statistics 19 (1990).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from liftax.ad.laplacian.arguments import DIVERGENCE, flat_problem
from liftax.ad.notes import noted
from liftax.errors import NonDifferentiableOutputError
from liftax.explain.functions import demand_pair
from liftax.explain.trees import tree_mismatch
from liftax.typing import PRNGKey


def divergence(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    key: PRNGKey | None = None,
    samples: int | None = None,
) -> tuple[Any, ...]:
    """Compute a vector field and its divergence: the trace of its Jacobian in the first argument.

    All numbers of the first argument are variables of one field, those along a leading axis included: for a batch of
    points use `jax.vmap(lambda x: divergence(fun, x))(xs)`.

    Args:
        fun: The field; its output has the structure and the shapes of its first argument.
        *primals: Its arguments. The divergence is taken in all numbers of the first one, a tree of real arrays.
        has_aux: `fun` returns a pair `(output, aux)`.
        key: Together with `samples`: an rng key for an estimate.
        samples: Estimate from so many random directions (Rademacher vectors) instead of all unit vectors.

    Returns:
        `(out, divergence)`, or `(out, divergence, aux)` if `has_aux`; `divergence` is a scalar.

    Raises:
        NonDifferentiableOutputError: The output is not like the first argument.
        NonDifferentiablePrimalError, ArityError, InvalidRngError, AuxError: see `laplacian`.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> out, div = lx.divergence(lambda x: x**2, jnp.array([1.0, 2.0]))
        >>> print(out, div)
        [1. 4.] 6.0
    """
    flat, directions, call = flat_problem(DIVERGENCE, fun, primals, key, samples)

    def pure(flat: Any) -> Any:
        out = call(flat)
        out, aux = demand_pair(out, DIVERGENCE) if has_aux else (out, None)
        if found := tree_mismatch(primals[0], out):
            raise NonDifferentiableOutputError(
                f"divergence needs a field like its first argument{found.path and ' at '}{found.path}: expected "
                f"{found.expected}, got {found.got}."
            )
        return ravel_pytree(out)[0], (out, aux)

    with noted(fun, primals, DIVERGENCE):
        _, jvp_fn, (out, aux) = jax.linearize(pure, flat, has_aux=True)
        if directions is None:
            div = jnp.trace(jax.vmap(jvp_fn)(jnp.eye(flat.size, dtype=flat.dtype)))
        else:
            div = jnp.sum(jax.vmap(jvp_fn)(directions) * directions)
    return (out, div, aux) if has_aux else (out, div)
