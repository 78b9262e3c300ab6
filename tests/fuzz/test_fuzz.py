"""A hundred random programs, and those that once failed."""

import hypothesis
import pytest

from .oracles import Skipped, check
from .programs import Program, Tree, programs


def around(*transforms: str, state: str = "dense") -> Program:
    return Program(Tree("none", "compact", (Tree(state, transforms=transforms),)))


FOUND = [
    # A rule runs a function once more when its variables exist; the draws that made them were not counted again inside
    # of a further transform, so that what a loop made after its first, untimed step had other keys.
    around("layers", "custom_vjp", "grad"),
    around("layers", "custom_vjp", "layers", state="param"),
    # In that second run, map_variables with init transformed what was stored already once more.
    around("custom_vjp", "map_variables"),
    around("layers", "vjp", "map_variables", state="param"),
]


@pytest.mark.parametrize("program", FOUND, ids=range(len(FOUND)))
def test_what_once_failed(program: Program) -> None:
    check(program)


@pytest.mark.long
@hypothesis.settings(max_examples=100, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(programs)
def test_random_programs(program: Program) -> None:
    try:
        check(program)
    except Skipped:
        hypothesis.reject()
