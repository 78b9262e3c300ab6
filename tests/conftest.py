"""What all tests share: JAX on the CPU in float32 with four devices, and seeded randomness."""

import os

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


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same global random state."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def key() -> jax.Array:
    """A fixed JAX key."""
    return jax.random.key(0)
