"""The benchmarks measure what they say: equal programs, fair rounds, a table that states misses."""

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import types
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from liftax import nn

FOLDER = Path(__file__).parents[2] / "benchmarks"
PUBLISHED = FOLDER.parent / "docs" / "_static"
MODULES = {
    **{name: name for name in ("measure", "bench", "cases", "report", "run")},
    **{f"{kind}_{peer}": f"peers.{peer}.{kind}" for kind in ("models", "networks") for peer in ("hand", "linen")},
    "models_tuned": "peers.hand.tuned",
}
PEERS = {"nnx": "flax", "equinox": "equinox", "haiku": "haiku"}
DERIVED = [(kind, False) for kind in ("mlp", "vjp", "jvp", "grad", "value_and_grad")]
DERIVED += [("mlp", True), ("custom_vjp", True), ("remat", True), ("scan_remat_vjp", True)]
DERIVED += [(kind, False) for kind in ("jit", "vmap", "scan", "vmap_jit_grad")]


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of the package, by short names."""
    return types.SimpleNamespace(
        **{name: importlib.import_module(f"benchmarks.{path}") for name, path in MODULES.items()}
    )


@pytest.fixture(scope="module")
def bench(benchmarks):
    """A bench of liftax and both versions by hand, at two blocks."""
    hand = benchmarks.models_hand
    found = {
        hand.NAME: hand.implementation(hand.NAME, hand.block),
        "liftax": benchmarks.models_linen.implementation("liftax", nn),
        "tuned": benchmarks.models_tuned.implementation(),
    }
    networks = benchmarks.run.networks(["liftax"])
    return benchmarks.bench.Bench(found, networks, 2, (1, 2), rounds=1, budget=0.0)


@pytest.fixture(scope="module")
def peers(benchmarks):
    """A bench of the networks by hand and of the peers that are installed, flax among them."""
    installed = [name for name, library in PEERS.items() if importlib.util.find_spec(library)]
    return benchmarks.bench.Bench({}, benchmarks.run.networks(installed), 2, (1, 2), rounds=1, budget=0.0)


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


NETWORKS = [(kind, derive) for kind in ("transformer", "resnet", "lstm") for derive in (False, True)]
STEPS_IN_SHORT = [pytest.param(*each, marks=[] if each[1] else [pytest.mark.long]) for each in NETWORKS]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "derive"), STEPS_IN_SHORT)
def test_networks_are_those_by_hand_and_no_more(benchmarks, bench, kind, derive):
    """Equal values, dropout and moved statistics among them, from no more operations, FLOPs and bytes."""
    found = bench.comparable(kind, derive)
    assert set(found) == {"by hand", "liftax"}
    equations = bench.equations(kind, 0, derive)
    assert equations["liftax"] <= equations["by hand"]

    def program(name):
        run = jax.jit(bench.fresh(found[name], kind, 0, derive))
        return benchmarks.measure.program(run.lower(*bench.arguments(found[name], kind, 0)).compile())

    own, by_hand = program("liftax"), program("by hand")
    for what, count, expected in zip(own._fields, own, by_hand, strict=True):
        assert count <= expected * (1.001 if what == "memory" else 1.0), what  # memory has gaps


@pytest.mark.parametrize("kind", ["init_transformer", "init_resnet", "init_lstm"])
def test_networks_have_the_variables_of_those_by_hand(bench, kind):
    assert set(bench.comparable(kind)) == {"by hand", "liftax"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "derive"), [pytest.param(*each, marks=[pytest.mark.long] if each[1] else []) for each in NETWORKS]
)
def test_networks_of_peers_compute_those_by_hand(peers, kind, derive):
    """Of every peer that is installed: its output and state, or what a step of training changes, are those by hand."""
    assert set(peers.comparable(kind, derive)) == set(peers.networks)
    assert not peers.failed


@pytest.mark.parametrize("kind", ["init_transformer", "init_resnet", "init_lstm"])
def test_networks_of_peers_have_the_variables_of_those_by_hand(peers, kind):
    assert set(peers.comparable(kind)) == {name for name, made in peers.networks.items() if kind in made.KINDS}
    assert not peers.failed


@pytest.mark.long
def test_refuses_to_time_a_step_that_changes_other_values(benchmarks):
    hand = benchmarks.networks_hand
    honest, liar = (hand.implementation(name, hand.program) for name in ("by hand", "liar"))
    liar.derived = lambda apply: lambda variables, x: variables
    bench = benchmarks.bench.Bench({}, {"by hand": honest, "liar": liar}, 2, (1, 2), rounds=1, budget=0.0)
    assert set(bench.comparable("lstm", derive=True)) == {"by hand"}
    assert bench.failed


def test_refuses_to_time_other_values(benchmarks):
    hand = benchmarks.models_hand
    found = {
        hand.NAME: hand.implementation(hand.NAME, hand.block),
        "liar": hand.implementation("liar", lambda p, x: x),
    }
    bench = benchmarks.bench.Bench(found, {}, 2, (1, 2), rounds=1, budget=0.0)
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


@pytest.fixture
def row(benchmarks):
    """A line of the table, as the JSON has it."""
    measured = benchmarks.measure.Spread(1.61, 1.6, 1.7)
    row = benchmarks.bench.Row("mlp", "trace", 2.0, "ms", {"liftax": measured}, goal=1.5)
    return json.loads(json.dumps(dataclasses.asdict(row)))


def test_table_states_a_missed_goal(benchmarks, row):
    assert benchmarks.report.table([row]).endswith("2.00 ms  1.61 [1.60-1.70]  1.5 MISSED")


def test_table_in_markdown(benchmarks, row):
    assert benchmarks.report.markdown([row]).splitlines() == [
        "| case |  | by hand | liftax/hand | goal |",
        "| --- | --- | --- | --- | --- |",
        "| mlp | trace | 2.00 ms | 1.61 [1.60-1.70] | 1.5 MISSED |",
    ]


def test_slope_and_bend_of_growth(benchmarks):
    depths = [4, 16, 64, 256]
    slope, bend = benchmarks.cases.straight(depths, [0.5 + 2.0 * n for n in depths])
    assert slope == pytest.approx(2.0)
    assert bend == pytest.approx(0.0, abs=1e-6)
    assert benchmarks.cases.straight(depths, [0.5 * n**1.5 for n in depths])[1] > 20


@pytest.mark.long
def test_calls_of_a_trace_grow_with_depth_along_a_straight_line(benchmarks, bench):
    liftax = bench.implementations["liftax"]

    def calls(depth):
        parameters = benchmarks.models_hand.init(jax.random.key(0), bench.x, depth)
        run = jax.make_jaxpr(bench.fresh(liftax, "mlp", depth))
        return benchmarks.measure.count_calls(lambda: run(liftax.variables(parameters), bench.x)).python

    calls(1)
    few, middle, many = calls(8), calls(16), calls(24)
    assert many - middle == pytest.approx(middle - few, rel=0.01)


def test_a_case_that_ends_early_costs_its_rows_alone(benchmarks, tmp_path, monkeypatch, capsys):
    def broken(bench):
        raise RuntimeError("out of memory")
        yield

    def fine(bench):
        yield bench.counts("fine", "ones", {benchmarks.models_hand.NAME: 1.0, "liftax": 1.0})

    monkeypatch.setattr(benchmarks.run, "implementations", lambda: ({"liftax": None}, []))
    monkeypatch.setattr(benchmarks.run, "networks", lambda found: {})
    monkeypatch.setitem(benchmarks.cases.CASES, "mlp", broken)
    monkeypatch.setitem(benchmarks.cases.CASES, "calls", fine)
    path = tmp_path / "results.json"
    assert benchmarks.run.main(["--quick", "--only", "mlp", "--only", "calls", "--json", str(path)]) == 1
    found = json.loads(path.read_text())
    assert [row["case"] for row in found["rows"]] == ["fine"]
    assert found["notes"] == ["the case mlp ended early: RuntimeError: out of memory"]
    assert "out of memory" in capsys.readouterr().out


def test_published_plot_is_drawn_from_the_published_figures():
    results = json.loads((PUBLISHED / "benchmarks.json").read_text())
    digest = hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]
    assert f"results {digest}" in (PUBLISHED / "benchmarks.svg").read_text()
