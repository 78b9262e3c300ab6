"""Ceilings of what liftax costs in calls of Python, which no machine, load or clock changes.

Two things are counted for each further block of a network. First the calls of liftax's own functions, and of those that
Python made for its dataclasses and named tuples. JAX has no part in them, so that one ceiling, a little above what is
needed, holds for all its versions. Then all calls, JAX's among them, over those of the version by hand: below 1, liftax
takes fewer than the arithmetic written out.
"""

import importlib
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import liftax
from liftax import nn

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = ("measure", "models_hand", "models_linen", "networks_hand", "networks_linen")
SOURCE = str(Path(liftax.__file__).parent)

TINY = 22
"""Calls of liftax for a module with one parameter, made, called and forgotten."""
BLOCKS = {
    "mlp": (166, 0.55),
    "grad of mlp": (166, 0.64),
    "vjp": (238, 0.66),
    "jvp": (420, 0.63),
    "grad": (246, 0.63),
    "value_and_grad": (246, 0.64),
    "grad of custom_vjp": (700, 0.8),
    "jit": (44, 1.13),
    "vmap": (275, 0.5),
    "scan": (362, 0.69),
    "grad of scan": (420, 0.3),
    "vmap_jit_grad": (154, 1.31),
    # By hand one function is under jax.checkpoint, which JAX traces once for all blocks. Here each block is traced, to
    # be compared with those before it; what JAX derives from the trace it derives once.
    "remat": (312, 5.6),
    "grad of remat": (312, 1.05),
    "scan_remat_vjp": (735, 10.0),
    "grad of scan_remat_vjp": (735, 0.7),
    "init": (245, 1.05),
}
"""For each further block, three layers in a module, by what is around it: own calls, and all over those by hand."""


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of the folder, which are scripts that find each other by the search path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        del sys.modules[name]


def counted(run):
    """Return how many calls of liftax's functions `run()` makes, and how many of all."""
    own = total = 0

    def hook(frame, event, arg):
        nonlocal own, total
        if event == "call":
            total += 1
            file = frame.f_code.co_filename
            own += file.startswith(SOURCE) or (file == "<string>" and "liftax" in frame.f_globals.get("__name__", ""))

    sys.setprofile(hook)
    try:
        run()
    finally:
        sys.setprofile(None)
    return own, total


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
    return (many[0] - few[0]) / 4, (many[1] - few[1]) / 4


def test_calls_of_a_tiny_module(benchmarks):
    liftax_ = benchmarks.models_linen.implementation("liftax", nn)
    x = jnp.ones(3)

    def of(depth):
        variables = liftax_.variables(benchmarks.models_hand.tiny_parameters(depth))
        run = liftax_.program("tiny", depth)
        run(variables, x)
        return counted(lambda: run(variables, x))[0]

    assert (of(8) - of(4)) / 4 <= TINY


@pytest.mark.parametrize("what", BLOCKS)
def test_calls_of_a_transformed_block(benchmarks, what):
    kind, derive = what.removeprefix("grad of "), what.startswith("grad of ")
    own, total = per_block(benchmarks, benchmarks.models_linen.implementation("liftax", nn), kind, derive)
    hand = benchmarks.models_hand
    _, by_hand = per_block(benchmarks, hand.implementation(hand.NAME, hand.block), kind, derive)
    ceiling, over_hand = BLOCKS[what]
    assert own <= ceiling
    assert total <= over_hand * by_hand


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


LSTM = {("lstm", False): (960, 0.7), ("lstm", True): (960, 0.35), ("init_lstm", False): (1400, 0.75)}
"""Of two layers, by what is traced: own calls, and all over those by hand."""


@pytest.mark.parametrize(("kind", "derive"), LSTM)
def test_calls_of_a_traced_lstm(lstm, kind, derive):
    def counts():
        return [counted(lambda run=run, args=args: jax.make_jaxpr(run)(*args)) for run, args in lstm(kind, derive)]

    counts()  # what is traced once for all is traced here
    (own, total), (_, by_hand) = counts()
    ceiling, over_hand = LSTM[kind, derive]
    assert own <= ceiling
    assert total <= over_hand * by_hand


EAGER_INIT = (1480, 1.75)
"""Of the LSTM without `jit`, when equal layers were compiled: own calls, and all over those by hand."""


def test_eager_init_of_an_lstm_compiles_nothing_anew(lstm, caplog):
    for run, arguments in lstm("init_lstm"):
        run(*arguments)
    with jax.log_compiles():
        (own, total), (_, by_hand) = [counted(lambda run=run, args=args: run(*args)) for run, args in lstm("init_lstm")]
    assert caplog.records == []
    assert own <= EAGER_INIT[0]
    assert total <= EAGER_INIT[1] * by_hand
