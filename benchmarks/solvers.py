"""Print how many steps each solver takes to a fixed point or a root, beside Optimistix, and how far off it ends.

`solvers.py`. Single precision; steps at most 1000, or 50 for Newton's method. Off is the largest difference to the
solution, found in double precision, relative to the largest number in it; NaN where the solver says that it failed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

import liftax as lx

C = 50 + jnp.arange(64.0)
WEIGHTS = jax.random.normal(jax.random.key(0), (64, 64))
WEIGHTS = 0.95 * WEIGHTS / jnp.linalg.norm(WEIGHTS, 2)

# name -> f with x = f(x), x0
POINTS = {
    "0.5 sin(x) + c, 64 numbers up to 113": (lambda x: 0.5 * jnp.sin(x) + C.astype(x.dtype), jnp.zeros(64)),
    "cos(x)": (jnp.cos, jnp.ones(())),
    "W x + c, |W| = 0.95, 64 numbers": (lambda x: WEIGHTS.astype(x.dtype) @ x + C.astype(x.dtype), jnp.zeros(64)),
    "0.999 x + 1": (lambda x: 0.999 * x + 1, jnp.zeros(())),
    "1 - x": (lambda x: 1 - x, jnp.zeros(())),
    "2 x + 1": (lambda x: 2 * x + 1, jnp.zeros(())),
}
# name -> f with f(x) = 0, x0
ROOTS = {
    "x^2 - 2e8 from 1e4": (lambda x: x**2 - 2e8, jnp.asarray(1e4)),
    "(x - 1)^2 from 3": (lambda x: (x - 1) ** 2, jnp.asarray(3.0)),
    "x^2 + 1 from 3": (lambda x: x**2 + 1, jnp.asarray(3.0)),
}
OFF = {"x^2 + 1 from 3": np.nan}  # there is none


def exact(f, x0, *, fixed):
    """Return the solution in double precision, by NumPy's solver of linear systems."""
    with jax.enable_x64(True):
        x = np.asarray(x0, np.float64)
        for _ in range(60):
            g = (lambda x: f(x) - x) if fixed else f
            jacobian = np.asarray(jax.jacfwd(g)(jnp.asarray(x))).reshape(x.size, x.size)
            if not np.linalg.det(jacobian):
                break
            x = x - np.linalg.solve(jacobian, np.asarray(g(jnp.asarray(x))).reshape(-1)).reshape(x.shape)
    return x


def row(name, solve, f, x0, solver, want):
    """Print a row: steps, the difference to the solution, and the solver's verdict."""
    x, info = solve(f, x0, solver=solver, on_failure="return")
    off = np.max(np.abs(np.asarray(x, np.float64) - want)) / np.max(np.abs(want))
    verdict = f"{off:.0e}" if info.converged else f"failed, {off:.0e} off"
    which = f"{type(solver).__module__.partition('.')[0]}.{type(solver).__name__}"
    print(f"| {name} | {which} | {int(info.steps)} | {verdict} |", flush=True)


def main() -> None:
    """Print the table."""
    print("| problem | solver | steps | off |\n| --- | --- | --- | --- |")
    for name, (f, x0) in POINTS.items():
        want = exact(f, x0, fixed=True)
        for solver in (lx.Picard(), lx.Anderson(), lx.Newton(), optx.FixedPointIteration(1e-6, 1e-6)):
            row(name, lx.fixed_point, f, x0, solver, want)
    for name, (f, x0) in ROOTS.items():
        want = OFF.get(name, exact(f, x0, fixed=False))
        for solver in (lx.Newton(), optx.Newton(1e-6, 1e-6)):
            row(name, lx.root, f, x0, solver, want)


if __name__ == "__main__":
    main()
