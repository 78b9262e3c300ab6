"""Solutions that are differentiated by the implicit function theorem.

    solution : (a -> a) -> a -> (a, SolveInfo)

The solver is not differentiated. Where `g(x, b) = 0` holds for all `b`, `dx = -(dg/dx)^-1 (dg/db) db`: one linear
system, forwards and (transposed) backwards. So memory does not grow with the number of steps, and derivatives do not
depend on how the solution was found. Where a function has a derivative backwards only, all of this is done with its
backward map, and then there is no derivative forwards.

Source: `jax.lax.custom_root`; Bai, Kolter, Koltun, "Deep equilibrium models", NeurIPS 2019.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from liftax import _compat
from liftax.ad.implicit.iteration import SolveInfo, Stop, iterate
from liftax.ad.implicit.linear import differentiable_solve
from liftax.ad.implicit.solvers import Equation, is_optimistix, solve_by_optimistix
from liftax.errors import CustomRuleError
from liftax.explain.transform import Transform


def solution(
    transform: Transform,
    residual: Callable[[Any], Any],
    x0: Any,
    solver: Any,
    stop: Stop,
    linear_solver: Any,
    keep: bool,
) -> tuple[Any, SolveInfo]:
    """Solve `residual(x) = 0`, and differentiate the solution with respect to what `residual` closes over.

    Args:
        transform: for error messages.
        residual: the function whose root is wanted.
        x0: where to start.
        solver: a solver of this package or of Optimistix.
        stop: when to stop.
        linear_solver: what solves the linear systems.
        keep: return derivatives even where their linear system was not solved, instead of NaN.
    """
    x0 = jax.tree.map(jnp.asarray, x0)
    g, consts = _compat.closed(residual, x0)
    residual = functools.partial(g, consts)
    forwards = _goes_forwards(residual, x0)

    def solve(f: Callable[[Any], Any], x0: Any) -> Any:
        if is_optimistix(solver):
            return solve_by_optimistix(solver, not stop.of_change, stop.max_steps, f, x0)
        return iterate(solver, stop, Equation(f, linear_solver, forwards), x0)

    invert = functools.partial(differentiable_solve, linear_solver, keep)
    if forwards:
        x, info = jax.lax.custom_root(residual, x0, solve, invert, has_aux=True)
    else:
        x, info = _solution_backwards(transform, g, consts, solve, invert, x0)
    steps, error, converged = jax.lax.stop_gradient(info)
    return x, SolveInfo(steps.astype(int), error, converged.astype(bool))


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


def _solution_backwards(
    transform: Transform,
    g: Callable[..., Any],
    consts: Any,
    solve: Callable[..., Any],
    invert: Callable[..., Any],
    x0: Any,
) -> tuple[Any, Any]:
    """Solve `g(consts, x) = 0`, where `g` has a derivative backwards alone, as with a `jax.custom_vjp` in it.

    For a cotangent u of the solution, `w^T dg/dx = -u^T`, and `w^T dg/db` is the cotangent of b.
    """

    @jax.custom_vjp
    def solved(consts: Any, x0: Any) -> Any:
        return solve(lambda x: g(consts, x), x0)

    def forward(consts: Any, x0: Any) -> Any:
        # A rule of a custom_vjp can't be differentiated in what it closes over: a constant counts only where it varies.
        moving = [c.value if c.perturbed else None for c in consts]
        fixed = [None if c.perturbed else c.value for c in consts]
        consts, x0 = custom_vjp_primal_tree_values((consts, x0))
        x, info = solved(consts, x0)
        return (x, info), (moving, fixed, x)

    def backward(residuals: Any, out_ct: Any) -> Any:
        moving, fixed, x = residuals
        u = jax.tree.map(_dense, out_ct[0], is_leaf=lambda ct: isinstance(ct, SymbolicZero))

        def of(moving: Any, x: Any) -> Any:
            return g([b if a is None else a for a, b in zip(moving, fixed, strict=True)], x)

        _, pull = jax.vjp(lambda x: of(moving, x), x)
        try:
            w = invert(lambda w: pull(w)[0], jax.tree.map(jnp.negative, u))
        except (NotImplementedError, AssertionError) as error:  # what JAX says of a step that is not linear
            raise CustomRuleError(
                f"{transform}: the backward rule of a custom_vjp in the function is not linear in its cotangent (it "
                "clips "
                "it, or takes its sign), so there is no implicit derivative. Apply the rule to the solution instead: "
                "outside of the function."
            ) from error
        _, pull = jax.vjp(lambda moving: of(moving, x), moving)
        return (*pull(w), None)

    solved.defvjp(forward, backward, symbolic_zeros=True)
    return solved(consts, x0)


def _dense(ct: Any) -> Any:
    return jnp.zeros(ct.shape, jnp.result_type(ct)) if isinstance(ct, SymbolicZero) else ct
