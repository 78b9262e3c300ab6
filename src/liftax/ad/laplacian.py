"""The Laplacian and the divergence: traces of derivatives, without the matrix that they are traces of.

    laplacian  : (R^n -> b) -> R^n -> (b, b)       f(x), sum_i d^2 f / dx_i^2
    divergence : (R^n -> R^n) -> R^n -> (R^n, R)   f(x), sum_i d f_i / dx_i

The Laplacian is computed forwards, in one pass over the program. With each value `y` go its derivatives along the
directions `v_i` and the sum of its second derivatives along them,

    dy_i = Dg(x) dx_i,        ly = Dg(x) lx + sum_i D^2 g(x)[dx_i, dx_i]        for y = g(x).

The second derivatives are summed at every step, so that each linear step of the program costs one product a direction,
half of what the Hessian takes, and memory is that of the widest layer. With the unit vectors as directions the result
is exact; with random directions whose covariance is the identity it is an unbiased estimate.

Source: Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward Laplacian",
Nature Machine Intelligence 6 (2024); Hutchinson, Communications in Statistics 19 (1990).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from liftax import _compat
from liftax.ad.checks import check_float_primals, demand_callable, demand_pair, tree_mismatch
from liftax.errors import ArityError, NonDifferentiableOutputError
from liftax.typing import PRNGKey


def laplacian(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    key: PRNGKey | None = None,
    samples: int | None = None,
) -> tuple[Any, ...]:
    """Compute a function and its Laplacian in its first argument.

    Args:
        fun: The function; its output is a tree of floating-point arrays.
        *primals: Its arguments. The Laplacian is taken in all numbers of the first one, a tree of real arrays.
        has_aux: `fun` returns a pair `(output, aux)`.
        key: Together with `samples`: an rng key for an estimate.
        samples: Estimate from so many random directions (Rademacher vectors) instead of all unit vectors.

    Returns:
        `(out, laplacian)`, or `(out, laplacian, aux)` if `has_aux`; `laplacian` has the structure, the shapes and the
        dtypes of `out`.

    Raises:
        NonDifferentiablePrimalError: The first argument is not floating-point.
        ArityError: `fun` can't be called, or there is no argument; one of `key` and `samples` is missing.
        AuxError: With `has_aux`, `fun` returned no pair.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> out, lap = lx.laplacian(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]))
        >>> print(out, lap)
        9.0 18.0
    """
    flat, directions, call = _directions("laplacian", fun, primals, key, samples)
    types: list[Any] = []

    def pure(flat: Any) -> list[Any]:
        out = call(flat)
        out, aux = demand_pair(out, "laplacian") if has_aux else (out, None)
        leaves, treedef = jax.tree.flatten(out)
        rest, rest_treedef = jax.tree.flatten(aux)
        types.append((len(leaves), treedef, rest_treedef))
        return [*leaves, *rest]

    closed = jax.make_jaxpr(pure)(flat)
    count, treedef, rest_treedef = types[0]
    zero = jnp.zeros_like(flat)
    found = _propagate(closed.jaxpr, closed.consts, [(flat, directions, zero)])
    out = treedef.unflatten([value for value, _, _ in found[:count]])
    lap = treedef.unflatten([jnp.zeros_like(value) if lap is None else lap for value, _, lap in found[:count]])
    aux = rest_treedef.unflatten([value for value, _, _ in found[count:]])
    return (out, lap, aux) if has_aux else (out, lap)


def divergence(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    key: PRNGKey | None = None,
    samples: int | None = None,
) -> tuple[Any, ...]:
    """Compute a vector field and its divergence: the trace of its Jacobian in the first argument.

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
        NonDifferentiablePrimalError, ArityError, AuxError: see `laplacian`.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> out, div = lx.divergence(lambda x: x**2, jnp.array([1.0, 2.0]))
        >>> print(out, div)
        [1. 4.] 6.0
    """
    flat, directions, call = _directions("divergence", fun, primals, key, samples)

    def pure(flat: Any) -> Any:
        out = call(flat)
        out, aux = demand_pair(out, "divergence") if has_aux else (out, None)
        if found := tree_mismatch(primals[0], out):
            raise NonDifferentiableOutputError(
                f"divergence needs a field like its first argument{found.path and ' at '}{found.path}: expected "
                f"{found.expected}, got {found.got}."
            )
        return ravel_pytree(out)[0], (out, aux)

    _, jvp_fn, (out, aux) = jax.linearize(pure, flat, has_aux=True)
    if isinstance(directions, _Identity):
        div = jnp.trace(jax.vmap(jvp_fn)(directions.dense()))
    else:
        div = jnp.sum(jax.vmap(jvp_fn)(directions) * directions)
    return (out, div, aux) if has_aux else (out, div)


def _directions(
    what: str, fun: Callable[..., Any], primals: Sequence[Any], key: Any, samples: int | None
) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Return the first argument as one vector, directions as rows, and `fun` as a function of that vector."""
    demand_callable(fun, what)
    if not primals:
        raise ArityError(f"{what} is taken in the first argument, and got none: write {what}(f, x).")
    if (key is None) != (samples is None):
        raise ArityError(f"{what}: an estimate takes both key and samples; without both the result is exact.")
    check_float_primals(primals[:1], ["argument 0"], what)
    x = primals[0]
    flat, unravel = (x, lambda x: x) if isinstance(x, jax.Array) and x.ndim == 1 else ravel_pytree(x)
    if samples is None:
        directions = _Identity(flat)
    else:
        directions = jax.random.rademacher(key, (samples, flat.size), flat.dtype) / np.sqrt(samples).astype(flat.dtype)
    return flat, directions, lambda flat: fun(unravel(flat), *primals[1:])


