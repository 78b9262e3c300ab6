"""A hundred random programs, and those that once failed."""

import hypothesis
import pytest

from .oracles import Skipped, check
from .programs import Program, programs


@pytest.mark.long
@hypothesis.settings(max_examples=100, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(programs)
def test_random_programs(program: Program) -> None:
    try:
        check(program)
    except Skipped:
        hypothesis.reject()
