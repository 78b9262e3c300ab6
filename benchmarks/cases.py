"""The cases of the benchmarks: each takes a `Bench` and yields rows of the table."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks import memory as memory_table
from benchmarks.bench import Bench, Row
from benchmarks.loops import loops
from benchmarks.peers.hand import models as hand
from benchmarks.peers.hand import networks as networks_hand
from benchmarks.peers.linen.models import NAMESPACES

LIFTED = ("vjp", "jvp", "grad", "value_and_grad", "custom_vjp")
AROUND = ("jit", "vmap", "scan", "remat", "scan_remat_vjp", "vmap_jit_grad")
"""Transforms around a block, and two of them nested three deep: from the outermost to the innermost."""
DIFFERENTIATED = frozenset({"remat", "scan_remat_vjp", "custom_vjp"})
"""Those that act when the whole is differentiated."""
TINY = 16
"""Length of the chain of one-parameter modules that `tiny` runs."""
COMPILED = 8
"""Blocks of the networks that are compiled."""


def mlp(bench: Bench) -> Iterator[Row]:
    """The residual MLP: trace, trace of its gradient, one pass without `jit`."""
    n = bench.depth
    yield bench.row("mlp", f"trace, {n} blocks", bench.trace("mlp", n), 1.15)
    yield bench.row("mlp", f"trace grad, {n} blocks", bench.trace("mlp", n, derive=True), 1.1)
    yield bench.row("mlp", f"eager apply, {n} blocks", bench.eager("mlp", n), 1.5)
    yield bench.counts("mlp", "equations", bench.equations("mlp", n), 1.0)
    yield bench.counts("mlp", "equations of grad", bench.equations("mlp", n, derive=True), 1.0)


def calls(bench: Bench) -> Iterator[Row]:
    """Python calls made while tracing the residual MLP."""

    def count(implementation: Any) -> int:
        arguments = bench.arguments(implementation, "mlp", bench.depth)
        jax.make_jaxpr(bench.fresh(implementation, "mlp", bench.depth))(*arguments)
        traced = jax.make_jaxpr(bench.fresh(implementation, "mlp", bench.depth))
        return measure.count_calls(lambda: traced(*arguments)).python

    counted = {name: float(count(i)) for name, i in bench.comparable("mlp").items()}
    yield bench.counts("calls", f"Python calls, trace, {bench.depth} blocks", counted)


def lifted(bench: Bench) -> Iterator[Row]:
    """A derivative inside every block, traced; rules of `custom_vjp` run only when the whole is differentiated."""
    yield from transformed(bench, "lifted", LIFTED)


def around(bench: Bench) -> Iterator[Row]:
    """Every other transform around every block, and two that are nested three deep."""
    yield from transformed(bench, "around", AROUND)


def transformed(bench: Bench, case: str, kinds: Sequence[str]) -> Iterator[Row]:
    """Trace and equations of networks whose blocks are transformed; of 16 blocks at most, since all traces are new."""
    blocks = min(bench.depth, 16)
    for kind in kinds:
        derive = kind in DIFFERENTIATED
        what = f"{'grad of ' * derive}{kind.replace('_', ' of ') if case == 'around' else kind}"
        yield bench.row(case, f"trace, {what}, {blocks} blocks", bench.trace(kind, blocks, derive), 1.1)
        yield bench.counts(case, f"equations, {what}", bench.equations(kind, blocks, derive), 1.0)


def init(bench: Bench) -> Iterator[Row]:
    """Make the parameters. By hand they are drawn and no more; Linen's `init` also runs the model once."""
    yield bench.row("init", f"trace, {bench.depth} blocks", bench.trace("init", bench.depth))
    yield bench.row("init", f"eager, {bench.depth} blocks", bench.eager("init", bench.depth))


def compiled(bench: Bench) -> Iterator[Row]:
    """Is the compiled program the same program? A few blocks tell, and XLA is slow on deep ones."""
    blocks = 2 if bench.quick else min(bench.depth, COMPILED)
    for kind, derive in (("mlp", False), ("mlp", True), ("vjp", False)):
        name = f"{'grad of ' * derive}{kind}, {blocks} blocks"
        # gradients take XLA too long for rounds of them
        yield from compilation(bench, "compile", name, kind, blocks, derive, timed=not derive and kind == "mlp")


