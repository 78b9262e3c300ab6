"""What the cases share: the implementations, how they are compared and sampled, and a row of the table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.peers.hand import models as hand


@dataclass
class Row:
    """One line of the table: a value of the hand-written version, and figures of the others by name."""

    case: str
    what: str
    hand: float
    unit: str
    cells: dict[str, measure.Spread]
    goal: float | None = None
    seconds: dict[str, measure.Spread] = field(default_factory=dict)
    """What was timed, by implementation, if the row is one of times."""
    depth: int | None = None
    """Blocks of the network, in the rows that show how times grow with them."""


@dataclass
class Bench:
    """What the cases share: implementations, settings, and the remarks that end up below the table."""

    implementations: dict[str, Any]
    networks: dict[str, Any]
    depth: int
    depths: tuple[int, ...]
    rounds: int
    budget: float
    notes: list[str] = field(default_factory=list)
    quick: bool = False
    """Whether to leave out what takes XLA long, and to take a few samples of the rest."""
    failed: bool = False
    """Whether an implementation gave other values than the hand-written one, or liftax could not run."""

    def __post_init__(self) -> None:
        self.agreeing: dict[tuple[str, bool], dict[str, Any]] = {}
        self.compiled: dict[tuple[str, bool, str], Any] = {}
        self.x = jax.random.normal(jax.random.key(1), (hand.BATCH, hand.WIDTH))
        self.parameters = hand.init(jax.random.key(0), self.x, max(self.depth, *self.depths))

    def arguments(self, implementation: Any, kind: str, depth: int) -> tuple[Any, ...]:
        """Variables (for `init`, a key) and input for the programs of an implementation."""
        if hasattr(implementation, "arguments"):
            return implementation.arguments(kind)
        if kind == "init":
            return jax.random.key(0), self.x
        if kind == "tiny":
            return implementation.variables(hand.tiny_parameters(depth)), self.x
        return implementation.variables({name: self.parameters[name] for name in hand.names(depth)}), self.x

    def fresh(self, implementation: Any, kind: str, depth: int, derive: bool = False) -> Callable[..., Any]:
        """A new function object: a network, or the gradient of a loss over it with respect to its parameters.

        An implementation that has `derived` says itself what the latter is: such as a step of training.
        """
        apply = implementation.program(kind, depth)
        if derive and hasattr(implementation, "derived"):
            return implementation.derived(apply)
        return jax.grad(lambda variables, x: jnp.square(apply(variables, x)).mean()) if derive else apply

    def comparable(self, kind: str, derive: bool = False) -> dict[str, Any]:
        """The implementations that have this kind of network and compute what the hand-written one computes."""
        if (kind, derive) in self.agreeing:
            return self.agreeing[kind, derive]
        found = self.agreeing[kind, derive] = {}
        expected = None
        for name, implementation in (*self.implementations.items(), *self.networks.items()):
            if kind not in implementation.KINDS:
                continue
            try:
                run, arguments = self.fresh(implementation, kind, 2, derive), self.arguments(implementation, kind, 2)
                own = implementation in self.networks.values()  # of one depth: this program is measured too
                if kind.startswith("init"):
                    out = jax.eval_shape(partial(exported, implementation, kind), jax.eval_shape(run, *arguments))
                else:
                    options: Any = None if own else {"xla_backend_optimization_level": 0}
                    compiled = jax.jit(run).lower(*arguments).compile(compiler_options=options)
                    if own:
                        self.compiled[kind, derive, name] = compiled
                    out = compiled(*arguments)
                    if own:
                        out = exchanged(implementation, kind, out, arguments[0])
                got = fingerprint(out, kind, derive)
            except Exception as error:  # costs that implementation its cell, not everybody the run
                text = str(error).strip().partition("\n")[0]
                self.note(f"{name} can't run {kind}: {type(error).__name__}: {text:.200}")
                self.failed |= name in (hand.NAME, "liftax")
                continue
            expected = got if expected is None else expected
            tolerance = 1e-6 if own and derive else 1e-5  # a step moves little
            if got.shape == expected.shape and np.allclose(got, expected, rtol=1e-3, atol=tolerance):
                found[name] = implementation
            else:
                self.note(f"{name} gives other values than {hand.NAME} on {kind}; not measured")
                self.failed = True
        return found

    def note(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def timed(self, samplers: dict[Any, Callable[[], float]], warm: Iterable[Any] | None = None) -> measure.Samples:
        """Interleaved samples within this run's rounds and its budget."""
        return measure.interleaved(samplers, self.rounds, self.budget, warm)

    def row(
        self, case: str, what: str, samples: measure.Samples, goal: float | None = None, depth: int | None = None
    ) -> Row:
        """A line of timings."""
        seconds = {name: measure.spread(values) for name, values in samples.items()}
        ratios = measure.ratios(samples, hand.NAME)
        return Row(case, what, seconds[hand.NAME].median * 1e3, "ms", ratios, goal, seconds, depth)

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


def exported(implementation: Any, kind: str, variables: Any) -> list[Any]:
    """The leaves of variables that compare with those by hand."""
    return jax.tree.leaves(getattr(implementation, "exported", lambda _, v: v)(kind, variables))


def exchanged(implementation: Any, kind: str, out: Any, before: Any) -> Any:
    """What a pass through a network of a library, or a step of training, gives, as it compares with that by hand.

    Of a step, what it changes: what it leads to is about what was `before`, right or wrong.
    """
    if isinstance(out, tuple):
        y, state = out
        return getattr(implementation, "output", lambda _, y: y)(kind, y), exported(implementation, kind, state)
    moved = zip(exported(implementation, kind, out), exported(implementation, kind, before), strict=True)
    return [new - old for new, old in moved]


def fingerprint(out: Any, kind: str, derive: bool) -> np.ndarray:
    """What must agree between libraries whose trees differ: the output, and norms (at init, sizes) of the leaves."""
    if kind.startswith("init"):
        return np.array(sorted(leaf.size for leaf in jax.tree.leaves(out)))
    if derive or not isinstance(out, (jax.Array, tuple)):
        return norms(out)
    y, state = out if isinstance(out, tuple) else (out, ())
    return np.concatenate([np.ravel(y), norms(state)])


def norms(tree: Any) -> np.ndarray:
    """The norms of the leaves, from the smallest to the largest."""
    return np.array(sorted(float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(tree)))
