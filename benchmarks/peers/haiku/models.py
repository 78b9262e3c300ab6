"""The residual MLP in Haiku."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax

from benchmarks.peers.hand.models import HIDDEN, WIDTH, names

NAME = "haiku"
KINDS = frozenset({"mlp"})


class Block(hk.Module):
    """`x + down(gelu(up(norm(x))))`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        h = hk.LayerNorm(-1, create_scale=True, create_offset=True, eps=1e-6, name="norm")(x)
        h = hk.Linear(HIDDEN, name="up")(h)
        return x + hk.Linear(WIDTH, name="down")(jax.nn.gelu(h))


def variables(parameters: dict[str, Any]) -> dict[str, Any]:
    """Haiku's two-level dict of the given parameters."""
    flat = {}
    for name, p in parameters.items():
        flat[f"{name}/norm"] = {"scale": p["norm"]["scale"], "offset": p["norm"]["bias"]}
        flat[f"{name}/up"] = {"w": p["up"]["kernel"], "b": p["up"]["bias"]}
        flat[f"{name}/down"] = {"w": p["down"]["kernel"], "b": p["down"]["bias"]}
    return flat


def program(kind: str, depth: int) -> Callable[..., Any]:
    """A fresh function `(parameters, x) -> y`."""

    def network(x: jax.Array) -> jax.Array:
        for name in names(depth):
            x = Block(name=name)(x)
        return x

    return hk.without_apply_rng(hk.transform(network)).apply
