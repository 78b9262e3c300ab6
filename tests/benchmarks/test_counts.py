"""What liftax costs in calls of Python, which no machine, load or clock changes, as ratios to the version by hand.

All calls are counted for each further block of a network, JAX's among them, and divided by those of the same arithmetic
written out on a dict of arrays: below 1, liftax takes fewer. The bounds leave a quarter of slack: sharing code is worth
a call, and a factor, such as Linen's, is not.
"""

import importlib
import sys
import types
from pathlib import Path

import flax.linen
import jax
import jax.numpy as jnp
import pytest

from liftax import nn

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = {
    "measure": "measure",
    **{f"{kind}_{peer}": f"peers.{peer}.{kind}" for kind in ("models", "networks") for peer in ("hand", "linen")},
}

SLACK = 1.25
TINY = 0.3
"""Calls for a module with one parameter, made, called and forgotten, over those of Linen, at most."""
BLOCKS = {
    "mlp": 0.5,
    "grad of mlp": 0.58,
    "vjp": 0.6,
    "jvp": 0.58,
    "grad": 0.58,
    "value_and_grad": 0.58,
    "grad of custom_vjp": 0.77,
    "jit": 1.2,
    "vmap": 0.48,
    "scan": 0.68,
    "grad of scan": 0.28,
    "vmap_jit_grad": 1.4,
    # By hand one function is under jax.checkpoint, which JAX traces once for all blocks. Here each block is traced, to
    # be compared with those before it; what JAX derives from the trace it derives once.
    "remat": 5.6,
    "grad of remat": 1.02,
    "scan_remat_vjp": 9.8,
    "grad of scan_remat_vjp": 0.67,
    "init": 0.94,
}
"""For each further block, three layers in a module, by what is around it: calls over those by hand."""


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of the package, by short names."""
    return types.SimpleNamespace(
        **{name: importlib.import_module(f"benchmarks.{path}") for name, path in MODULES.items()}
    )


def counted(run):
    """Return how many calls `run()` makes."""
    total = 0

    def hook(frame, event, arg):
        nonlocal total
        if event == "call":
            total += 1

    sys.setprofile(hook)
    try:
        run()
    finally:
        sys.setprofile(None)
    return total


def per_block(benchmarks, implementation, kind, derive=False):
    """Count the calls of a trace for each further block."""
    hand = benchmarks.models_hand
    x = jnp.ones((hand.BATCH, hand.WIDTH))
    parameters = hand.init(jax.random.key(0), x, 6)

    def of(depth):
        variables = implementation.variables({name: parameters[name] for name in hand.names(depth)})
        first = jax.random.key(0) if kind == "init" else variables
        apply = implementation.program(kind, depth)
        loss = jax.grad(lambda variables, x: jnp.square(apply(variables, x)).mean()) if derive else apply
        run = jax.make_jaxpr(loss)
        return counted(lambda: run(first, x))

    of(2)  # what is traced once for all is traced here
    few, many = of(2), of(6)
    return (many - few) / 4


def test_calls_of_a_tiny_module(benchmarks):
    linen, ours = (
        benchmarks.models_linen.implementation(name, nn) for name, nn in (("flax", flax.linen), ("liftax", nn))
    )
    x = jnp.ones(3)

    def of(implementation, depth):
        variables = implementation.variables(benchmarks.models_hand.tiny_parameters(depth))
        run = implementation.program("tiny", depth)
        run(variables, x)
        return counted(lambda: run(variables, x))

    ours, theirs = (of(i, 8) - of(i, 4) for i in (ours, linen))
    assert ours <= TINY * theirs


@pytest.mark.parametrize("what", BLOCKS)
def test_calls_of_a_transformed_block(benchmarks, what):
    kind, derive = what.removeprefix("grad of "), what.startswith("grad of ")
    ours = per_block(benchmarks, benchmarks.models_linen.implementation("liftax", nn), kind, derive)
    hand = benchmarks.models_hand
    by_hand = per_block(benchmarks, hand.implementation(hand.NAME, hand.block), kind, derive)
    assert ours <= SLACK * BLOCKS[what] * by_hand


@pytest.mark.parametrize("what", ["mlp", "grad of mlp", "vjp"])
def test_compiled_program_is_no_larger_than_by_hand(benchmarks, what):
    kind, derive = what.removeprefix("grad of "), what.startswith("grad of ")
    hand, measure = benchmarks.models_hand, benchmarks.measure
    x = jnp.ones((hand.BATCH, hand.WIDTH))
    parameters = hand.init(jax.random.key(0), x, 2)

    def program(implementation):
        apply = implementation.program(kind, 2)
        loss = jax.grad(lambda variables, x: jnp.square(apply(variables, x)).mean()) if derive else apply
        return measure.program(jax.jit(loss).lower(implementation.variables(parameters), x).compile())

    own = program(benchmarks.models_linen.implementation("liftax", nn))
    by_hand = program(hand.implementation(hand.NAME, hand.block))
    assert own.operations <= by_hand.operations
    assert own.flops <= by_hand.flops
    assert own.bytes <= by_hand.bytes


@pytest.fixture(scope="module")
def lstm(benchmarks):
    """The LSTM of the networks, by liftax and by hand: `(kind, derive) -> function and arguments` of each."""
    hand = benchmarks.networks_hand
    found = (
        hand.implementation("liftax", benchmarks.networks_linen.networks(nn)),
        hand.implementation("by hand", hand.program),
    )

    def both(kind, derive=False):
        programs = [(i.program(kind, 0), i) for i in found]
        return [(i.derived(run) if derive else run, i.arguments(kind)) for run, i in programs]

    return both


@pytest.mark.parametrize("derive", [False, True], ids=["pass", "step"])
def test_compiled_lstm_is_no_larger_than_by_hand(benchmarks, lstm, derive):
    traced = [jax.jit(run).trace(*arguments) for run, arguments in lstm("lstm", derive)]
    own, by_hand = (len(benchmarks.measure.operations(trace.jaxpr)) for trace in traced)
    assert own <= by_hand
    own, by_hand = (benchmarks.measure.program(trace.lower().compile()) for trace in traced)
    assert own.operations <= by_hand.operations
    assert own.flops <= by_hand.flops
    assert own.bytes <= by_hand.bytes
    assert own.memory <= by_hand.memory


LSTM = {("lstm", False): 0.7, ("lstm", True): 0.35, ("init_lstm", False): 0.75}
"""Of two layers, by what is traced: calls over those by hand."""


@pytest.mark.parametrize(("kind", "derive"), LSTM)
def test_calls_of_a_traced_lstm(lstm, kind, derive):
    def counts():
        return [counted(lambda run=run, args=args: jax.make_jaxpr(run)(*args)) for run, args in lstm(kind, derive)]

    counts()  # what is traced once for all is traced here
    ours, by_hand = counts()
    assert ours <= SLACK * LSTM[kind, derive] * by_hand


EAGER_INIT = 1.75
"""Of the LSTM without `jit`, when equal layers were compiled: calls over those by hand."""


def test_eager_init_of_an_lstm_compiles_nothing_anew(lstm, caplog):
    for run, arguments in lstm("init_lstm"):
        run(*arguments)
    with jax.log_compiles():
        ours, by_hand = [counted(lambda run=run, args=args: run(*args)) for run, args in lstm("init_lstm")]
    assert caplog.records == []
    assert ours <= SLACK * EAGER_INIT * by_hand
