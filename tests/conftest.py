"""What all tests share: JAX on the CPU in float32 with four devices, and seeded randomness."""

import importlib
import os
import zlib

# Before JAX is imported: a machine with an accelerator runs the same tests, and programs that run once, on a few
# numbers, are not worth the time that the compiler takes to make them fast.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

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


SHARES = {
    "ad/implicit": 4, "ad/jacobian": 6, "ad/laplacian": 8, "ad/loops": 4, "ad/memory": 10, "ad/test_reduce_axes": 8,
    "benchmarks": 6, "bridge": 5, "lift/derivatives": 12, "lift/test_closures": 3, "lift/rules": 6,
    "lift/test_leaks": 6, "lift/control": 4,
    "module/test_jax_transforms": 3, "nn/test_attention": 5, "nn/test_fp8": 4, "nn/test_layers": 4, "nn/test_lstm": 6,
    "nn/test_norms": 4, "nn/test_table": 10, "parity/test_table": 10,
}  # fmt: skip
"""Of the parametrized tests in these files and folders one in so many is in the short run, the rest in the long sweep.

Each test function keeps at least its first case. Which cells these are depends on nothing but their names.
"""


WITH_ASDEX = ("src/liftax/ad/jacobian/functions.py", "src/liftax/lift/derivatives/jacobian.py")
"""Files with doctests that need asdex."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cells of the long sweep; leave out what needs asdex where that has no release for this JAX."""
    if not _imports("asdex"):
        away = [x for x in items if x.get_closest_marker("asdex") or x.nodeid.startswith(WITH_ASDEX)]
        config.hook.pytest_deselected(items=away)
        items[:] = [x for x in items if x not in set(away)]
    seen = set()
    for item in items:
        share = next((n for place, n in SHARES.items() if item.nodeid.startswith(f"tests/{place}")), 1)
        function = item.nodeid.partition("[")[0]
        if function in seen and zlib.crc32(item.nodeid.encode()) % share:
            item.add_marker(pytest.mark.long)
        seen.add(function)


def _imports(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same global random state."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def key() -> jax.Array:
    """A fixed JAX key."""
    return jax.random.key(0)
