"""Every program of the table on flax.linen and on liftax; see `table.py`."""

import flax.linen
import jax
import pytest

from liftax import nn

from .table import Program, Rounding, difference, load, plain, run

ROWS = load()


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=str(row), marks=[pytest.mark.long] if row.long else []) for row in ROWS]
)
def test_program(row: Program):
    ours, theirs = plain(run(row, nn)), plain(run(row, flax.linen))
    assert difference(ours, theirs, row.rounding) == ""


def test_table_is_whole():
    """Programs of which parameters, draws, outputs, state and gradients are all compared."""
    assert sum(not row.underivable for row in ROWS) >= 200


def test_every_exception_has_a_reason():
    for row in ROWS:
        reasons = [row.underivable, *(rounding.reason for rounding in row.rounding)]
        assert all(len(reason) > 20 for reason in reasons if reason), str(row)
        assert len({part for rounding in row.rounding for part in rounding.parts}) == sum(
            len(rounding.parts) for rounding in row.rounding
        ), str(row)


def test_differences_are_seen():
    """The comparison itself: what it must tell apart."""
    one, two = jax.numpy.ones(3), jax.numpy.ones(3).at[1].add(1e-6)
    pairs = [
        (one, two), ({"a": one}, {"b": one}), ([one], [one, one]), (one, one.astype("bfloat16")), ((1,), (2,)),
        (one, one * float("nan")), ("x", "y"), (True, 1),
        (jax.random.key(0), jax.random.key(1)),
    ]  # fmt: skip
    for a, b in pairs:
        assert difference(plain(a), plain(b))
        assert not difference(plain(a), plain(a))
    assert not difference({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert difference(plain([one]), plain([two]), (Rounding(("1",), "another element"),), "x")
    assert not difference(plain([one]), plain([two]), (Rounding(("x/0",), "this element", ulps=10),), "x")
