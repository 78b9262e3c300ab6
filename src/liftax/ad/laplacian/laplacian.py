"""The Laplacian: the trace of the Hessian, without the matrix that it is the trace of.

    laplacian : (R^n -> b) -> R^n -> (b, b)       f(x), sum_i d^2 f / dx_i^2

It is computed forwards, in one pass over the program. With each value `y` go its derivatives along the directions
`v_i` and the sum of its second derivatives along them,

    dy_i = Dg(x) dx_i,        ly = Dg(x) lx + sum_i D^2 g(x)[dx_i, dx_i]        for y = g(x).

The second derivatives are summed at every step, so that each linear step of the program costs one product a direction,
half of what the Hessian takes, and memory is that of the widest layer. A number that depends on few of the arguments,
as the features of an electron do, keeps the derivatives in these: see `pattern`. With the unit vectors as directions
the result is exact; with random directions whose covariance is the identity it is an unbiased estimate.

Source: Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward Laplacian",
Nature Machine Intelligence 6 (2024); Hutchinson, Communications in Statistics 19 (1990).
"""

import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from liftax.ad.checks import check_jacobian_types
from liftax.ad.laplacian import calls, contraction, control, custom, general, known, linalg, pointwise, structural
from liftax.ad.laplacian.arguments import LAPLACIAN, check_sparsity, flat_problem
from liftax.ad.laplacian.jacobian import Jacobian
from liftax.ad.laplacian.pattern import Directions
from liftax.ad.laplacian.trace import Pass
from liftax.ad.laplacian.varying import Varying, second_of, value_of
from liftax.ad.notes import noted
from liftax.explain.functions import demand_pair
from liftax.explain.values import is_value
from liftax.typing import PRNGKey

_RULES = {
    name: rule
    for part in (pointwise, structural, contraction, general, calls, known, control, linalg, custom)
    for name, rule in part.RULES.items()
}

_DENSE_ABOVE = 0.6
"""The part of all directions above which numbers are taken to depend on all."""


def laplacian(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    key: PRNGKey | None = None,
    samples: int | None = None,
    sparsity: bool | Literal["auto"] = "auto",
) -> tuple[Any, ...]:
    """Compute a function and its Laplacian in its first argument.

    All numbers of the first argument are variables of one function, those along a leading axis included: for a batch of
    points use `jax.vmap(lambda x: laplacian(fun, x))(xs)`.

    Args:
        fun: The function; its output is a tree of floating-point arrays.
        *primals: Its arguments. The Laplacian is taken in all numbers of the first one, a tree of real arrays.
        has_aux: `fun` returns a pair `(output, aux)`.
        key: Together with `samples`: an rng key for an estimate.
        samples: Estimate from so many random directions (Rademacher vectors) instead of all unit vectors.
        sparsity: Whether a number keeps only the derivatives with respect to the arguments that it depends on, which
            are found from the program: "auto" does so while they are few, True as long as they are not all, False
            never. The result is the same.

    Returns:
        `(out, laplacian)`, or `(out, laplacian, aux)` if `has_aux`; `laplacian` has the structure, the shapes and the
        dtypes of `out`.

    Raises:
        NonDifferentiablePrimalError: The first argument is not real and floating-point.
        NonDifferentiableOutputError: An output is an integer or a Boolean.
        ArityError: `fun` can't be called, or there is no argument; one of `key` and `samples` is missing;
            `samples` is not a positive integer; `sparsity` is not one of its values.
        InvalidRngError: `key` is no rng key.
        AuxError: With `has_aux`, `fun` returned no pair.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> out, lap = lx.laplacian(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]))
        >>> print(out, lap)
        9.0 18.0
    """
    check_sparsity(sparsity, LAPLACIAN)
    flat, directions, call = flat_problem(LAPLACIAN, fun, primals, key, samples)
    types: list[Any] = []

    def pure(flat: Any) -> list[Any]:
        out = call(flat)
        out, aux = demand_pair(out, LAPLACIAN) if has_aux else (out, None)
        check_jacobian_types(out, (), LAPLACIAN)
        leaves, treedef = jax.tree.flatten(out)
        rest, rest_treedef = jax.tree.flatten(aux)
        types.append((len(leaves), treedef, [_VALUE if is_value(x) else x for x in rest], rest_treedef))
        return [*leaves, *filter(is_value, rest)]

    with noted(fun, primals, LAPLACIAN):
        closed = jax.make_jaxpr(pure)(flat)
        count, treedef, rest, rest_treedef = types[0]
        start = _start(flat, directions, sparsity)
        within = Pass(start.pattern.directions, _RULES, general.general)
        found = within.run(closed.jaxpr, closed.consts, [start])
    values = iter([value_of(x) for x in found])
    out = treedef.unflatten(itertools.islice(values, count))
    lap = treedef.unflatten([second_of(x) for x in found[:count]])
    aux = rest_treedef.unflatten([next(values) if x is _VALUE else x for x in rest])
    return (out, lap, aux) if has_aux else (out, lap)


_VALUE = object()
"""What is kept of a tracer once the trace has ended: that there was one."""


def _start(flat: Any, directions: Any, sparsity: bool | str) -> Varying:
    """Return the argument with its derivatives along the directions, None for all unit vectors."""
    if directions is not None:
        return Varying(flat, Jacobian(directions, Directions(len(directions), 0).dense(1)), None)
    n = flat.size
    most = n - 1 if sparsity is True else 0 if sparsity is False else int(_DENSE_ABOVE * n)
    all_directions = Directions(n, most)
    if most < 1:
        return Varying(flat, Jacobian(jnp.eye(n, dtype=flat.dtype), all_directions.dense(1)), None)
    pattern = all_directions.pattern(np.arange(n, dtype=np.int32)[None])
    return Varying(flat, Jacobian(jnp.ones((1, n), flat.dtype), pattern), None)
