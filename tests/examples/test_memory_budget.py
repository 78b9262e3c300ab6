"""The example that trains in less memory: the plain step does not fit, the planned one does and learns."""

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.mark.long
def test_only_the_planned_step_fits(load: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    module = load("memory_budget")
    assert module.main(["--quick"]) == 0
    assert "it trains" in capsys.readouterr().out
    assert module.main(["--quick", "--budget", "1 GB"]) == 1
    assert "It fits" in capsys.readouterr().out
