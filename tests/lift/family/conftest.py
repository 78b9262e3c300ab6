"""Programs of cells run once: they are compiled without optimizations, which takes half the time."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _fast_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
