"""The cases of the benchmarks: each takes a `Bench` and yields rows of the table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import measure
import models_hand as hand
from models_linen import NAMESPACES

LIFTED = ("vjp", "jvp", "grad", "value_and_grad", "custom_vjp")
TINY = 16
"""Length of the chain of one-parameter modules that `tiny` runs."""
DEEP = (hand.NAME, "liftax", "tuned", "linen")
"""Implementations whose growth with depth is measured."""
COMPILED = 8
"""Blocks of the networks that are compiled."""


@dataclass
class Row:
    """One line of the table: a value of the hand-written version, and figures of the others by name."""

    case: str
    what: str
    hand: float
    unit: str
    cells: dict[str, measure.Spread]
    goal: float | None = None


@dataclass
class Bench:
    """What the cases share: implementations, settings, and the remarks that end up below the table."""

    implementations: dict[str, Any]
    depth: int
    depths: tuple[int, ...]
    rounds: int
    budget: float
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    """Whether an implementation gave other values than the hand-written one, or liftax could not run."""

    def __post_init__(self) -> None:
        self.agreeing: dict[tuple[str, bool], dict[str, Any]] = {}
        self.x = jax.random.normal(jax.random.key(1), (hand.BATCH, hand.WIDTH))
        self.parameters = hand.init(jax.random.key(0), self.x, max(self.depth, *self.depths))

    def arguments(self, implementation: Any, kind: str, depth: int) -> tuple[Any, jax.Array]:
        """Variables (for `init`, a key) and input for the programs of an implementation."""
        if kind == "init":
            return jax.random.key(0), self.x
        if kind == "tiny":
            return implementation.variables(hand.tiny_parameters(depth)), self.x
        return implementation.variables({name: self.parameters[name] for name in hand.names(depth)}), self.x

    def fresh(self, implementation: Any, kind: str, depth: int, derive: bool = False) -> Callable[..., Any]:
        """A new function object: a network, or the gradient of a loss over it with respect to its parameters."""
        apply = implementation.program(kind, depth)
        return jax.grad(lambda variables, x: jnp.square(apply(variables, x)).mean()) if derive else apply

    def comparable(self, kind: str, derive: bool = False) -> dict[str, Any]:
        """The implementations that have this kind of network and compute what the hand-written one computes."""
        if (kind, derive) in self.agreeing:
            return self.agreeing[kind, derive]
        found = self.agreeing[kind, derive] = {}
        expected = None
        for name, implementation in self.implementations.items():
            if kind not in implementation.KINDS:
                continue
            try:
                run = jax.jit(self.fresh(implementation, kind, 2, derive))
                got = fingerprint(run(*self.arguments(implementation, kind, 2)), kind, derive)
            except Exception as error:  # costs that implementation its cell, not everybody the run
                text = str(error).strip().partition("\n")[0]
                self.note(f"{name} can't run {kind}: {type(error).__name__}: {text:.200}")
                self.failed |= name in (hand.NAME, "liftax")
                continue
            expected = got if expected is None else expected
            if got.shape == expected.shape and np.allclose(got, expected, rtol=1e-3, atol=1e-5):
                found[name] = implementation
            else:
                self.note(f"{name} gives other values than {hand.NAME} on {kind}; not measured")
                self.failed = True
        return found

    def note(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def timed(self, samplers: dict[Any, Callable[[], float]], budgets: int = 1) -> measure.Samples:
        """Interleaved samples within this run's rounds and so many of its budgets."""
        return measure.interleaved(samplers, self.rounds, self.budget * budgets)

    def row(self, case: str, what: str, samples: measure.Samples, goal: float | None = None) -> Row:
        """A line of timings."""
        median = measure.spread(samples[hand.NAME]).median
        return Row(case, what, median * 1e3, "ms", measure.ratios(samples, hand.NAME), goal)

    def counts(self, case: str, what: str, counts: dict[str, float], goal: float | None = None) -> Row:
        """A line of counts."""
        cells = measure.ratios({name: [float(count)] for name, count in counts.items()}, hand.NAME)
        return Row(case, what, counts[hand.NAME], "", cells, goal)

    def tracer(self, implementation: Any, kind: str, depth: int, derive: bool = False) -> Callable[[], float]:
        """A function that takes the seconds to trace a function that JAX has not seen."""
        arguments = self.arguments(implementation, kind, depth)

        def sample() -> float:
            traced = jax.make_jaxpr(self.fresh(implementation, kind, depth, derive))
            return measure.clock(lambda: traced(*arguments) and None)

        return sample

    def trace(self, kind: str, depth: int, derive: bool = False) -> measure.Samples:
        """Seconds to trace, by implementation."""
        found = self.comparable(kind, derive)
        return self.timed({name: self.tracer(i, kind, depth, derive) for name, i in found.items()})

    def eager(self, kind: str, depth: int, number: int = 1) -> measure.Samples:
        """Seconds to run a function without `jit`."""

        def sampler(implementation: Any) -> Callable[[], float]:
            arguments = self.arguments(implementation, kind, depth)
            run = self.fresh(implementation, kind, depth)
            return lambda: measure.clock(lambda: run(*arguments), number)

        return self.timed({name: sampler(i) for name, i in self.comparable(kind).items()})

    def equations(self, kind: str, depth: int, derive: bool = False) -> dict[str, float]:
        """Equations of the traced program, those inside calls counted in their place."""
        return {
            name: len(
                measure.operations(jax.make_jaxpr(self.fresh(i, kind, depth, derive))(*self.arguments(i, kind, depth)))
            )
            for name, i in self.comparable(kind, derive).items()
        }


