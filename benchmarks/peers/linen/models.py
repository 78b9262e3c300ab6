"""The models of the benchmarks in the Linen API: one source for every namespace that offers it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers.hand.models import HIDDEN, MIX, WIDTH, names

NAMESPACES = {"liftax": "liftax.nn", "linen": "flax.linen"}
"""The namespaces, and the modules that they are."""
KINDS = frozenset({"mlp", "vjp", "jvp", "grad", "value_and_grad", "custom_vjp", "init", "tiny"})
KINDS |= {"jit", "vmap", "scan", "remat", "scan_remat_vjp", "vmap_jit_grad"}


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

    def looped(apply: Callable[..., Any]) -> Callable[..., Any]:
        def step(block: Any, carry: float, row: jax.Array) -> tuple[float, jax.Array]:
            return carry, apply(block, row)

        over = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        return lambda block, x: over(block, 0.0, x)[1]

    def mapped(apply: Callable[..., Any]) -> Callable[..., Any]:
        return nn.vmap(apply, variable_axes={"params": None}, split_rngs={"params": False})

    def again(apply: Callable[..., Any]) -> Callable[..., Any]:
        """A new function that does the same: JAX knows no trace of it."""
        return lambda block, x: apply(block, x)

    # Made anew for each program. Linen's transforms make a function of JAX at each call, liftax's once where JAX's do.
    blocks: dict[str, Callable[[], Callable[..., Any]]] = {
        "mlp": lambda: call,
        "init": lambda: call,
        "vjp": lambda: block_vjp,
        "jvp": lambda: block_jvp,
        "grad": lambda: block_grad,
        "value_and_grad": lambda: block_value_and_grad,
        "custom_vjp": lambda: block_custom_vjp,
        "jit": lambda: nn.jit(again(call)),
        "vmap": lambda: mapped(call),
        "scan": lambda: looped(call),
        "remat": lambda: nn.remat(again(call)),
        "scan_remat_vjp": lambda: looped(nn.remat(again(block_vjp))),
        "vmap_jit_grad": lambda: mapped(nn.jit(again(block_grad))),
    }

    class Network(nn.Module):
        depth: int
        apply_block: Callable[..., Any]

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for name in names(self.depth):
                x = self.apply_block(Block(name=name), x)
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
        model = Chain(depth) if kind == "tiny" else Network(depth, blocks[kind]())
        if kind == "init":
            return lambda key, x: model.init(key, x)["params"]
        return lambda variables, x: model.apply(variables, x)

    def variables(parameters: dict[str, Any]) -> dict[str, Any]:
        return {"params": parameters}

    return SimpleNamespace(NAME=name, KINDS=KINDS, program=program, variables=variables)
