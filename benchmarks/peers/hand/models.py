"""The models of the benchmarks in plain JAX: one function a layer, parameters in a dict of arrays.

This is what every ratio divides by, so it is a good way to write the arithmetic, not a strawman: no indirection,
`jax.numpy` where that is shortest, which is also fastest to trace (its functions cache the traces of what is inside
them), and `custom_vjp` rules defined once a network. LayerNorm has fast variance and epsilon 1e-6, gelu its tanh form,
as Linen's have by default. `models_tuned` is the same network with more care for JAX.

Every implementation in this folder, a module or a namespace, has `NAME`, `KINDS`, the kinds of network that it has,
`variables(parameters)`, which turns the dict of `init` into what its networks take, and `program(kind, depth)`, a fresh
function `(variables, x) -> y` at each call, because JAX caches traces by the identity of the function. The program of
kind `init` is `(key, x) -> parameters`.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

NAME = "by hand"
WIDTH = 32
HIDDEN = 64
BATCH = 8
MIX = 0.01
"""Weight with which derivatives enter a lifted block, small so that deep networks stay bounded."""

Parameters = dict[str, Any]
"""A tree of parameters."""
Block = Callable[[Parameters, jax.Array], jax.Array]


def layer_norm(p: Parameters, x: jax.Array) -> jax.Array:
    """`(x - E[x]) / sqrt(V[x] + 1e-6) * scale + bias` over the last axis."""
    mean = x.mean(-1, keepdims=True)
    var = jnp.maximum(0.0, lax.square(x).mean(-1, keepdims=True) - lax.square(mean))
    return (x - mean) * (lax.rsqrt(var + 1e-6) * p["scale"]) + p["bias"]


def dense(p: Parameters, x: jax.Array) -> jax.Array:
    """`x @ kernel + bias`."""
    return x @ p["kernel"] + p["bias"]


def block(p: Parameters, x: jax.Array) -> jax.Array:
    """`x + down(gelu(up(norm(x))))`."""
    return x + dense(p["down"], jax.nn.gelu(dense(p["up"], layer_norm(p["norm"], x))))


def implementation(name: str, block: Block) -> SimpleNamespace:
    """Every kind of network whose blocks are `block`, or a derivative of it."""

    def energy(p: Parameters, x: jax.Array) -> jax.Array:
        return jnp.tanh(block(p, x)).sum()

    def block_vjp(p: Parameters, x: jax.Array) -> jax.Array:
        y, pull = jax.vjp(block, p, x)
        p_ct, x_ct = pull(y)
        return y + MIX * x_ct + MIX * p_ct["down"]["bias"]

    def block_jvp(p: Parameters, x: jax.Array) -> jax.Array:
        y, y_t = jax.jvp(block, (p, x), (p, x))
        return y + MIX * y_t

    def block_grad(p: Parameters, x: jax.Array) -> jax.Array:
        return x + MIX * jax.grad(energy, argnums=1)(p, x)

    def block_value_and_grad(p: Parameters, x: jax.Array) -> jax.Array:
        value, x_ct = jax.value_and_grad(energy, argnums=1)(p, x)
        return x + MIX * x_ct + MIX * value

    def block_custom_vjp() -> Block:
        @jax.custom_vjp
        def signed(p: Parameters, x: jax.Array) -> jax.Array:
            return block(p, x)

        def forward(p: Parameters, x: jax.Array) -> Any:
            return jax.vjp(block, p, x)

        def backward(pull: Any, y_ct: jax.Array) -> Any:
            p_ct, x_ct = pull(y_ct)
            return jax.tree.map(jnp.sign, p_ct), x_ct

        signed.defvjp(forward, backward)
        return signed

    def looped(apply: Block) -> Block:
        return lambda p, x: lax.scan(lambda carry, row: (carry, apply(p, row)), 0.0, x)[1]

    blocks: dict[str, Callable[[], Block]] = {
        "mlp": lambda: block,
        "vjp": lambda: block_vjp,
        "jvp": lambda: block_jvp,
        "grad": lambda: block_grad,
        "value_and_grad": lambda: block_value_and_grad,
        "custom_vjp": block_custom_vjp,
        "jit": lambda: jax.jit(lambda p, x: block(p, x)),  # a new function: JAX knows no trace of it
        "vmap": lambda: jax.vmap(block, (None, 0)),
        "scan": lambda: looped(block),
        "remat": lambda: jax.checkpoint(lambda p, x: block(p, x)),
        "scan_remat_vjp": lambda: looped(jax.checkpoint(lambda p, x: block_vjp(p, x))),
        "vmap_jit_grad": lambda: jax.vmap(jax.jit(lambda p, x: block_grad(p, x)), (None, 0)),
        "tiny": lambda: scale,
    }

    def program(kind: str, depth: int) -> Callable[..., Any]:
        if kind == "init":
            return lambda key, x: init(key, x, depth)
        apply = blocks[kind]()

        def network(parameters: Parameters, x: jax.Array) -> jax.Array:
            for name in names(depth):
                x = apply(parameters[name], x)
            return x

        return network

    def variables(parameters: Parameters) -> Parameters:
        return parameters

    return SimpleNamespace(NAME=name, KINDS=frozenset({*blocks, "init"}), program=program, variables=variables)


def scale(p: Parameters, x: jax.Array) -> jax.Array:
    """`x * scale`, the whole of a tiny module."""
    return x * p["scale"]


def names(depth: int) -> list[str]:
    """Names of the blocks of a network, in order."""
    return [f"block_{i}" for i in range(depth)]


def init(key: jax.Array, x: jax.Array, depth: int) -> Parameters:
    """Parameters of a network: LeCun-normal kernels from one split of the key, biases zero, scales one."""
    kernel = jax.nn.initializers.lecun_normal()
    keys = jax.random.split(key, (depth, 2))
    width = x.shape[-1]
    return {
        name: {
            "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
            "up": {"kernel": kernel(keys[i, 0], (width, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
            "down": {"kernel": kernel(keys[i, 1], (HIDDEN, width)), "bias": jnp.zeros(width)},
        }
        for i, name in enumerate(names(depth))
    }


def tiny_parameters(depth: int) -> Parameters:
    """Parameters of the chain of scalings that `tiny` runs."""
    return {name: {"scale": jnp.float32(1.0)} for name in names(depth)}
