"""The benchmarks measure what they say: equal programs, fair rounds, a table that states misses."""

import importlib
import sys
import types
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from liftax import nn

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = ("measure", "cases", "run", "models_hand", "models_tuned", "models_linen")
DERIVED = [(kind, False) for kind in ("mlp", "vjp", "jvp", "grad", "value_and_grad")]
DERIVED += [("mlp", True), ("custom_vjp", True)]


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of the folder, which are scripts that find each other by the search path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def bench(benchmarks):
    """A bench of liftax and both versions by hand, at two blocks."""
    hand = benchmarks.models_hand
    found = {
        hand.NAME: hand.implementation(hand.NAME, hand.block),
        "liftax": benchmarks.models_linen.implementation("liftax", nn),
        "tuned": benchmarks.models_tuned.implementation(),
    }
    return benchmarks.cases.Bench(found, 2, (1, 2), rounds=1, budget=0.0)


@pytest.mark.parametrize(("kind", "derive"), DERIVED)
def test_traces_to_the_operations_written_by_hand(benchmarks, bench, kind, derive):
    def operations(name):
        implementation = bench.implementations[name]
        run = bench.fresh(implementation, kind, 2, derive)
        return Counter(benchmarks.measure.operations(jax.make_jaxpr(run)(*bench.arguments(implementation, kind, 2))))

    assert operations("liftax") == operations("tuned")


@pytest.mark.parametrize(("kind", "derive"), [*DERIVED, ("init", False), ("tiny", False)])
def test_computes_the_values_of_the_version_by_hand(bench, kind, derive):
    assert set(bench.comparable(kind, derive)) == {"by hand", "liftax", "tuned"}
    assert not bench.failed


def test_refuses_to_time_other_values(benchmarks):
    hand = benchmarks.models_hand
    found = {
        hand.NAME: hand.implementation(hand.NAME, hand.block),
        "liar": hand.implementation("liar", lambda p, x: x),
    }
    bench = benchmarks.cases.Bench(found, 2, (1, 2), rounds=1, budget=0.0)
    assert set(bench.comparable("mlp")) == {hand.NAME}
    assert bench.failed
    assert bench.notes == ["liar gives other values than by hand on mlp; not measured"]


def test_rounds_take_turns_and_drop_the_first(benchmarks):
    order = []

    def sampler(name):
        return lambda: order.append(name) or float(len(order))

    samples = benchmarks.measure.interleaved({name: sampler(name) for name in "ab"}, rounds=2, budget=60)
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert samples == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_ratios_are_taken_round_by_round(benchmarks):
    samples = {"base": [1.0, 2.0, 4.0], "other": [2.0, 4.0, 8.0]}
    assert benchmarks.measure.ratios(samples, "base") == {"other": (2.0, 2.0, 2.0)}


def test_operations_are_counted_inside_calls(benchmarks):
    jaxpr = jax.make_jaxpr(lambda x: jax.jit(jnp.sin)(x) + jax.lax.cond(x > 0, jnp.cos, jnp.exp, x))(1.0)
    counted = Counter(benchmarks.measure.operations(jaxpr))
    assert {name: counted[name] for name in ("sin", "cos", "exp", "add", "jit", "cond")} == {
        "sin": 1,
        "cos": 1,
        "exp": 1,
        "add": 1,
        "jit": 0,
        "cond": 0,
    }


def test_python_calls_are_counted(benchmarks):
    def inner():
        return None

    def outer():
        inner()
        inner()

    assert benchmarks.measure.count_calls(outer).python == 3


def test_table_states_a_missed_goal(benchmarks):
    measured = benchmarks.measure.Spread(1.61, 1.6, 1.7)
    row = benchmarks.cases.Row("mlp", "trace", 2.0, "ms", {"liftax": measured}, goal=1.5)
    assert benchmarks.run.table([row]).endswith("2.00 ms  1.61 [1.60-1.70]  1.5 MISSED")
