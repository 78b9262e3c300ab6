"""The models of the benchmarks in the Linen API: one source for every namespace that offers it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from models_hand import HIDDEN, MIX, WIDTH, names

NAMESPACES = {"liftax": "liftax.nn", "linen": "flax.linen"}
"""The namespaces, and the modules that they are."""
KINDS = frozenset({"mlp", "vjp", "jvp", "grad", "value_and_grad", "custom_vjp", "init", "tiny"})


def implementation(name: str, nn: Any) -> SimpleNamespace:
    """The models, written against the namespace `nn`; `models_hand` says what the result must have."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            h = nn.LayerNorm(name="norm")(x)
            h = nn.Dense(HIDDEN, name="up")(h)
            h = nn.gelu(h)
            return x + nn.Dense(WIDTH, name="down")(h)

    def call(block: Any, x: jax.Array) -> jax.Array:
        return block(x)

    def energy(block: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(block(x)).sum()

    def block_vjp(block: Any, x: jax.Array) -> jax.Array:
        y, pull = nn.vjp(call, block, x)
        block_ct, x_ct = pull(y)
        return y + MIX * x_ct + MIX * block_ct["params"]["down"]["bias"]

    def block_jvp(block: Any, x: jax.Array) -> jax.Array:
        tangents = {"params": block.variables.get("params", {})}
        y, y_t = nn.jvp(call, block, (x,), (x,), variable_tangents=tangents)
        return y + MIX * y_t

    def block_grad(block: Any, x: jax.Array) -> jax.Array:
        (x_ct,) = nn.grad(energy, block, x)
        return x + MIX * x_ct

    def block_value_and_grad(block: Any, x: jax.Array) -> jax.Array:
        value, (x_ct,) = nn.value_and_grad(energy, block, x)
        return x + MIX * x_ct + MIX * value

    def forward(block: Any, x: jax.Array) -> Any:
        return nn.vjp(call, block, x)

    def backward(pull: Any, y_ct: jax.Array) -> Any:
        block_ct, x_ct = pull(y_ct)
        return jax.tree.map(jnp.sign, block_ct), x_ct

    def block_custom_vjp(block: Any, x: jax.Array) -> jax.Array:
        return nn.custom_vjp(call, forward_fn=forward, backward_fn=backward)(block, x)

    blocks = {
        "mlp": call,
        "init": call,
        "vjp": block_vjp,
        "jvp": block_jvp,
        "grad": block_grad,
        "value_and_grad": block_value_and_grad,
        "custom_vjp": block_custom_vjp,
    }

    class Network(nn.Module):
        depth: int
        kind: str

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            apply = blocks[self.kind]
            for name in names(self.depth):
                x = apply(Block(name=name), x)
            return x

    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return x * self.param("scale", nn.initializers.ones_init(), ())

    class Chain(nn.Module):
        depth: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for name in names(self.depth):
                x = Scale(name=name)(x)
            return x

    def program(kind: str, depth: int) -> Callable[..., Any]:
        model = Chain(depth) if kind == "tiny" else Network(depth, kind)
        if kind == "init":
            return lambda key, x: model.init(key, x)["params"]
        return lambda variables, x: model.apply(variables, x)

    def variables(parameters: dict[str, Any]) -> dict[str, Any]:
        return {"params": parameters}

    return SimpleNamespace(NAME=name, KINDS=KINDS, program=program, variables=variables)
