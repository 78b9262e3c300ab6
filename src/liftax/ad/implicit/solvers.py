"""Steps towards a solution: Picard's, Anderson's, Newton's, and solvers of Optimistix.

A solver has `start(x) -> memory` and `step(equation, x, f(x), memory) -> (x, memory)`, where `f` is the function whose
root is wanted: for a fixed point of `g` that is `g(x) - x`. `iteration` decides when to stop. A solver of Optimistix
keeps its own loop, with its own tolerances.

Source: D. G. Anderson, "Iterative procedures for nonlinear integral equations", J. ACM 12 (1965); H. F. Walker and
P. Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49 (2011), in the form without
constraints.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from liftax.ad.implicit import linear
from liftax.ad.implicit.iteration import as_floats, largest


class Equation(NamedTuple):
    """What is to be zero.

    Args:
        f: the function whose root is wanted.
        linear_solver: what solves the linear systems of Newton's method.
        forwards: `f` has a derivative forwards. Otherwise its Jacobian is made row by row, backwards.
    """

    f: Callable[[Any], Any]
    linear_solver: Any
    forwards: bool

    def correction(self, x: Any, fx: Any) -> Any:
        """Return the change of `x` along which the linearized function changes by `fx`."""
        if self.forwards:
            return linear.solve(self.linear_solver, jax.linearize(self.f, x)[1], fx)[0]
        flat, unravel = ravel_pytree(x)
        rows = jax.jacrev(lambda flat: ravel_pytree(self.f(unravel(flat)))[0])(flat)
        return linear.solve(self.linear_solver, lambda v: unravel(rows @ ravel_pytree(v)[0]), fx)[0]


@dataclasses.dataclass(frozen=True)
class Picard:
    """Step from `x` to `f(x)`, or a part of the way: the plain iteration, for fixed points.

    It converges where `f` is a contraction, in more steps the weaker a contraction it is.

    Args:
        damping: The part of the way to go, above 0 and at most 1.

    Example:
        >>> import liftax as lx
        >>> x, info = lx.fixed_point(lambda x: 3 - 2 * x, 0.0, solver=lx.Picard(damping=0.25))  # no contraction
        >>> print(x.round(4))
        1.0
    """

    damping: float = 1.0

    def start(self, x: Any) -> Any:
        """Return nothing to remember."""
        return ()

    def step(self, equation: Equation, x: Any, fx: Any, memory: Any) -> tuple[Any, Any]:
        """Take one step."""
        if self.damping == 1.0:
            return jax.tree.map(jnp.add, x, fx), memory
        return jax.tree.map(lambda x, d: (x + self.damping * d).astype(x.dtype), x, fx), memory


@dataclasses.dataclass(frozen=True)
class Anderson:
    """Step to the point whose residual the last steps suggest to be least: Anderson acceleration, for fixed points.

    It takes far fewer steps than `Picard` where the contraction is weak, and keeps `2 * depth` copies of `x`.

    Args:
        depth: How many steps to look back.
        damping: The part of the suggested residual to go, above 0 and at most 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> x, info = lx.fixed_point(lambda x: 0.999 * x + 1, jnp.zeros(()), solver=lx.Anderson())
        >>> print(f"{x:.0f}", info.steps < 10)
        1000 True
    """

    depth: int = 5
    damping: float = 1.0

    def start(self, x: Any) -> Any:
        """Return an empty history: differences of `x` and of the residual, the last of both, and a counter."""
        flat = ravel_pytree(x)[0]
        flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
        history = jnp.zeros((self.depth, flat.size), flat.dtype)
        return history, history, flat, jnp.zeros_like(flat), 0

    def step(self, equation: Equation, x: Any, fx: Any, memory: Any) -> tuple[Any, Any]:
        """Take one step."""
        flat, unravel = ravel_pytree(x)
        dx, dr, last_x, last_r, count = memory
        at, r = flat.astype(dx.dtype), ravel_pytree(fx)[0].astype(dx.dtype)
        row = (count - 1) % self.depth
        dx = jnp.where(count > 0, dx.at[row].set(at - last_x), dx)
        dr = jnp.where(count > 0, dr.at[row].set(r - last_r), dr)
        norms = jnp.linalg.norm(dr, axis=1, keepdims=True)
        unit = dr / jnp.where(norms == 0, 1, norms)  # old differences are larger, but not more important
        ridge = 10 * jnp.finfo(dx.dtype).eps * jnp.eye(self.depth, dtype=dx.dtype)
        weights = jnp.linalg.solve(unit.conj() @ unit.T + ridge, unit.conj() @ r)
        weights = weights / jnp.where(norms == 0, 1, norms)[:, 0]
        new = at + self.damping * r - weights @ (dx + self.damping * dr)
        return unravel(new.astype(flat.dtype)), (dx, dr, at, r, count + 1)


@dataclasses.dataclass(frozen=True)
class Newton:
    """Step to the root of the linearized function: Newton's method.

    Near a solution each step doubles the number of right digits. A step solves a linear system, by `linear_solver` of
    `fixed_point` or `root`.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> x, info = lx.fixed_point(jnp.cos, 0.0, solver=lx.Newton())
        >>> print(f"{x:.4f}", info.steps < 7)
        0.7391 True
    """

    def start(self, x: Any) -> Any:
        """Return nothing to remember."""
        return ()

    def step(self, equation: Equation, x: Any, fx: Any, memory: Any) -> tuple[Any, Any]:
        """Take one step."""
        return jax.tree.map(jnp.subtract, x, equation.correction(x, fx)), memory


def is_optimistix(x: Any) -> bool:
    """Tell whether `x` is a solver of Optimistix."""
    optx = sys.modules.get("optimistix")  # whoever has made a solver of it has imported it
    return optx is not None and isinstance(x, optx.AbstractIterativeSolver)


def solve_by_optimistix(
    solver: Any, fixed: bool, max_steps: int, f: Callable[[Any], Any], x0: Any
) -> tuple[Any, tuple[Any, Any, Any]]:
    """Return what `iterate` returns, found by a solver of Optimistix.

    Args:
        solver: the solver.
        fixed: pose the problem as that of a fixed point of `x + f(x)`, not of a root of `f`.
        max_steps: the most steps.
        f: the function whose root is wanted.
        x0: where to start.
    """
    import optimistix as optx

    if fixed:
        fn = lambda x, _: jax.tree.map(jnp.add, x, f(x))  # noqa: E731
        found = optx.fixed_point(fn, solver, x0, max_steps=max_steps, throw=False)
    else:
        found = optx.root_find(lambda x, _: f(x), solver, x0, max_steps=max_steps, throw=False)
    converged = found.result == optx.RESULTS.successful
    return found.value, as_floats(found.stats["num_steps"], largest(f(found.value)), converged)
