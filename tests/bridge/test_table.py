"""Wrapped models against the libraries' own calls: see `tests.bridge.table`."""

import pytest
from tests.bridge.table import CELLS, LIBRARIES, compare

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