def compilation(bench: Bench, case: str, name: str, kind: str, blocks: int, derive: bool, timed: bool) -> Iterator[Row]:
    """What XLA makes of a network, how long it runs and, if `timed`, how long it takes to get there."""
    programs, runs, lowers, compiles = {}, {}, {}, {}
    for key, implementation in bench.comparable(kind, derive).items():
        arguments = bench.arguments(implementation, kind, blocks)

        def traced(made: Any = implementation, arguments: Any = arguments) -> Any:
            return jax.jit(bench.fresh(made, kind, blocks, derive)).trace(*arguments)

        run = bench.compiled.get((kind, derive, key)) or traced().lower().compile()
        lowers[key] = lambda traced=traced: measure.lowering(traced())
        compiles[key] = lambda traced=traced: measure.compiling(traced().lower())
        programs[key] = measure.program(run)
        runs[key] = lambda run=run, arguments=arguments: measure.clock(lambda: run(*arguments), 20)
    for what, attribute in (
        ("HLO operations", "operations"),
        ("FLOPs", "flops"),
        ("bytes", "bytes"),
        ("bytes of memory", "memory"),
    ):
        counted = {key: getattr(program, attribute) for key, program in programs.items()}
        yield bench.counts(case, f"{what}, {name}", counted, 1.0)
    if timed and not bench.quick:
        yield bench.row(case, f"lower, {name}", bench.timed(lowers))
        yield bench.row(case, f"compile, {name}", measure.interleaved(compiles, 3, 0.0))
    yield bench.row(case, f"run, {name}", bench.timed(runs))


def networks(bench: Bench) -> Iterator[Row]:
    """A transformer, a ResNet and an LSTM: one pass, a step of training, and making the variables."""
    for kind in networks_hand.PROGRAMS:
        for derive in (True,) if bench.quick else (False, True):
            what = f"{'step of ' * derive}{kind}"
            yield bench.row("networks", f"trace, {what}", bench.trace(kind, 0, derive), 1.1 if derive else 1.15)
            yield bench.counts("networks", f"equations, {what}", bench.equations(kind, 0, derive), 1.0)
            yield from compilation(bench, "networks", what, kind, 0, derive, timed=not derive)
        yield bench.row("networks", f"trace, init of {kind}", bench.trace(f"init_{kind}", 0))
        if not bench.quick:
            yield bench.row("networks", f"eager apply, {kind}", bench.eager(kind, 0), 1.5)
            yield bench.row("networks", f"eager, init of {kind}", bench.eager(f"init_{kind}", 0))


def depth(bench: Bench) -> Iterator[Row]:
    """How tracing grows with the number of blocks, all depths sampled in each round, few rounds where it takes long."""
    found = bench.comparable("mlp")
    limits = {name: getattr(i, "DEEPEST", max(bench.depths)) for name, i in found.items()}
    for name, most in limits.items():
        if most < max(bench.depths):
            bench.note(f"{name} is traced up to {most} blocks: {found[name].WHY_DEEPEST}")
    keys = [(name, n) for n in bench.depths for name in found if n <= limits[name]]
    tracers = {(name, n): bench.tracer(found[name], "mlp", n) for name, n in keys}
    samples = bench.timed(tracers, warm=[(name, min(bench.depths)) for name in found])
    for n in bench.depths:
        timed = {name: samples[name, n] for name in found if n <= limits[name]}
        yield bench.row("depth", f"trace, {n} blocks", timed, 1.15, depth=n)
    slopes, bends = {}, {}
    for name in found:
        depths = [n for n in bench.depths if n <= limits[name]]
        fits = [straight(depths, times) for times in zip(*(samples[name, n] for n in depths), strict=True)]
        slopes[name] = [slope for slope, _ in fits]
        bends[name] = measure.spread([bend for _, bend in fits])
    yield bench.row("depth", "trace, each further block", slopes, 1.15)
    own = bends.pop(hand.NAME).median
    yield Row("depth", "farthest from a straight line over depth, absolute", own, "%", bends)


