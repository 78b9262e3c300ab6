"""The report of what is kept: its bytes are those of the VJP function, its rows say where each array is from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax.ad.memory import show

W = jnp.ones((3, 8, 8)) / 8
X = jnp.ones((5, 8))


def unrolled(w, x):
    for i in range(3):
        with jax.named_scope(f"layer_{i}"):
            x = jax.nn.gelu(x @ w[i])
    return jnp.sum(x)


def scanned(w, x):
    def step(x, one):
        with jax.named_scope("step"):
            return jnp.tanh(x @ one) * x, jnp.sin(x)

    with jax.named_scope("outside"):
        x, ys = jax.lax.scan(step, x, w)
    return jnp.sum(x) + jnp.sum(jnp.where(ys > 0, ys, 0))


def bytes_of_vjp(f, *args):
    return sum(x.nbytes for x in {id(x): x for x in jax.tree.leaves(jax.vjp(f, *args)[1])}.values())


@pytest.mark.parametrize("f", [unrolled, scanned, lx.checkpoint(unrolled), lx.checkpoint(scanned, budget="50%")])
def test_bytes_are_those_of_the_vjp_function(f):
    report = lx.saved(f, W, X)
    assert report.bytes == bytes_of_vjp(f, W, X) == sum(row.bytes for row in report.rows)
    assert report.computed_bytes <= report.bytes


def test_rows_say_where_they_are_from():
    rows = lx.saved(unrolled, W, X).rows
    products = [row for row in rows if row.primitive == "dot_general"]
    assert [row.path for row in products] == ["layer_0", "layer_1", "layer_2"]
    assert all(row.source.partition(":")[0] == __file__ and row.source.partition(":")[2].isdigit() for row in products)
    assert all(row.shape == (5, 8) and row.dtype == "float32" and row.bytes == 160 for row in products)
    assert products[0].flops >= 2 * 5 * 8 * 8
    assert {row.primitive for row in rows} >= {"argument", "dot_general"}


def test_rows_of_a_loop():
    rows = [row for row in lx.saved(scanned, W, X).rows if row.times == 3]
    assert {row.primitive for row in rows} >= {"tanh", "cos", "carry"}
    assert all(row.path.startswith("outside") and row.shape == (5, 8) and row.bytes == 3 * 160 for row in rows)
    assert {row.path for row in rows if row.primitive == "cos"} == {"outside/step"}


def test_totals():
    report = lx.saved(unrolled, W, X)
    by_module = report.by_module()
    assert {"layer_0", "layer_1", "layer_2"} <= set(by_module)
    assert sum(by_module.values()) == sum(report.by_module(depth=0).values()) == report.computed_bytes
    assert list(by_module.values()) == sorted(by_module.values(), reverse=True)


def test_types_are_enough():
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (W, X)]
    assert lx.saved(unrolled, *shapes).rows == lx.saved(unrolled, W, X).rows


def test_arguments_that_have_no_derivative():
    report = lx.saved(lambda x, n, key: jnp.sum(jnp.sin(x) * n) + jax.random.normal(key), X, 3, jax.random.key(0))
    assert report.computed_bytes > 0


@pytest.mark.parametrize("rich", [True, False])
def test_text(monkeypatch, rich):
    if not rich:
        find = show.importlib.util.find_spec
        monkeypatch.setattr(show.importlib.util, "find_spec", lambda name: None if name == "rich" else find(name))
    report = lx.saved(lx.checkpoint(unrolled, budget="30%"), W, X)
    text = str(report)
    assert "layer_2" in text and "dot_general" in text and "float32[5,8]" in text
    assert f"without the plan {show.in_words(report.plain.computed_bytes)}" in text
    assert "<td>layer_2</td>" in report._repr_html_()


def test_long_tables_are_summed_up():
    report = lx.saved(lambda x: jnp.sum(_sines(x)), X)
    assert f"{len(report.rows) - show.MOST} more" in str(report)


def _sines(x):
    for _ in range(show.MOST + 5):
        x = jnp.sin(x)
    return x


def test_picture():
    report = lx.saved(lx.checkpoint(unrolled, budget="30%"), W, X)
    ax = report.plot(depth=1)
    assert {t.get_text() for t in ax.get_yticklabels()} == set(report.plain.by_module(1))
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(sum(widths) * 2**20, report.computed_bytes + report.plain.computed_bytes, rtol=1e-6)
    ax = report.plain.plot()
    assert len(ax.patches) == len(report.plain.by_module())
