"""Solutions of equations, and their derivatives by the implicit function theorem.

    fixed_point : (a -> b -> a) -> a -> b -> a     x = f(x, b)
    root        : (a -> b -> a) -> a -> b -> a     f(x, b) = 0

The solver is not differentiated. Where `g(x, b) = 0` holds for all `b`, `dx = -(dg/dx)^-1 (dg/db) db`: one linear
system, forwards and (transposed) backwards. So memory does not grow with the number of steps, and derivatives do not
depend on how the solution was found. Up to 512 unknowns the system is solved directly; beyond that by GMRES, with
products of the Jacobian alone, and where that does not get there the derivative is NaN. Where a function has a
derivative backwards alone, all of this is done with its backward map, and then there is no derivative forwards.

Source: `jax.lax.custom_root`; Bai, Kolter, Koltun, "Deep equilibrium models", NeurIPS 2019.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from liftax import _compat
from liftax.ad.checks import check_float_primals, demand_callable, demand_pair, describe, is_value, tree_mismatch
from liftax.ad.notes import noted
from liftax.errors import ArityError, CustomRuleError, NonDifferentiableOutputError


class SolveInfo(NamedTuple):
    """How a solver ended. It carries no derivative.

    Args:
        steps: the number of steps taken: an integer scalar.
        error: the largest absolute value in `f(x) - x`, or in `f(x)`. Larger than the tolerance: not converged.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> x, info = lx.fixed_point(lambda x: 0.5 * x + 1, jnp.zeros(()), max_steps=3)
        >>> print(info.steps, info.error)
        3 0.125
    """

    steps: Any
    error: Any


_DENSE = 512  # up to so many unknowns a Jacobian is made whole: a direct solve needs no luck with the spectrum


def fixed_point(
    fun: Callable[..., Any], x0: Any, *args: Any, has_aux: bool = False, tolerance: float = 1e-6, max_steps: int = 1000
) -> tuple[Any, ...]:
    """Solve `x = fun(x, *args)` by iteration, and differentiate the solution implicitly.

    The iteration converges where `fun` is a contraction; elsewhere use `root`.

    Args:
        fun: The function. Its output is like its first argument. Its solution can be differentiated in `args` and in
            what `fun` closes over, forwards and backwards, any number of times; with a `custom_vjp` on the way from
            `x`, backwards alone.
        x0: Where to start: a tree of floating-point arrays. The derivative in it is zero.
        *args: The other arguments.
        has_aux: `fun` returns a pair `(output, aux)`.
        tolerance: Stop when no number changes by more than this.
        max_steps: Stop after so many steps. Look at `info.error` if they may not do.

    Returns:
        `(x, info)`, the solution, like `x0`, and a `SolveInfo`; or `(x, info, aux)` if `has_aux`, with the `aux` of a
        run at the solution, which can be differentiated too.

    Raises:
        AuxError: With `has_aux`, `fun` returned no pair.
        NonDifferentiableOutputError: The output of `fun` is not like `x0`.
        NonDifferentiablePrimalError: `x0` is not floating-point.
        ArityError: `fun` can't be called with `(x0, *args)`; `tolerance` is no number, or `max_steps` no
            integer from 1 on.
        CustomRuleError: (while differentiating) A `custom_vjp` in `fun` has a rule that is not linear in the cotangent.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import liftax as lx
        >>> def sqrt(a):  # Heron
        ...     return lx.fixed_point(lambda x, a: 0.5 * (x + a / x), jnp.ones_like(a), a)[0]
        >>> print(f"{sqrt(4.0):.4f} {jax.grad(sqrt)(4.0):.4f}")
        2.0000 0.2500
    """
    _check("fixed_point", fun, x0, tolerance=tolerance, max_steps=max_steps)

    def residual(x: Any) -> Any:
        out = fun(x, *args)
        out = demand_pair(out, "fixed_point")[0] if has_aux else out
        return jax.tree.map(jnp.subtract, _alike(out, x, "fixed_point"), x)

    def step(f: Callable[[Any], Any], x: Any, fx: Any) -> Any:
        return jax.tree.map(jnp.add, x, fx)

    with noted(fun, (x0, *args), "fixed_point"):
        x, info = _solve("fixed_point", residual, step, step, x0, tolerance, max_steps)
    return (x, info, fun(x, *args)[1]) if has_aux else (x, info)


def root(
    fun: Callable[..., Any], x0: Any, *args: Any, has_aux: bool = False, tolerance: float = 1e-6, max_steps: int = 50
) -> tuple[Any, ...]:
    """Solve `fun(x, *args) = 0` by Newton's method, and differentiate the solution implicitly.

    Args:
        fun: The function; see `fixed_point`.
        x0: Where to start: a tree of floating-point arrays. The derivative in it is zero.
        *args: The other arguments.
        has_aux: `fun` returns a pair `(output, aux)`.
        tolerance: Stop when no number in the output of `fun` is larger than this.
        max_steps: Stop after so many steps. Look at `info.error` if they may not do.

    Returns:
        `(x, info)`, or `(x, info, aux)` if `has_aux`; see `fixed_point`.

    Raises:
        ArityError, AuxError, NonDifferentiableOutputError, NonDifferentiablePrimalError, CustomRuleError: see
            `fixed_point`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import liftax as lx
        >>> def cube_root(a):
        ...     return lx.root(lambda x: x**3 - a, jnp.ones_like(a))[0]
        >>> print(f"{cube_root(8.0):.4f} {jax.grad(cube_root)(8.0):.4f}")
        2.0000 0.0833
    """
    _check("root", fun, x0, tolerance=tolerance, max_steps=max_steps)

    def residual(x: Any) -> Any:
        out = fun(x, *args)
        return _alike(demand_pair(out, "root")[0] if has_aux else out, x, "root")

    def step(f: Callable[[Any], Any], x: Any, fx: Any) -> Any:
        return jax.tree.map(jnp.subtract, x, _linear_solve(lambda v: jax.jvp(f, (x,), (v,))[1], fx))

    def step_in_reverse(f: Callable[[Any], Any], x: Any, fx: Any) -> Any:
        flat, unravel = ravel_pytree(x)
        jacobian = jax.jacrev(lambda flat: ravel_pytree(f(unravel(flat)))[0])(flat)
        return unravel(flat - _direct(jacobian, ravel_pytree(fx)[0]))

    with noted(fun, (x0, *args), "root"):
        x, info = _solve("root", residual, step, step_in_reverse, x0, tolerance, max_steps)
    return (x, info, fun(x, *args)[1]) if has_aux else (x, info)


def _solve(
    what: str,
    residual: Callable[[Any], Any],
    step: Callable[..., Any],
    step_in_reverse: Callable[..., Any],
    x0: Any,
    tolerance: float,
    max_steps: int,
) -> tuple[Any, SolveInfo]:
    def iterate(step: Callable[..., Any], f: Callable[[Any], Any], x0: Any) -> tuple[Any, tuple[Any, Any]]:
        def unfinished(state: Any) -> Any:
            steps, _, _, error = state
            return (steps < max_steps) & ~(error <= tolerance)

        def advance(state: Any) -> Any:
            steps, x, fx, _ = state
            x = step(f, x, fx)
            fx = f(x)
            return steps + 1, x, fx, _size(fx)

        fx = f(x0)
        steps, x, _, error = jax.lax.while_loop(unfinished, advance, (0, x0, fx, _size(fx)))
        return x, (steps.astype(float), error)  # JAX takes no integers here

    x0 = jax.tree.map(jnp.asarray, x0)
    g, consts = _compat.closed(residual, x0)
    residual = functools.partial(g, consts)
    if _goes_forwards(residual, x0):
        solve = functools.partial(iterate, step)
        x, info = jax.lax.custom_root(residual, x0, solve, _linear_solve, has_aux=True)
    else:
        x, info = _solve_in_reverse(what, g, consts, functools.partial(iterate, step_in_reverse), x0)
    steps, error = jax.lax.stop_gradient(info)
    return x, SolveInfo(steps.astype(int), error)


def _goes_forwards(f: Callable[[Any], Any], x: Any) -> bool:
    """Tell whether there is no `jax.custom_vjp` between `x` and `f(x)`."""
    if not _uses(jax.make_jaxpr(f)(x).jaxpr, "custom_vjp_call"):  # by far the most frequent case
        return True
    return not _uses(jax.make_jaxpr(lambda x: jax.jvp(f, (x,), (x,))[1])(x).jaxpr, "custom_lin")


def _uses(jaxpr: Any, name: str) -> bool:
    for eqn in jaxpr.eqns:
        inner = [getattr(v, "jaxpr", v) for param in eqn.params.values() for v in jax.tree.leaves(param)]
        if eqn.primitive.name.startswith(name) or any(_uses(j, name) for j in inner if hasattr(j, "eqns")):
            return True
    return False


def _solve_in_reverse(
    what: str, g: Callable[..., Any], consts: Any, solve: Callable[..., Any], x0: Any
) -> tuple[Any, Any]:
    """Solve `g(consts, x) = 0`, where `g` has a derivative backwards alone, as with a `jax.custom_vjp` in it.

    For a cotangent u of the solution, `w^T dg/dx = -u^T`, and `w^T dg/db` is the cotangent of b.
    """

    @jax.custom_vjp
    def solved(consts: Any, x0: Any) -> Any:
        return solve(lambda x: g(consts, x), x0)

    def forward(consts: Any, x0: Any) -> Any:
        x, info = solved(consts, x0)
        return (x, info), (consts, x)

    def backward(residuals: Any, out_ct: Any) -> Any:
        consts, x = residuals
        _, pull = jax.vjp(lambda x: g(consts, x), x)
        try:
            w = _linear_solve(lambda w: pull(w)[0], jax.tree.map(jnp.negative, out_ct[0]))
        except (NotImplementedError, AssertionError) as error:  # what JAX says of a step that is not linear
            raise CustomRuleError(
                f"{what}: the backward rule of a custom_vjp in the function is not linear in its cotangent (it clips "
                "it, or takes its sign), so there is no implicit derivative. Apply the rule to the solution instead: "
                "outside of the function."
            ) from error
        _, pull = jax.vjp(lambda consts: g(consts, x), consts)
        return (*pull(w), jax.tree.map(jnp.zeros_like, x))

    solved.defvjp(forward, backward)
    return solved(consts, x0)


def _linear_solve(matvec: Callable[[Any], Any], b: Any) -> Any:
    # A solve by itself can't be transposed: what it does depends on b outside of its linear part.
    return jax.lax.custom_linear_solve(matvec, b, solve=_solved, transpose_solve=_solved)


def _solved(matvec: Callable[[Any], Any], b: Any) -> Any:
    flat, unravel = ravel_pytree(b)
    dtype = jnp.promote_types(flat.dtype, jnp.float32)  # what solvers know

    def product(v: Any) -> Any:
        return ravel_pytree(matvec(unravel(v.astype(flat.dtype))))[0].astype(dtype)

    wide = flat.astype(dtype)
    if flat.size <= _DENSE:
        x = _direct(jax.vmap(product, out_axes=1)(jnp.eye(flat.size, dtype=dtype)), wide)
    else:
        eps = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(b))
        x = _krylov(product, wide, eps)
    return unravel(x.astype(flat.dtype))


def _direct(matrix: Any, b: Any) -> Any:
    dtype = jnp.promote_types(b.dtype, jnp.float32)  # what solvers know
    return jnp.linalg.solve(matrix.astype(dtype), b.astype(dtype)).astype(b.dtype)


def _krylov(product: Callable[[Any], Any], b: Any, eps: float) -> Any:
    from jax.scipy.sparse.linalg import gmres  # on demand: it imports SciPy's special functions

    x = gmres(product, b, tol=max(8 * eps, 1e-12), restart=64, maxiter=8)[0]
    # GMRES may stagnate, and what it has then is no solution: NaN rather than a wrong derivative.
    solved = jnp.linalg.norm(product(x) - b) <= eps**0.5 * jnp.linalg.norm(b)
    return jnp.where(solved, x, jnp.nan)


def _size(tree: Any) -> Any:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0.0).astype(float) for x in jax.tree.leaves(tree)]))


def _check(what: str, fun: Any, x0: Any, *, tolerance: Any, max_steps: Any) -> None:
    demand_callable(fun, what)
    check_float_primals((x0,), ["x0"], what)
    for name, number in (("tolerance", tolerance), ("max_steps", max_steps)):
        if not is_value(number) or jnp.shape(number) != ():
            raise ArityError(f"{what} got {name}={describe(number)}, expected a number.")
    whole = not isinstance(max_steps, bool) and jnp.issubdtype(jax.dtypes.result_type(max_steps), jnp.integer)
    if not whole or (isinstance(max_steps, int) and max_steps < 1):
        raise ArityError(f"{what} got max_steps={max_steps!r}, expected a number of steps, an integer from 1 on.")


def _alike(out: Any, x: Any, what: str) -> Any:
    if found := tree_mismatch(x, out):
        raise NonDifferentiableOutputError(
            f"{what} needs a function whose output is like its first argument{found.path and ' at '}{found.path}: "
            f"expected {found.expected}, got {found.got}."
        )
    return out
