"""Library × model × transform: each cell compares a wrapped model with the library's own call of it.

`python -m tests.bridge.table` prints the table and the number of cells.
"""

import functools
import importlib
import re
from typing import Any

import jax
import numpy as np
from tests.bridge.case import Case
from tests.bridge.transforms import ROWS

LIBRARIES = ("linen", "nnx", "equinox", "haiku")
MODELS = ("mlp", "residual", "transformer", "lstm", "shared", "own_state")
# A loop draws its keys after a run of its body that it makes to find what does not change: see test_inwards.
DRAWING = {(library, model) for library in ("linen", "equinox", "haiku") for model in ("mlp", "transformer")}
CELLS = [
    (library, model, row)
    for library in LIBRARIES
    for model in MODELS
    for row in ROWS
    if row != "nn.scan" or (library, model) not in DRAWING
]
# XLA rounds differently where programs differ: the rule doubles at another place, loops and checkpoints fuse.
TOLERANCE = 2e-5


@functools.cache
def case(library: str, model: str) -> Case:
    return importlib.import_module(f"tests.bridge.models_{library}").CASES[model]()


def same_program(ours: Any, theirs: Any, *args: Any) -> bool:
    """Whether both trace to the same program: then they agree to the bit on every machine."""
    texts = [str(jax.make_jaxpr(fn)(*args)) for fn in (ours, theirs)]
    return len({re.sub(r"name=\S+|0x[0-9a-f]+", "", text) for text in texts}) == 1


def compare(library: str, model: str, row: str) -> str:
    """Check one cell; return how the two agree: `program`, `bit` or `rounding`.

    Raises:
        AssertionError: They differ.
    """
    cell = case(library, model)
    ours, theirs = (program(cell) for program in ROWS[row])
    args = cell.variables, cell.x
    shapes = jax.tree.structure(jax.eval_shape(ours, *args)), jax.tree.structure(jax.eval_shape(theirs, *args))
    assert shapes[0] == shapes[1], f"{shapes[0]}\n{shapes[1]}"
    if same_program(ours, theirs, *args):
        return "program"
    args = cell.values(), cell.x
    pairs = list(zip(jax.tree.leaves(jax.jit(ours)(*args)), jax.tree.leaves(jax.jit(theirs)(*args)), strict=True))
    bits = True
    for a, b in pairs:
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        bits = bits and bool((a == b).all())
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)
    return "bit" if bits else "rounding"


if __name__ == "__main__":
    found = {cell: compare(*cell) for cell in CELLS}
    print("|", " | ".join(["", "transform", *MODELS]), "|")
    print("|", " | ".join(["---"] * (len(MODELS) + 2)), "|")
    for library in LIBRARIES:
        for row in ROWS:
            print("|", " | ".join([library, row, *(found.get((library, model, row), "") for model in MODELS)]), "|")
    counts = {how: list(found.values()).count(how) for how in ("program", "bit", "rounding")}
    print(f"\n{len(found)} cells: {counts}")
