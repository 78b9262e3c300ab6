"""Wrapped models against the libraries' own calls: see `tests.bridge.table`."""

import sys

import jax
import pytest
from tests.bridge.table import CELLS, LIBRARIES, MODELS, case, compare
from tests.bridge.transforms import apply

COSTLY = {"nn.jit", "nn.scan", "nn.remat", "nn.custom_vjp"}  # their programs differ in text, so that they have to run
SAMPLE = [
    cell
    for cell in CELLS
    if (cell[1] == "own_state" and cell[2] not in COSTLY) or (cell[1], cell[2]) == ("mlp", "nn.grad")
]


@pytest.mark.parametrize("cell", SAMPLE, ids="-".join)
def test_sample(cell):
    assert compare(*cell) == "program"


@pytest.mark.long
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in SAMPLE], ids="-".join)
def test_whole(cell):
    how = compare(*cell)
    assert how in (("program",) if cell[2] not in COSTLY else ("program", "bit", "rounding"))


def test_table_is_whole():
    assert len(CELLS) == 378
    assert {library for library, _, _ in SAMPLE} == set(LIBRARIES)


def calls(fn, *args):
    """Return how many calls of Python functions a trace of `fn` makes, once caches are filled."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event == "call"

    for _ in range(2):
        count = 0
        sys.setprofile(profile)
        try:
            jax.make_jaxpr(lambda *args: fn(*args))(*args)
        finally:
            sys.setprofile(None)
    return count


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "model", [model if model == "own_state" else pytest.param(model, marks=pytest.mark.long) for model in MODELS]
)
def test_trace_costs_at_most_a_fifth_more(library, model):
    cell = case(library, model)
    args = cell.variables, cell.x
    assert calls(apply(cell), *args) <= 1.2 * calls(cell.own, *args)
