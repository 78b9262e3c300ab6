"""A plugin of pytest that calls `install` before the first conftest is read: `pytest -p liftax.linen.pytest_plugin`.

`python -m liftax.linen -m pytest` names it for the processes that pytest starts.
"""

from liftax.linen.install import install


def pytest_load_initial_conftests() -> None:
    """Let Linen's addresses resolve to liftax. pytest calls this."""
    install()


pytest_load_initial_conftests.tryfirst = True  # type: ignore[attr-defined]
