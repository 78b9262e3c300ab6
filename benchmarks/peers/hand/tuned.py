"""The networks of `models_hand` as fast as we know to write them: few operations, each layer traced once.

The operations are those of liftax's layers, in their order. That the programs of liftax have the figures of this one,
down to the operation, shows that liftax adds nothing to them. Layers are under `jax.jit(…, inline=True)`, so that JAX
traces and differentiates each of them once for all blocks; what liftax takes longer than this to trace is its own.
"""

import functools
from types import SimpleNamespace

import jax
import numpy as np
from jax import lax

from benchmarks.peers.hand import models as models_hand
from benchmarks.peers.hand.models import Parameters

traced_once = functools.partial(jax.jit, inline=True)
gelu = traced_once(jax.nn.gelu)


@traced_once
def layer_norm(p: Parameters, x: jax.Array) -> jax.Array:
    """`(x - E[x]) / sqrt(V[x] + 1e-6) * scale + bias` over the last axis."""
    count = np.float32(x.shape[-1])
    square = lax.square(x)
    last, others = x.ndim - 1, tuple(range(x.ndim - 1))
    mean = lax.div(lax.reduce_sum(x, (last,)), count)
    var = lax.max(np.float32(0), lax.sub(lax.div(lax.reduce_sum(square, (last,)), count), lax.square(mean)))
    centred = lax.sub(x, lax.broadcast_in_dim(mean, x.shape, others) if others else mean)
    inverse = lax.rsqrt(lax.add(var, np.float32(1e-6)))
    if others:
        inverse, scale = lax.expand_dims(inverse, (last,)), lax.expand_dims(p["scale"], others)
    else:
        scale = p["scale"]
    factor = lax.mul(inverse, scale)
    return add_bias(lax.mul(centred, factor), p["bias"])


@traced_once
def dense(p: Parameters, x: jax.Array) -> jax.Array:
    """`x @ kernel + bias`."""
    return add_bias(lax.dot_general(x, p["kernel"], (((x.ndim - 1,), (0,)), ((), ()))), p["bias"])


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """`y + bias`, the bias along the last axis."""
    return lax.add(y, lax.broadcast_in_dim(bias, y.shape, (y.ndim - 1,)) if y.ndim > 1 else bias)


def block(p: Parameters, x: jax.Array) -> jax.Array:
    """`x + down(gelu(up(norm(x))))`."""
    return lax.add(x, dense(p["down"], gelu(dense(p["up"], layer_norm(p["norm"], x)))))


def implementation() -> SimpleNamespace:
    """See `models_hand.implementation`."""
    return models_hand.implementation("tuned", block)
