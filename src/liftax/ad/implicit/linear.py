"""Linear systems `A x = b`, with `A` given by its products: those of the implicit derivative, and Newton's.

    solve : (a -o a) -> a -> a

Up to 512 unknowns the matrix is made and factorized: a direct solve needs no luck with the spectrum. Beyond that GMRES
uses products only; where it does not get there, the result is NaN rather than a wrong derivative. Any solver of Lineax
may be given instead.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

Matvec = Callable[[Any], Any]
_DENSE = 512  # unknowns


@dataclasses.dataclass(frozen=True)
class Direct:
    """Solve a linear system by making its matrix whole and factorizing it (LU with pivoting).

    For `linear_solver=` of `fixed_point` and `root`. It takes `n` products and `n**2` numbers for `n` unknowns.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> x, _ = lx.root(lambda x: 2 * x - jnp.roll(x, 1) - 1, jnp.zeros(600), linear_solver=lx.Direct())
        >>> print(x[0])
        1.0
    """

    def solve(self, product: Matvec, b: Any) -> tuple[Any, Any]:
        """Return `(x, solved)` for a vector `b` of single or double precision."""
        matrix = jax.vmap(product, out_axes=1)(jnp.eye(b.size, dtype=b.dtype))
        x = jnp.linalg.solve(matrix, b)
        return x, jnp.all(jnp.isfinite(x))


@dataclasses.dataclass(frozen=True)
class GMRES:
    """Solve a linear system by the generalized minimal residual method, with products only.

    For `linear_solver=` of `fixed_point` and `root`.

    Args:
        rtol: Stop where the residual's norm is this part of that of `b`; None for 8 units in the last place.
        restart: The number of vectors kept, after which it starts anew.
        max_restarts: How often.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> solver = lx.GMRES(restart=20)
        >>> x, _ = lx.root(lambda x: 2 * x - 0.5 * jnp.roll(x, 1) - 3, jnp.zeros(600), linear_solver=solver)
        >>> print(f"{x[0]:.3f}")
        2.000
    """

    rtol: float | None = None
    restart: int = 64
    max_restarts: int = 8

    def solve(self, product: Matvec, b: Any) -> tuple[Any, Any]:
        """Return `(x, solved)` for a vector `b` of single or double precision."""
        from jax.scipy.sparse.linalg import gmres  # on demand: it imports SciPy's special functions

        eps = float(jnp.finfo(b.dtype).eps)
        rtol = max(8 * eps, 1e-12) if self.rtol is None else self.rtol
        x = gmres(product, b, tol=rtol, restart=min(self.restart, b.size), maxiter=self.max_restarts)[0]
        # GMRES may stagnate, and what it has then is no solution.
        return x, jnp.linalg.norm(product(x) - b) <= jnp.maximum(rtol, eps**0.5) * jnp.linalg.norm(b)


class Lineax:
    """A solver of Lineax, as `Direct` and `GMRES` are.

    Args:
        solver: a `lineax.AbstractLinearSolver`.
    """

    def __init__(self, solver: Any):
        self.solver = solver

    def solve(self, product: Matvec, b: Any) -> tuple[Any, Any]:
        """Return `(x, solved)` for a vector `b`."""
        import lineax

        operator = lineax.FunctionLinearOperator(product, jax.ShapeDtypeStruct(b.shape, b.dtype))
        found = lineax.linear_solve(operator, b, self.solver, throw=False)
        return found.value, found.result == lineax.RESULTS.successful


def is_linear_solver(x: Any) -> bool:
    """Tell whether `x` is a linear solver: one of this file, or of Lineax."""
    lineax = sys.modules.get("lineax")  # whoever has made a solver of it has imported it
    return isinstance(x, Direct | GMRES) or (lineax is not None and isinstance(x, lineax.AbstractLinearSolver))


def solve(solver: Any, matvec: Matvec, b: Any) -> tuple[Any, Any]:
    """Return `(x, solved)`: a solution of `matvec(x) = b`, and whether it is one.

    Args:
        solver: a linear solver; None for the one that the number of unknowns suggests.
        matvec: a linear function of trees like `b`.
        b: a tree of arrays.
    """
    flat, unravel = ravel_pytree(b)
    dtype = jnp.promote_types(flat.dtype, jnp.float32)  # the least precision that the solvers handle

    def product(v: Any) -> Any:
        return ravel_pytree(matvec(unravel(v.astype(flat.dtype))))[0].astype(dtype)

    if solver is None:
        solver = Direct() if flat.size <= _DENSE else GMRES(rtol=_rounding(b))
    elif not isinstance(solver, Direct | GMRES):
        solver = Lineax(solver)
    x, solved = solver.solve(product, flat.astype(dtype))
    return unravel(x.astype(flat.dtype)), solved


def differentiable_solve(solver: Any, keep: bool, matvec: Matvec, b: Any) -> Any:
    """Return `x` with `matvec(x) = b`, which can be differentiated; NaN where there is no solution, unless `keep`."""

    def solved(matvec: Matvec, b: Any) -> Any:
        x, ok = solve(solver, matvec, b)
        return x if keep else jax.tree.map(lambda x: jnp.where(ok, x, jnp.nan), x)

    # A solve by itself can't be transposed: what it does depends on b outside of its linear part.
    return jax.lax.custom_linear_solve(matvec, b, solve=solved, transpose_solve=solved)


def _rounding(tree: Any) -> float:
    return max(8 * max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(tree)), 1e-12)
