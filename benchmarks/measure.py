"""How the benchmarks measure: interleaved timings, and counts that do not depend on the machine."""

import contextlib
import gc
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

FRAMES = 128
"""How many frames of a small function fill a piece of Python's stack, about."""
STRIDE = 37
"""How many of them lie between a round and the next."""

Samples = dict[Any, list[float]]
"""Seconds of each round, by the name of an implementation (and whatever else tells samplers apart)."""


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Return median, lower and upper quartile of one or more values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(samples: Samples, base: str) -> dict[str, Spread]:
    """Divide each implementation by `base` round by round, so that drift of the machine cancels."""
    return {k: spread([t / b for t, b in zip(v, samples[base], strict=True)]) for k, v in samples.items() if k != base}


@contextlib.contextmanager
def quiet_gc() -> Iterator[None]:
    """Keep the garbage collector from running inside a timing; what lives already is left out of later collections."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def clock(run: Callable[[], Any], number: int = 1) -> float:
    """Seconds of one `run()`, results of JAX awaited."""
    gc.collect()
    start = time.perf_counter()
    for _ in range(number):
        jax.block_until_ready(run())
    return (time.perf_counter() - start) / number


def interleaved(
    samplers: Mapping[Any, Callable[[], float]], rounds: int, budget: float, warm: Iterable[Any] | None = None
) -> Samples:
    """Sample every implementation once a round, each round starting with another one, after a round that is dropped.

    Rounds run at different depths of the stack, each the same for all implementations: Python takes memory for its
    stack in pieces of 16 KiB and gives a piece back as soon as the calls in it have returned. A trace that goes to and
    fro over the end of one takes up to twice as long, and where that end lies is chance.

    Args:
        samplers: by implementation, a function that takes one sample and returns its seconds.
        rounds: how many rounds to take.
        budget: seconds after which rounds stop, though not before three are taken.
        warm: the samplers that take part in the round that is dropped, if not all.

    Returns:
        The samples, as many for each implementation.
    """
    order = list(samplers)
    samples: Samples = {name: [] for name in order}
    with quiet_gc():
        start = time.perf_counter()
        for name in order if warm is None else warm:
            samplers[name]()
        for done in range(rounds):
            if done >= 3 and time.perf_counter() - start > budget:
                break
            shift = done % len(order)
            for name in order[shift:] + order[:shift]:
                samples[name].append(_below(done * STRIDE % FRAMES, samplers[name]))
    return samples


def _below(frames: int, run: Callable[[], float]) -> float:
    return _below(frames - 1, run) if frames else run()


class Calls(NamedTuple):
    """How often functions were entered."""

    python: int
    builtin: int


def count_calls(run: Callable[[], Any]) -> Calls:
    """Count the calls that `run()` makes, as the interpreter's profiling hook sees them."""
    python = builtin = 0

    def hook(frame: Any, event: str, arg: Any) -> None:
        nonlocal python, builtin
        python += event == "call"
        builtin += event == "c_call"

    with quiet_gc():
        sys.setprofile(hook)
        try:
            run()
        finally:
            sys.setprofile(None)
    return Calls(python, builtin)


def operations(jaxpr: Any) -> list[str]:
    """Names of the primitives of a jaxpr; of an equation that holds jaxprs (a call, a loop), those inside instead."""
    found = []
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = [v for v in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(v)]
        found += [name for v in inner for name in operations(v)] if inner else [equation.primitive.name]
    return found


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


class Program(NamedTuple):
    """What a compiled program is made of."""

    operations: int
    flops: float
    bytes: float
    memory: int


def program(compiled: Any) -> Program:
    """Count the operations of a compiled program, and read FLOPs, bytes and memory off XLA's analyses.

    Bytes are those that are read and written, memory what arguments, results and temporary values take.
    """
    operations = re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", compiled.as_text(), re.MULTILINE)
    cost = compiled.cost_analysis()
    sizes = compiled.memory_analysis()
    memory = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return Program(len(operations), cost["flops"], cost["bytes accessed"], memory)


def lowering(traced: Any) -> float:
    """Seconds to lower a program that was traced: a new one, since JAX keeps what it lowered."""
    return clock(lambda: traced.lower() and None)


def compiling(lowered: Any) -> float:
    """Seconds that XLA takes for a program that was lowered: a new one, as before."""
    return clock(lambda: lowered.compile() and None)


def fresh_interpreter(*arguments: str) -> list[float]:
    """Run Python on `arguments` with this process's search path, and return the numbers that it prints.

    Byte code is written, whatever this process does: an installed library has it, one in a checkout may not.
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, env=env)
    return [float(word) for word in done.stdout.split()]
