"""The two equations: `fixed_point` and `root`, and what can be wrong with a call."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, overload

import jax
import jax.numpy as jnp

from liftax.ad.checks import check_float_primals
from liftax.ad.implicit.derivative import solution
from liftax.ad.implicit.failure import OnFailure, settle
from liftax.ad.implicit.iteration import SolveInfo, Stop
from liftax.ad.implicit.linear import is_linear_solver
from liftax.ad.implicit.solvers import Anderson, Newton, Picard, is_optimistix
from liftax.ad.notes import noted
from liftax.errors import ArityError, NonDifferentiableOutputError
from liftax.explain.functions import demand_callable, demand_pair
from liftax.explain.transform import Transform
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import describe, is_value

A = TypeVar("A")

FIXED_POINT = Transform("fixed_point", "(f, x0)")
ROOT = Transform("root", "(f, x0)")


@overload
def fixed_point(
    fun: Callable[..., Any], x0: A, *args: Any, has_aux: Literal[False] = False, rtol: float | None = None,
    atol: float | None = None, max_steps: int = 1000, solver: Any = None, linear_solver: Any = None,
    on_failure: OnFailure = "nan",
) -> tuple[A, SolveInfo]: ...  # fmt: skip
@overload
def fixed_point(
    fun: Callable[..., Any], x0: A, *args: Any, has_aux: Literal[True], rtol: float | None = None,
    atol: float | None = None, max_steps: int = 1000, solver: Any = None, linear_solver: Any = None,
    on_failure: OnFailure = "nan",
) -> tuple[A, SolveInfo, Any]: ...  # fmt: skip
@overload
def fixed_point(
    fun: Callable[..., Any], x0: Any, *args: Any, has_aux: bool = False, rtol: float | None = None,
    atol: float | None = None, max_steps: int = 1000, solver: Any = None, linear_solver: Any = None,
    on_failure: OnFailure = "nan",
) -> tuple[Any, ...]: ...  # fmt: skip
def fixed_point(
    fun: Callable[..., Any],
    x0: Any,
    *args: Any,
    has_aux: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 1000,
    solver: Any = None,
    linear_solver: Any = None,
    on_failure: OnFailure = "nan",
) -> tuple[Any, ...]:
    """Solve `x = fun(x, *args)` by iteration, and differentiate the solution implicitly.

    The plain iteration converges where `fun` is a contraction. Where it is a weak one, or not quite one, use
    `solver=lx.Anderson()`; elsewhere `root`.

    Args:
        fun: The function. Its output is like its first argument. Its solution can be differentiated with respect to
            `args` and what `fun` closes over, forwards and backwards, any number of times; with a `custom_vjp` on the
            way from `x`, only backwards.
        x0: Where to start: a tree of floating-point arrays. The derivative with respect to it is zero.
        *args: The other arguments.
        has_aux: `fun` returns a pair `(output, aux)`.
        rtol: Relative tolerance; None for 4 units in the last place of the dtype of each array in `x0`.
        atol: Absolute tolerance; None for the same number. The iteration stops where, for each array, no number in
            `fun(x) - x` is larger than `atol + rtol * max|x|`, or where only rounding keeps it from getting there. The
            error of `x` itself is larger, by `1 / (1 - q)` where each step shrinks it by `q`.
        max_steps: Stop after so many steps.
        solver: `lx.Picard()`, the default; `lx.Anderson()`, `lx.Newton()`, or a solver of Optimistix, which brings its
            own tolerances.
        linear_solver: Solves the linear system of the derivative (and of Newton's steps): `lx.Direct()`, `lx.GMRES()`
            or a solver of Lineax; None for the first up to 512 unknowns and the second beyond. Where it fails the
            derivative is NaN, unless `on_failure` is "return".
        on_failure: What to return where no solution was found: "nan" for NaN, also in derivatives; "raise" for an
            error, which inside `jax.jit` has to be taken out by `jax.experimental.checkify`; "return" for what was
            reached: look at `info.converged`.

    Returns:
        `(x, info)`, the solution, like `x0`, and a `SolveInfo`; or `(x, info, aux)` if `has_aux`, with the `aux` of a
        run at the solution, which can be differentiated too.

    Raises:
        AuxError: With `has_aux`, `fun` returned anything but a pair.
        NonDifferentiableOutputError: The output of `fun` is not like `x0`.
        NonDifferentiablePrimalError: `x0` is not floating-point.
        ArityError: `fun` can't be called with `(x0, *args)`, or an option is not what it has to be.
        ConvergenceError: With `on_failure="raise"`, no solution was found.
        CustomRuleError: (while differentiating) A `custom_vjp` in `fun` has a rule that is not linear in the cotangent.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import liftax as lx
        >>> def sqrt(a):  # Heron
        ...     return lx.fixed_point(lambda x, a: 0.5 * (x + a / x), jnp.ones_like(a), a)[0]
        >>> print(f"{sqrt(4.0):.4f} {jax.grad(sqrt)(4.0):.4f}")
        2.0000 0.2500
    """
    _check(FIXED_POINT, fun, x0, rtol, atol, max_steps, solver, linear_solver, on_failure)

    def residual(x: Any) -> Any:
        out = fun(x, *args)
        out = demand_pair(out, FIXED_POINT)[0] if has_aux else out
        return jax.tree.map(jnp.subtract, _alike(out, x, FIXED_POINT), x)

    stop = Stop(rtol, atol, max_steps, of_change=False, floor=0.75, patience=32)
    with noted(fun, (x0, *args), FIXED_POINT):
        x, info = solution(FIXED_POINT, residual, x0, solver or Picard(), stop, linear_solver, on_failure == "return")
    x = settle(FIXED_POINT, x, info, on_failure)
    return (x, info, fun(x, *args)[1]) if has_aux else (x, info)


@overload
def root(
    fun: Callable[..., Any], x0: A, *args: Any, has_aux: Literal[False] = False, rtol: float | None = None,
    atol: float | None = None, max_steps: int = 50, solver: Any = None, linear_solver: Any = None,
    on_failure: OnFailure = "nan",
) -> tuple[A, SolveInfo]: ...  # fmt: skip
@overload
def root(
    fun: Callable[..., Any], x0: A, *args: Any, has_aux: Literal[True], rtol: float | None = None,
    atol: float | None = None, max_steps: int = 50, solver: Any = None, linear_solver: Any = None,
    on_failure: OnFailure = "nan",
) -> tuple[A, SolveInfo, Any]: ...  # fmt: skip
@overload
def root(
    fun: Callable[..., Any], x0: Any, *args: Any, has_aux: bool = False, rtol: float | None = None,
    atol: float | None = None, max_steps: int = 50, solver: Any = None, linear_solver: Any = None,
    on_failure: OnFailure = "nan",
) -> tuple[Any, ...]: ...  # fmt: skip
def root(
    fun: Callable[..., Any],
    x0: Any,
    *args: Any,
    has_aux: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 50,
    solver: Any = None,
    linear_solver: Any = None,
    on_failure: OnFailure = "nan",
) -> tuple[Any, ...]:
    """Solve `fun(x, *args) = 0` by Newton's method, and differentiate the solution implicitly.

    Args:
        fun: The function; see `fixed_point`.
        x0: Where to start: a tree of floating-point arrays. The derivative with respect to it is zero.
        *args: The other arguments.
        has_aux: `fun` returns a pair `(output, aux)`.
        rtol: Relative tolerance; None for 4 units in the last place of the dtype of each array in `x0`.
        atol: Absolute tolerance; None for the same number. The iteration stops where, for each array, a step changes no
            number by more than `atol + rtol * max|x|`, or where only rounding keeps it from getting there. The value
            of `fun`, whose unit is another, is not compared with anything.
        max_steps: Stop after so many steps.
        solver: `lx.Newton()`, the default, or a solver of Optimistix, which brings its own tolerances.
        linear_solver: See `fixed_point`.
        on_failure: See `fixed_point`.

    Returns:
        `(x, info)`, or `(x, info, aux)` if `has_aux`; see `fixed_point`.

    Raises:
        ArityError, AuxError, ConvergenceError, CustomRuleError: see `fixed_point`.
        NonDifferentiableOutputError, NonDifferentiablePrimalError: see `fixed_point`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import liftax as lx
        >>> def cube_root(a):
        ...     return lx.root(lambda x: x**3 - a, jnp.ones_like(a))[0]
        >>> print(f"{cube_root(8.0):.4f} {jax.grad(cube_root)(8.0):.4f}")
        2.0000 0.0833
    """
    _check(ROOT, fun, x0, rtol, atol, max_steps, solver, linear_solver, on_failure)
    if isinstance(solver, Picard | Anderson):
        raise ArityError(
            f"root got solver={solver!r}, which iterates towards a fixed point. Use lx.Newton() or a solver of "
            "Optimistix; or write the equation as one for a fixed point: fixed_point(lambda x: x - c * fun(x), …)."
        )

    def residual(x: Any) -> Any:
        out = fun(x, *args)
        return _alike(demand_pair(out, ROOT)[0] if has_aux else out, x, ROOT)

    stop = Stop(rtol, atol, max_steps, of_change=True, floor=0.5, patience=3)
    with noted(fun, (x0, *args), ROOT):
        x, info = solution(ROOT, residual, x0, solver or Newton(), stop, linear_solver, on_failure == "return")
    x = settle(ROOT, x, info, on_failure)
    return (x, info, fun(x, *args)[1]) if has_aux else (x, info)


def _check(
    transform: Transform,
    fun: Any,
    x0: Any,
    rtol: Any,
    atol: Any,
    max_steps: Any,
    solver: Any,
    linear_solver: Any,
    on_failure: Any,
) -> None:
    demand_callable(fun, transform)
    check_float_primals((x0,), ["x0"], transform)
    for name, number in (("rtol", rtol), ("atol", atol), ("max_steps", max_steps)):
        if number is not None and (not is_value(number) or jnp.shape(number) != ()):
            raise ArityError(f"{transform} got {name}={describe(number)}, expected a number.")
    whole = is_value(max_steps) and not isinstance(max_steps, bool)
    whole = whole and jnp.issubdtype(jax.dtypes.result_type(max_steps), jnp.integer)
    if not whole or (isinstance(max_steps, int) and max_steps < 1):
        raise ArityError(f"{transform} got max_steps={max_steps!r}, expected a number of steps, an integer from 1 on.")
    if solver is not None and not (isinstance(solver, Picard | Anderson | Newton) or is_optimistix(solver)):
        raise ArityError(
            f"{transform} got solver={describe(solver)}, expected a solver: lx.Picard(), lx.Anderson() or "
            "lx.Newton(), or a "
            "solver of Optimistix, such as optimistix.LevenbergMarquardt(rtol=1e-5, atol=1e-6)."
        )
    if linear_solver is not None and not is_linear_solver(linear_solver):
        raise ArityError(
            f"{transform} got linear_solver={describe(linear_solver)}, expected lx.Direct() or lx.GMRES(), or a "
            "solver of "
            "Lineax, such as lineax.LU()."
        )
    if is_optimistix(solver) and not (rtol is atol is None):
        raise ArityError(
            f"{transform} got rtol={rtol!r} and atol={atol!r} beside a solver of Optimistix, which has tolerances of "
            "its "
            f"own. Give them to {type(solver).__name__}."
        )
    if on_failure not in get_args(OnFailure):
        raise ArityError(f"{transform} got on_failure={on_failure!r}, expected 'nan', 'raise' or 'return'.")


def _alike(out: Any, x: Any, transform: Transform) -> Any:
    if found := tree_mismatch(x, out):
        raise NonDifferentiableOutputError(
            f"{transform} needs a function whose output is like its first argument{found.path and ' at '}{found.path}: "
            f"expected {found.expected}, got {found.got}."
        )
    return out