def straight(depths: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the line that is nearest to `seconds` in proportion, and how far from it they go in %."""
    weights = 1 / np.asarray(seconds)
    slope, offset = np.polyfit(depths, seconds, 1, w=weights)
    return float(slope), float(100 * np.max(np.abs((slope * np.asarray(depths) + offset) * weights - 1)))


def tiny(bench: Bench) -> Iterator[Row]:
    """What a module costs when it does almost nothing, without `jit`: absolute figures a module, not ratios."""
    samples = bench.eager("tiny", TINY, number=10)
    base = samples[hand.NAME]
    modules = TINY + 1
    overhead = {
        name: measure.spread([(t - b) / modules * 1e6 for t, b in zip(seconds, base, strict=True)])
        for name, seconds in samples.items()
    }
    overhead.pop(hand.NAME)
    yield Row("tiny", "µs a module over the chain by hand, absolute", measure.spread(base).median * 1e3, "ms", overhead)
    counted = {}
    for name, implementation in bench.comparable("tiny").items():
        arguments = bench.arguments(implementation, "tiny", TINY)
        run = bench.fresh(implementation, "tiny", TINY)
        run(*arguments)
        counted[name] = measure.count_calls(lambda run=run, arguments=arguments: run(*arguments)).python
    own = counted.pop(hand.NAME)
    cells = {name: measure.spread([(count - own) / modules]) for name, count in counted.items()}
    yield Row("tiny", "Python calls a module over the chain by hand, absolute", own, "", cells)


def cold(bench: Bench) -> Iterator[Row]:
    """The first trace in an interpreter, when nothing is in any cache, and the first of the gradient after it."""
    found = [name for name in (hand.NAME, *NAMESPACES) if name in bench.comparable("mlp")]
    times: dict[str, list[list[float]]] = {name: [] for name in found}
    for _ in range(bench.rounds // 3 + 1):
        for name in found:
            times[name].append(measure.fresh_interpreter("-m", "benchmarks.cold_trace", name, str(bench.depth)))
    for i, what in enumerate(("first trace", "first trace of grad")):
        samples = {name: [pair[i] for pair in pairs] for name, pairs in times.items()}
        yield bench.row("cold", f"{what} of a process, {bench.depth} blocks", samples)


def imports(bench: Bench) -> Iterator[Row]:
    """Import time of jax and the library over that of jax alone, in fresh interpreters."""
    found = [name for name in NAMESPACES if name in bench.implementations]
    pairs: dict[str, list[list[float]]] = {name: [] for name in found}
    for done in range(bench.rounds // 3 + 2):
        for name in found:
            code = (
                "from time import perf_counter as now; a = now(); import jax; b = now(); "
                f"import {NAMESPACES[name]}; c = now(); print(b - a, c - b)"
            )
            pair = measure.fresh_interpreter("-c", code)
            if done:  # the first warms the file cache and writes the byte code
                pairs[name].append(pair)
    if found:
        jax_alone = [a for samples in pairs.values() for a, _ in samples]
        cells = {name: measure.spread([(a + b) / a for a, b in samples]) for name, samples in pairs.items()}
        yield Row("import", "import, over import jax", measure.spread(jax_alone).median * 1e3, "ms", cells)


def memory(bench: Bench) -> Iterator[Row]:
    """Temporary memory of the gradient of networks, planned, over the best policy by hand of as few FLOPs."""
    path = Path(__file__).parent / "results" / "memory.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.memory",
        "--json",
        str(path),
        *["--quick"] * bench.quick,
    ]
    environment = {**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    subprocess.run(command, check=True, env=environment)
    for name, found in json.loads(path.read_text()).items():
        hand = memory_table.best_by_hand(found)
        if hand is not None and "free" in found:
            ratio = memory_table.ratios(found, "free")["temporary"] / min(hand, 1.0)
            size = min(hand, 1.0) * found["plain"]["temporary"] / 2**20
            yield Row("memory", name, size, "MiB", {"liftax": measure.spread([ratio])}, goal=1.0)


CASES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "mlp": mlp,
    "calls": calls,
    "lifted": lifted,
    "around": around,
    "init": init,
    "compile": compiled,
    "networks": networks,
    "loops": loops,
    "depth": depth,
    "tiny": tiny,
    "cold": cold,
    "import": imports,
    "memory": memory,
}
