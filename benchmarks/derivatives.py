"""Print what the Laplacian costs beside the trace of a Hessian, and what a fixed point keeps beside its unrolled loop.

`derivatives.py [--together 32 128 512] [--turns 256] [--async]`. Ratios of times are medians over interleaved rounds
with quartiles; FLOPs and bytes are XLA's. The Laplacian is taken of points in turn, by one program that evaluates one
after another, and of points together, under `vmap`. A program of some microseconds, as that of a single point is, takes
longer to be called than to run: JAX hands it to another thread and waits. So the handing over is turned off, unless
`--async` asks for it.
"""

import argparse

import jax
import jax.numpy as jnp

import liftax as lx
import measure

ACTIVATIONS = ("tanh", "softplus", "silu", "gelu", "sigmoid")


def network(act, sizes=(32, 64, 64, 1)):
    """Return an MLP of three layers, a number for a vector."""
    keys = jax.random.split(jax.random.key(0), len(sizes))
    weights = [jax.random.normal(k, s) / s[0] ** 0.5 for k, *s in zip(keys, sizes, sizes[1:], strict=False)]

    def f(x):
        for w in weights[:-1]:
            x = act(x @ w)
        return (x @ weights[-1])[0]

    return f


def laplacian(name: str, points: int, in_turn: bool, rounds: int) -> tuple[measure.Spread, float, float]:
    """Ratios of time and FLOPs to the trace of the Hessian, and the largest relative difference."""
    f = network(getattr(jax.nn, name))
    xs = jax.random.normal(jax.random.key(1), (points, 32))
    each = (lambda g: lambda xs: jax.lax.map(g, xs)) if in_turn else jax.vmap
    ours = each(lambda x: lx.laplacian(f, x)[1])
    whole = each(lambda x: jnp.trace(jax.hessian(f)(x)))
    programs = {n: jax.jit(g).lower(xs).compile() for n, g in (("ours", ours), ("whole", whole))}
    samplers = {n: lambda p=p: measure.clock(lambda: p(xs), 20) for n, p in programs.items()}
    times = measure.interleaved(samplers, rounds, 20)
    flops = [measure.program(programs[n]).flops for n in ("ours", "whole")]
    a, b = programs["ours"](xs), programs["whole"](xs)
    error = float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
    return measure.ratios(times, "whole")["ours"], flops[0] / flops[1], error


def fixed_point(steps: int) -> tuple[float, int, int]:
    """Relative difference of the gradient to the unrolled one's, and the bytes that each program holds meanwhile."""
    w = 0.5 * jax.random.orthogonal(jax.random.key(0), 16)
    x = jax.random.normal(jax.random.key(1), (16,))
    cell = lambda z, w: jnp.tanh(w @ z + x)  # noqa: E731

    def implicit(w):
        return jnp.sum(lx.fixed_point(cell, jnp.zeros(16), w, max_steps=steps)[0] ** 2)

    def unrolled(w):
        return jnp.sum(jax.lax.scan(lambda z, _: (cell(z, w), None), jnp.zeros(16), None, length=steps)[0] ** 2)

    ours, theirs = (jax.jit(jax.grad(f)).lower(w).compile() for f in (implicit, unrolled))
    error = float(jnp.max(jnp.abs(ours(w) - theirs(w))) / jnp.max(jnp.abs(theirs(w))))
    held = [p.memory_analysis().temp_size_in_bytes for p in (ours, theirs)]
    return error, *held


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="*", default=[256], help="points one after another")
    parser.add_argument("--together", type=int, nargs="*", default=[32, 128, 512], help="points under vmap")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--async", action="store_true", dest="hand_over", help="let JAX hand programs to its thread")
    options = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", options.hand_over)
    print("laplacian / trace of jax.hessian      points   time                FLOPs  difference")
    for name in ACTIVATIONS:
        for in_turn, points in [(True, n) for n in options.turns] + [(False, n) for n in options.together]:
            time, flops, error = laplacian(name, points, in_turn, options.rounds)
            spread = f"{time.median:.2f} ({time.low:.2f} to {time.high:.2f})"
            how = "in turn" if in_turn else "together"
            print(f"{name:27}{points:7} {how:9}   {spread:20}{flops:.2f}   {error:.0e}", flush=True)
    print("\nfixed_point, steps at most   difference of gradient   bytes   bytes unrolled")
    for steps in (50, 100, 200, 400):
        error, ours, unrolled = fixed_point(steps)
        print(f"{steps:26}   {error:22.0e}   {ours:5}   {unrolled:14}", flush=True)


if __name__ == "__main__":
    main()
