"""Run one of the programs in this process, and write what it computed and how long its trace took.

    python [-m liftax.linen] tests/compat/measure.py e3x out.pkl

The trace is that of `jax.jit` of a function that JAX has not seen, the smallest of three; the first one, which imports
and fills caches, is left out.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import pickle
import sys
import time
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np


def fresh(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does what `fn` does and is new to JAX's caches."""
    return lambda *args: fn(*args)


def measure(name: str) -> dict[str, Any]:
    """Return `values` (`{path: array}`), `trace_s`, and `module`, where `flax.linen.Module` comes from."""
    here = str(Path(__file__).parent)
    sys.path[:] = [p for p in sys.path if str(Path(p).resolve()) != here]  # programs are named like their packages
    sys.path.insert(0, str(Path(here).parents[1]))
    fn, args = import_module(f"tests.compat.programs.{name}").build()
    out = jax.jit(fn)(*args)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.jit(fresh(fn)).trace(*args)
        times.append(time.perf_counter() - start)
    leaves = jax.tree_util.tree_leaves_with_path(out)
    from flax import linen

    return {
        "values": {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves},
        "trace_s": min(times),
        "module": linen.Module.__module__,
        "jax": metadata.version("jax"),
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(pickle.dumps(measure(sys.argv[1])))
