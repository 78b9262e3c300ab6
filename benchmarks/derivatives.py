"""Print what the Laplacian costs beside the trace of a Hessian and folx, and what a fixed point keeps beside its loop.

`derivatives.py [NAME …] [--points 4] [--rounds 15] [--sizes 1]`. The programs are those of `laplacian_programs.py` with
one of the words in their names, all without any. Ratios are to the trace of `jax.hessian`: of the CPU time of the
process, as medians over interleaved rounds, and of XLA's counts of FLOPs and temporary bytes. Everything runs in
float64, of points together under `vmap`, in one thread: pin the process to a core (`taskset -c 0`), so that a shared
machine disturbs it little.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import folx
import jax
import jax.numpy as jnp
import numpy as np

import liftax as lx
from benchmarks import measure
from benchmarks.laplacian_programs import PROGRAMS

SLICE = 0.02  # s of CPU, at least, of one sample


class Cost(NamedTuple):
    """What a program takes: a sampler of seconds of CPU, FLOPs, temporary bytes."""

    sample: Callable[[], float]
    flops: float
    memory: int
    value: jax.Array


def laplacians(f: Callable[[jax.Array], jax.Array]) -> dict[str, Callable[[jax.Array], jax.Array]]:
    """Return the ways to compute the Laplacian of `f`."""
    return {
        "hessian": lambda x: jnp.trace(jax.hessian(lambda v: f(v.reshape(x.shape)))(x.ravel())),
        "liftax": lambda x: lx.laplacian(f, x)[1],
        "folx": lambda x: folx.forward_laplacian(f, disable_jit=True)(x).laplacian,
        "folx sparse": lambda x: folx.forward_laplacian(f, 0.6, disable_jit=True)(x).laplacian,
    }


def cost(laplacian: Callable[[jax.Array], jax.Array], xs: jax.Array) -> Cost:
    """Compile the Laplacian of points together."""
    program = jax.jit(jax.vmap(laplacian)).lower(xs).compile()

    def sample() -> float:
        start, runs = time.process_time(), 0
        while time.process_time() - start < SLICE:
            jax.block_until_ready(program(xs))
            runs += 1
        return (time.process_time() - start) / runs

    counts = program.memory_analysis().temp_size_in_bytes
    return Cost(sample, measure.program(program).flops, counts, program(xs))


def compare(f: Callable[[jax.Array], jax.Array], x: jax.Array, points: int, rounds: int) -> list[str]:
    """Return a row's columns: time, FLOPs and memory of each way, and the largest relative difference of ours."""
    noise = np.random.default_rng(0).normal(size=(points, *x.shape))
    xs = x + jnp.asarray(0.01 * noise)
    costs = {}
    for name, way in laplacians(f).items():
        try:
            costs[name] = cost(way, xs)
        except Exception as error:  # a peer may have no rule for a primitive
            if not name.startswith("folx"):
                raise
            print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
    times = measure.interleaved({n: c.sample for n, c in costs.items()}, rounds, 1e9)
    spread = measure.ratios(times, "hessian")
    whole, columns = costs["hessian"], []
    for name in ("liftax", "folx", "folx sparse"):
        if name not in costs:
            columns.append(f"{'none':>18}")
            continue
        c = costs[name]
        memory = c.memory / max(whole.memory, 1)
        columns.append(f"{spread[name].median:6.2f}{c.flops / whole.flops:6.2f}{memory:6.2f}")
    best = [
        measure.spread([a / b for a, b in zip(times["liftax"], times[n], strict=True)]) for n in costs if n[0] == "f"
    ]
    columns.append(f"{max(b.median for b in best):6.2f}" if best else "      ")
    error = jnp.max(jnp.abs(costs["liftax"].value - whole.value)) / jnp.max(jnp.abs(whole.value))
    return [*columns, f"{float(error):.0e}"]


def fixed_point(steps: int) -> tuple[float, int, int]:
    """Relative difference of the gradient to the unrolled one's, and the bytes that each program holds meanwhile."""
    w = 0.5 * jax.random.orthogonal(jax.random.key(0), 16)
    x = jax.random.normal(jax.random.key(1), (16,))
    cell = lambda z, w: jnp.tanh(w @ z + x)  # noqa: E731

    def implicit(w: Any) -> Any:
        return jnp.sum(lx.fixed_point(cell, jnp.zeros(16), w, max_steps=steps)[0] ** 2)

    def unrolled(w: Any) -> Any:
        return jnp.sum(jax.lax.scan(lambda z, _: (cell(z, w), None), jnp.zeros(16), None, length=steps)[0] ** 2)

    ours, theirs = (jax.jit(jax.grad(f)).lower(w).compile() for f in (implicit, unrolled))
    error = float(jnp.max(jnp.abs(ours(w) - theirs(w))) / jnp.max(jnp.abs(theirs(w))))
    held = [p.memory_analysis().temp_size_in_bytes for p in (ours, theirs)]
    return error, *held


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="words of which a program's name contains one")
    parser.add_argument("--points", type=int, default=4, help="points together, under vmap")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, help="so many of the smallest sizes of each program")
    options = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    columns = f"{'liftax':>18}   {'folx':>18}   {'folx sparse':>18}   to best  difference"
    print(f"{'time, FLOPs, memory / trace of hessian':40}{columns}")
    with jax.enable_x64(True):
        for name, (make, sizes) in PROGRAMS.items():
            if options.names and not any(word in name for word in options.names):
                continue
            for size in sizes[: options.sizes]:
                row = compare(*make(size), options.points, options.rounds)
                print(f"{name:30}{size:10}{'   '.join(row)}", flush=True)
    print("\nfixed_point, steps at most   difference of gradient   bytes   bytes unrolled")
    for steps in (50, 100, 200, 400):
        error, ours, unrolled = fixed_point(steps)
        print(f"{steps:26}   {error:22.0e}   {ours:5}   {unrolled:14}", flush=True)


if __name__ == "__main__":
    main()
