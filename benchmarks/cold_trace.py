"""Print the seconds of the first trace in an interpreter, of a network and of its gradient: `cold_trace.py NAME DEPTH`.

Libraries keep what they traced of a layer for the next one like it, so that the first trace costs more than the others.
"""

import functools
import importlib
import sys
import time

import jax
import jax.numpy as jnp

from benchmarks.peers.hand import models as hand
from benchmarks.peers.linen import models as models_linen


def main(name: str, depth: int) -> tuple[float, float]:
    """Trace once each; the gradient second, with what the network left in caches."""
    if name == hand.NAME:
        implementation = hand.implementation(name, hand.block)
    else:
        implementation = models_linen.implementation(name, importlib.import_module(models_linen.NAMESPACES[name]))
    x = jax.ShapeDtypeStruct((hand.BATCH, hand.WIDTH), "float32")
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = implementation.variables(jax.eval_shape(functools.partial(hand.init, depth=depth), key, x))
    apply = implementation.program("mlp", depth)
    start = time.perf_counter()
    jax.make_jaxpr(apply)(variables, x)
    middle = time.perf_counter()
    jax.make_jaxpr(jax.grad(lambda variables, x: jnp.square(apply(variables, x)).mean()))(variables, x)
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    print(*main(sys.argv[1], int(sys.argv[2])))
