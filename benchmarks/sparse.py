"""Print what the Jacobian of a differential equation's residual costs in a module: sparse, dense, and by asdex alone.

`sparse.py [--side 100] [--rounds 5]`. The unknowns are the values of u on a square grid of side * side points, in
div(k(u) grad u) + u (1 - u) = 0, where the conductivity k is a small network of the module. The Jacobian is a method
of the module. Once: reading the pattern and compiling, s. Then the median time of a run, ms, with smallest and largest.
"""

import argparse
import time

import asdex
import jax
import jax.numpy as jnp
import numpy as np

from liftax import nn


class Residual(nn.Module):
    """The residual at each point of the grid, zero around it."""

    @nn.compact
    def __call__(self, u):
        k = nn.softplus(nn.Dense(1)(nn.tanh(nn.Dense(8)(u[..., None]))))[..., 0]
        u, k = jnp.pad(u, 1), jnp.pad(k, 1, mode="edge")
        across = 0.5 * (k[1:, 1:-1] + k[:-1, 1:-1]) * (u[1:, 1:-1] - u[:-1, 1:-1])
        along = 0.5 * (k[1:-1, 1:] + k[1:-1, :-1]) * (u[1:-1, 1:] - u[1:-1, :-1])
        inner = u[1:-1, 1:-1]
        return across[1:] - across[:-1] + along[:, 1:] - along[:, :-1] + inner * (1 - inner)


class Equation(nn.Module):
    """Holds the residual, and takes its Jacobian."""

    def setup(self):
        self.residual = Residual()

    def __call__(self, u):
        return self.residual(u)

    def jacobian(self, u, **options):
        return nn.jacobian(lambda residual, u: residual(u), self.residual, u, **options)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model, u = Equation(), jax.random.uniform(jax.random.key(0), (options.side, options.side))
    variables = model.init(jax.random.key(1), u)

    def ours(**options):
        return lambda v, u: model.apply(v, u, method=lambda m, u: m.jacobian(u, **options))

    def alone(v, u):
        coloring = asdex.jacobian_coloring(lambda v, u: model.apply(v, u), v, u, argnums=1)
        counted.append(coloring.num_colors)
        return asdex.jacobian_from_coloring(lambda v, u: model.apply(v, u), coloring, "bcoo")(v, u)

    counted: list[int] = []
    programs = {
        "asdex on module.apply": alone,
        "nn.jacobian, sparse": ours(sparsity="auto", format="bcoo"),
        "nn.jacobian, dense, 100 at a time": ours(mode="forward", chunk=100),
    }
    compiled, once = {}, {}
    for name, f in programs.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(f).lower(variables, u).compile()
        once[name] = time.perf_counter() - start
    found = {name: p(variables, u) for name, p in compiled.items()}
    dense = np.asarray(found["nn.jacobian, dense, 100 at a time"]).reshape(u.size, u.size)
    for name, matrix in found.items():
        if "dense" not in name:
            places = [np.ravel_multi_index(np.asarray(matrix.indices).T[i : i + 2], u.shape) for i in (0, 2)]
            assert np.allclose(dense[tuple(places)], matrix.data, rtol=1e-4, atol=1e-5)
            assert np.count_nonzero(dense) <= matrix.nse
            print(f"{name}: {matrix.nse} entries")
    times = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, p in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(p(variables, u))
            times[name].append(1e3 * (time.perf_counter() - start))
    print(f"\n| {u.size} unknowns | products | once, s | run, ms |\n| --- | --- | --- | --- |")
    for name, ms in times.items():
        products = u.size if "dense" in name else counted[0]
        spread = f"{np.median(ms):.1f} ({min(ms):.1f} to {max(ms):.1f})"
        print(f"| {name} | {products} | {once[name]:.1f} | {spread} |")


if __name__ == "__main__":
    main()
