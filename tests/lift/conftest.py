"""The count of the transform matrix, for the last lines of a run."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cells of the transform matrix ran, and how many agree with plain JAX."""
    reports = {
        outcome: [r for r in terminalreporter.stats.get(outcome, ()) if "lift/test_matrix.py::test_cell[" in r.nodeid]
        for outcome in ("passed", "failed")
    }
    ran = sum(map(len, reports.values()))
    if ran:
        terminalreporter.write_line(f"transform matrix: {len(reports['passed'])} of {ran} cells agree with plain JAX")
