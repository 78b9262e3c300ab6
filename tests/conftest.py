"""What all tests share: JAX on the CPU in float32 with four devices, and seeded randomness."""

import os
import zlib

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported, so that a machine with an accelerator runs the same tests

import random

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_num_cpu_devices", 4)  # for shard_map and pmap

# derandomize: a failure is found again by the next run. `--hypothesis-profile=long` is the wide search.
hypothesis.settings.register_profile(
    "quick", derandomize=True, deadline=None, database=None, max_examples=15, print_blob=True
)
hypothesis.settings.register_profile("long", hypothesis.settings.get_profile("quick"), max_examples=200)
hypothesis.settings.load_profile("quick")


SHARES = {"ad/laplacian": 6, "ad/loops": 3, "ad/memory": 4, "ad/jacobian": 5, "ad/implicit": 3, "bridge": 5}
"""Of the parametrized tests in these folders one in so many belongs to the short run, the rest to the long sweep.

Each test function keeps at least its first case.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cells that only the long sweep runs; which these are depends on nothing but their names."""
    seen = set()
    for item in items:
        share = next((n for folder, n in SHARES.items() if f"tests/{folder}/" in item.nodeid), 1)
        function = item.nodeid.partition("[")[0]
        if function in seen and zlib.crc32(item.nodeid.encode()) % share:
            item.add_marker(pytest.mark.long)
        seen.add(function)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same global random state."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def key() -> jax.Array:
    """A fixed JAX key."""
    return jax.random.key(0)
