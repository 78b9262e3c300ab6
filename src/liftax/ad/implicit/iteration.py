"""When an iteration towards a solution stops, and whether it got there.

    iterate : solver -> (a -> a) -> a -> (a, SolveInfo)

The measure of an array is a step's largest absolute value: of `f(x) - x` for a fixed point, of the change of `x` for a
root, whose function may have any unit. It has arrived where, for each array of `x`, the measure is at most
`atol + rtol * max|x|`. Left to liftax, both tolerances are 4 units in the last place of the array's dtype, which an
iteration may miss by rounding. So it also stops where the measure no longer falls, and that counts as a solution within
a looser bound, the *floor*. Of an iteration that converges slowly the measure falls in each window of `patience` steps;
one that has not fallen for 100 steps goes nowhere.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_PATIENCE = 100  # steps without progress, anywhere
_ULPS = 4


class SolveInfo(NamedTuple):
    """How a solver ended. It carries no derivative.

    Args:
        steps: The number of steps taken: an integer scalar.
        error: The largest absolute value in `f(x) - x`, or in `f(x)`: a float scalar.
        converged: Whether `x` is a solution, within the tolerances or as far as rounding permits: a Boolean scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> x, info = lx.fixed_point(lambda x: 0.5 * x + 1, jnp.zeros(()), max_steps=3, on_failure="return")
        >>> print(info.steps, info.error, info.converged)
        3 0.125 False
    """

    steps: Any
    error: Any
    converged: Any


class Stop(NamedTuple):
    """When to stop.

    Args:
        rtol: the relative tolerance; None for that of each dtype.
        atol: the absolute tolerance; None for that of each dtype.
        max_steps: the most steps.
        of_change: measure the change of `x`, not the value of the function.
        floor: the power of the dtype's epsilon that bounds, relative to `x`, what rounding may leave.
        patience: the steps without progress after which rounding is what is left.
    """

    rtol: Any
    atol: Any
    max_steps: Any
    of_change: bool
    floor: float
    patience: int


class _State(NamedTuple):
    steps: Any
    x: Any
    fx: Any
    memory: Any
    least: Any
    """the least measure so far"""
    idle: Any
    """the number of steps since then"""
    finite: Any
    converged: Any


def iterate(solver: Any, stop: Stop, equation: Any, x0: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """Take steps of `solver` from `x0` until `stop` says so; return `x` and the fields of `SolveInfo`, as floats."""
    f: Callable[[Any], Any] = equation.f

    def unfinished(s: _State) -> Any:
        return (s.steps < stop.max_steps) & ~s.converged & s.finite & (s.idle < _PATIENCE)

    def advance(s: _State) -> _State:
        x, memory = solver.step(equation, s.x, s.fx, s.memory)
        fx = f(x)
        sizes = _sizes(jax.tree.map(jnp.subtract, x, s.x) if stop.of_change else fx)
        size = functools.reduce(jnp.maximum, sizes)
        within, near = _within(sizes, x, stop)
        idle = jnp.where(size < s.least, 0, s.idle + 1)
        converged = within | (near & (idle >= stop.patience))
        finite = jnp.isfinite(size)
        if stop.of_change:
            error = largest(fx)
            converged, finite = converged | (error == 0), finite & jnp.isfinite(error)
        return _State(s.steps + 1, x, fx, memory, jnp.minimum(size, s.least), idle, finite, converged & finite)

    fx = f(x0)
    size = largest(fx)
    arrived = (size == 0) if stop.of_change else _within(_sizes(fx), x0, stop)[0]
    start = _State(0, x0, fx, solver.start(x0), jnp.full_like(size, jnp.inf), 0, jnp.isfinite(size), arrived)
    end = jax.lax.while_loop(unfinished, advance, start)
    return end.x, as_floats(end.steps, largest(end.fx), end.converged)


def as_floats(steps: Any, error: Any, converged: Any) -> tuple[Any, Any, Any]:
    """Return the fields of `SolveInfo` as what `jax.lax.custom_root` takes, which no integer is."""
    return jnp.asarray(steps).astype(float), error, jnp.asarray(converged).astype(float)


def largest(tree: Any) -> Any:
    """Return the largest absolute value in a tree of arrays, a float scalar."""
    return functools.reduce(jnp.maximum, _sizes(tree))


def _sizes(tree: Any) -> list[Any]:
    return [jnp.max(jnp.abs(x), initial=0.0).astype(float) for x in jax.tree.leaves(tree)]


def _within(sizes: list[Any], x: Any, stop: Stop) -> tuple[Any, Any]:
    """Tell whether a measure is within the tolerances, and whether it is near enough for rounding to be what is left.

    Args:
        sizes: the largest absolute value of the measure, for each array of `x`.
        x: where.
        stop: the tolerances.
    """
    within, near = [], []
    for size, scale, at in zip(sizes, _sizes(x), jax.tree.leaves(x), strict=True):
        eps = float(jnp.finfo(at.dtype).eps)
        rtol, atol = (_ULPS * eps if t is None else t for t in (stop.rtol, stop.atol))
        within.append(size <= atol + rtol * scale)
        near.append(size <= atol + eps**stop.floor * scale)
    near = functools.reduce(jnp.logical_and, near)
    return functools.reduce(jnp.logical_and, within), near
