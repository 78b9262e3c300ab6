"""Loops that are differentiated backwards: what the gradient takes in time, memory and recomputed steps.

`lx.scan` and `lx.while_loop` beside a plain scan (by hand), Equinox's checkpointed loop, and nested scans under
`jax.checkpoint`; one sample of each a round.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import liftax as lx
from benchmarks import measure
from benchmarks.bench import Bench, Row
from benchmarks.peers.hand import models as hand

BODIES: dict[str, tuple[Callable[[Any, Any], Any], Any, Any]] = {
    "a scalar": (lambda w, x: jnp.sin(x) * w, jnp.float32(0.9), jnp.float32(0.5)),
    "16 numbers": (lambda w, x: jnp.tanh(w @ x), 0.9 * jnp.eye(16) + 0.01, jnp.ones(16)),
}
SIZES = ((10, 4), (100, 10), (1000, 10), (1000, 100), (10_000, 30), (100_000, 100))
"""Numbers of steps, and of checkpoints."""


def loops(bench: Bench) -> Iterator[Row]:
    """Gradients of loops; the forward pass where nothing is differentiated; bytes, traces and compile times."""
    equinox = _equinox(bench)
    for name, (body, w, x) in BODIES.items():
        for steps, checkpoints in SIZES[:4] if bench.quick else SIZES:
            made = implementations(body, steps, checkpoints, equinox)
            label = f"{steps} steps, {checkpoints} checkpoints, {name}"
            gradients = {k: jax.jit(jax.grad(_total(f), (0, 1))) for k, f in made.items()}
            compiled = {k: g.lower(w, x).compile() for k, g in gradients.items()}
            agree(bench, compiled, w, x)
            yield bench.row("loops", f"gradient, {label}", bench.timed(_samplers(compiled, w, x)))
            memory = {k: float(c.memory_analysis().temp_size_in_bytes) for k, c in compiled.items()}
            yield bench.counts("loops", f"temporary bytes of the gradient, {label}", memory)
        forward = {k: jax.jit(f).lower(w, x).compile() for k, f in made.items()}
        yield bench.row("loops", f"forward, {label}", bench.timed(_samplers(forward, w, x)), 1.05)
        yield bench.row("loops", f"trace of the gradient, {label}", bench.timed(_tracers(made, w, x)))


def implementations(body: Any, steps: int, checkpoints: int, equinox: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """The same loop, by name of who runs it."""

    def scanned(scan: Any) -> Callable[[Any, Any], Any]:
        return lambda w, x: scan(lambda x, _: (body(w, x), None), x, None, length=steps)[0]

    def until(while_loop: Any, **options: Any) -> Callable[[Any, Any], Any]:
        return lambda w, x: while_loop(
            lambda c: c[0] < steps,
            lambda c: (c[0] + 1, body(w, c[1])),
            (jnp.int32(0), x),
            checkpoints=checkpoints,
            **options,
        )[1]

    def nested(w: Any, x: Any) -> Any:
        inner = max(math.isqrt(steps), 1)
        chunk = jax.checkpoint(lambda x: jax.lax.scan(lambda x, _: (body(w, x), None), x, None, length=inner)[0])
        x = jax.lax.scan(lambda x, _: (chunk(x), None), x, None, length=steps // inner)[0]
        return jax.lax.scan(lambda x, _: (body(w, x), None), x, None, length=steps % inner)[0]

    found = {
        hand.NAME: scanned(jax.lax.scan),
        "liftax": scanned(lambda *args, **kwargs: lx.scan(*args, **kwargs, checkpoints=checkpoints)),
        "liftax while": until(lx.while_loop),
        "nested": nested,
    }
    return found | ({"equinox": until(equinox.while_loop, kind="checkpointed")} if equinox else {})


def agree(bench: Bench, compiled: dict[str, Any], w: Any, x: Any) -> None:
    """Check that all gradients are the same."""
    want = jax.tree.leaves(compiled[hand.NAME](w, x))
    for name, run in compiled.items():
        for a, b in zip(jax.tree.leaves(run(w, x)), want, strict=True):
            if not np.allclose(a, b, rtol=1e-2, atol=1e-5):
                bench.note(f"{name} gives another gradient of a loop")
                bench.failed = True


def _total(f: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda w, x: jnp.sum(f(w, x))


def _samplers(compiled: dict[str, Any], w: Any, x: Any) -> dict[str, Callable[[], float]]:
    return {k: (lambda run=run: measure.clock(lambda: run(w, x))) for k, run in compiled.items()}


def _tracers(made: dict[str, Any], w: Any, x: Any) -> dict[str, Callable[[], float]]:
    def tracer(f: Any) -> Callable[[], float]:
        return lambda: measure.clock(lambda: jax.make_jaxpr(jax.grad(lambda w, x: jnp.sum(f(w, x))))(w, x) and None)

    return {k: tracer(f) for k, f in made.items()}


def _equinox(bench: Bench) -> Any:
    try:
        return importlib.import_module("equinox.internal")
    except ImportError as error:
        bench.note(f"equinox has no column in loops: {error}")
        return None
