"""The count of the transform matrix, for the last lines of a run."""

import pytest

MATRIX = tuple(
    f"lift/{name}.py::test_cell[" for name in ("test_matrix", "derivatives/test_against_jax", "derivatives/test_forms")
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cells of the transform matrix ran, and how many agree with plain JAX or the error they state."""
    stats = terminalreporter.stats
    names = {
        outcome: [r.nodeid for r in stats.get(outcome, ()) if any(m in r.nodeid for m in MATRIX)]
        for outcome in ("passed", "failed")
    }
    ran = sum(map(len, names.values()))
    if not ran:
        return
    told = ["[linear_transpose-" in n and ("-batch_stats-" in n or "-sown-" in n) for n in names["passed"]]
    terminalreporter.write_line(
        f"transform matrix: {ran} cells, {told.count(False)} agree with plain JAX, {told.count(True)} with the "
        f"error that they state, {len(names['failed'])} do neither"
    )