def fingerprint(out: Any, kind: str, derive: bool) -> np.ndarray:
    """What must agree between libraries whose trees differ: the output, or the norms (at init, sizes) of the leaves."""
    if kind == "init":
        return np.array(sorted(leaf.size for leaf in jax.tree.leaves(out)))
    if derive:
        return np.array(sorted(float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(out)))
    return np.asarray(out)


def mlp(bench: Bench) -> Iterator[Row]:
    """The residual MLP: trace, trace of its gradient, one pass without `jit`."""
    n = bench.depth
    yield bench.row("mlp", f"trace, {n} blocks", bench.trace("mlp", n), 1.5)
    yield bench.row("mlp", f"trace grad, {n} blocks", bench.trace("mlp", n, derive=True), 1.5)
    yield bench.row("mlp", f"eager apply, {n} blocks", bench.eager("mlp", n), 2.0)
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
    for kind in LIFTED:
        derive = kind == "custom_vjp"
        what = f"trace{' grad of' * derive} {kind} in {bench.depth} blocks"
        yield bench.row("lifted", what, bench.trace(kind, bench.depth, derive), 1.2)
        yield bench.counts("lifted", f"equations, {kind}", bench.equations(kind, bench.depth, derive), 1.0)


def init(bench: Bench) -> Iterator[Row]:
    """Make the parameters. By hand they are drawn and no more; Linen's `init` also runs the model once."""
    yield bench.row("init", f"trace, {bench.depth} blocks", bench.trace("init", bench.depth))
    yield bench.row("init", f"eager, {bench.depth} blocks", bench.eager("init", bench.depth))


def compiled(bench: Bench) -> Iterator[Row]:
    """Is the compiled program the same program? A few blocks tell, and XLA is slow on deep ones."""
    blocks = min(bench.depth, COMPILED)
    for kind, derive in (("mlp", False), ("mlp", True), ("vjp", False)):
        name = f"{'grad of ' * derive}{kind}, {blocks} blocks"
        programs, runs = {}, {}
        for key, implementation in bench.comparable(kind, derive).items():
            arguments = bench.arguments(implementation, kind, blocks)
            run = jax.jit(bench.fresh(implementation, kind, blocks, derive)).lower(*arguments).compile()
            programs[key] = measure.program(run)
            runs[key] = lambda run=run, arguments=arguments: measure.clock(lambda: run(*arguments), 20)
        for what, attribute in (("HLO operations", "operations"), ("FLOPs", "flops"), ("bytes", "bytes")):
            counted = {key: getattr(program, attribute) for key, program in programs.items()}
            yield bench.counts("compile", f"{what}, {name}", counted, 1.0)
        yield bench.row("compile", f"run, {name}", bench.timed(runs))


def depth(bench: Bench) -> Iterator[Row]:
    """How tracing grows with the number of blocks, all depths sampled in each round."""
    found = {name: i for name, i in bench.comparable("mlp").items() if name in DEEP}
    keys = [(name, n) for n in bench.depths for name in found]
    samples = bench.timed({(name, n): bench.tracer(found[name], "mlp", n) for name, n in keys}, budgets=4)
    for n in bench.depths:
        yield bench.row("depth", f"trace, {n} blocks", {name: samples[name, n] for name in found}, 1.5)
    rounds = len(samples[keys[0]])
    slopes = {
        name: [
            float(np.polyfit(bench.depths, [samples[name, n][r] for n in bench.depths], 1)[0]) for r in range(rounds)
        ]
        for name in found
    }
    yield bench.row("depth", "trace, each further block", slopes, 1.5)
    last, middle = bench.depths[-1], bench.depths[-2]
    growth = {
        name: measure.spread(
            [a / last / (b / middle) for a, b in zip(samples[name, last], samples[name, middle], strict=True)]
        )
        for name in found
    }
    own = growth.pop(hand.NAME).median
    yield Row("depth", f"trace, a block of {last} over one of {middle}, absolute", own, "x", growth)


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
    script = str(Path(__file__).with_name("cold_trace.py"))
    times: dict[str, list[list[float]]] = {name: [] for name in found}
    for _ in range(bench.rounds // 2 + 1):
        for name in found:
            times[name].append(measure.fresh_interpreter(script, name, str(bench.depth)))
    for i, what in enumerate(("first trace", "first trace of grad")):
        samples = {name: [pair[i] for pair in pairs] for name, pairs in times.items()}
        yield bench.row("cold", f"{what} of a process, {bench.depth} blocks", samples)


def imports(bench: Bench) -> Iterator[Row]:
    """Import time of jax and the library over that of jax alone, in fresh interpreters."""
    found = [name for name in NAMESPACES if name in bench.implementations]
    pairs: dict[str, list[list[float]]] = {name: [] for name in found}
    for done in range(bench.rounds // 2 + 2):
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


CASES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "mlp": mlp,
    "calls": calls,
    "lifted": lifted,
    "init": init,
    "compile": compiled,
    "depth": depth,
    "tiny": tiny,
    "cold": cold,
    "import": imports,
}