# --- the pass over the program ---------------------------------------------------------------------------------------

_LINEAR = frozenset({
    "add_any", "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p", "cumsum",
    "dynamic_slice", "expand_dims", "gather", "neg", "pad", "reduce_sum", "real", "imag", "reshape", "rev",
    "select_n", "slice", "squeeze", "sub", "add", "transpose", "reduce_precision",
})  # fmt: skip
"""Primitives without a second derivative in the operands that can be differentiated."""

_POINTWISE = frozenset({
    "tanh", "sin", "cos", "tan", "exp", "exp2", "log", "log1p", "expm1", "logistic", "sqrt", "rsqrt", "cbrt",
    "integer_pow", "square", "erf", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "abs",
    "erf_inv", "lgamma", "digamma",
})  # fmt: skip
"""Primitives of one operand that act on each number alone."""

Carried = tuple[Any, Any, Any]
"""A value, its derivatives along the directions (leading axis), the sum of its second ones; None where constant."""


def _propagate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Carried]) -> list[Carried]:
    """Run `jaxpr` on values that carry derivatives."""
    env: dict[Any, Carried] = {}

    def read(v: Any) -> Carried:
        return (v.val, None, None) if hasattr(v, "val") else env[v]

    env.update(zip(jaxpr.constvars, ((c, None, None) for c in consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        inner = eqn.params.get("jaxpr") if eqn.primitive.name in ("pjit", "jit", "closed_call") else None
        if inner is not None:
            results = _propagate(inner.jaxpr, inner.consts, operands)
        else:
            results = _step(eqn, operands)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _step(eqn: Any, operands: Sequence[Carried]) -> list[Carried]:
    """Apply one equation."""
    moving = [i for i, (_, d, _) in enumerate(operands) if d is not None]
    values = [value for value, _, _ in operands]

    def run(*moved: Any) -> list[Any]:
        full = list(values)
        for i, x in zip(moving, moved, strict=True):
            full[i] = x
        return _compat.run_equation(eqn, full)

    if not moving:
        return [(y, None, None) for y in run()]
    point = tuple(values[i] for i in moving)
    first = tuple(operands[i][1] for i in moving)
    second = tuple(operands[i][2] for i in moving)
    name = eqn.primitive.name
    if name in _POINTWISE:
        (x,), (dx,), (lx,) = point, first, second
        dx = dx.dense() if isinstance(dx, _Identity) else dx
        slope = lambda x: jax.jvp(lambda x: run(x)[0], (x,), (jnp.ones_like(x),))  # noqa: E731
        (y, d1), (_, d2) = jax.jvp(slope, (x,), (jnp.ones_like(x),))
        return [(y, d1 * dx, d1 * lx + d2 * jnp.sum(dx * dx, 0))]
    if name == "dot_general" and isinstance(first[0], _Identity) and (rows := _rows(eqn, moving, values)) is not None:
        return [(y, rows, ly) for y, ly in zip(*jax.jvp(run, point, second), strict=True)]
    first = tuple(d.dense() if isinstance(d, _Identity) else d for d in first)
    if name == "mul" and len(moving) == 2:
        (a, b), (da, db), (la, lb) = point, first, second
        return [(a * b, da * b + a * db, la * b + a * lb + 2 * jnp.sum(da * db, 0))]
    ys, push = jax.linearize(run, *point)
    dys = jax.vmap(push)(*first)
    lys = push(*second)
    if name not in _LINEAR and not (name == "dot_general" and len(moving) == 1) and not _scales(name, moving):

        def curvature(*v: Any) -> list[Any]:
            return jax.jvp(lambda *p: jax.jvp(run, p, v)[1], point, v)[1]

        extra = jax.vmap(curvature)(*first)
        lys = [ly if _is_float0(ly) else ly + jnp.sum(e, 0) for ly, e in zip(lys, extra, strict=True)]
    return [(y, None, None) if _is_float0(ly) else (y, d, ly) for y, d, ly in zip(ys, dys, lys, strict=True)]


def _rows(eqn: Any, moving: Sequence[int], values: Sequence[Any]) -> Any:
    """Return the derivatives of a product of a vector with a constant along the unit vectors: the constant's rows."""
    contracted, batched = eqn.params["dimension_numbers"]
    if len(moving) != 1 or batched[0] or len(contracted[0]) != 1:
        return None
    other = 1 - moving[0]
    return jnp.moveaxis(values[other], contracted[other][0], 0).astype(eqn.outvars[0].aval.dtype)


class _Identity:
    """All unit vectors, not multiplied out before something needs them."""

    def __init__(self, x: Any):
        self.x = x

    def dense(self) -> Any:
        return jnp.eye(self.x.size, dtype=self.x.dtype)


def _scales(name: str, moving: Sequence[int]) -> bool:
    """Tell whether this is a product with a constant, or a quotient by one."""
    return (name == "mul" and len(moving) == 1) or (name == "div" and moving == [0])


def _is_float0(x: Any) -> bool:
    return x.dtype == jax.dtypes.float0
