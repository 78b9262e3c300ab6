"""What programs around transforms are built from: a block that has everything, and a module around it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .table import program

ALL = {"params": 0, "state": 0, "intermediates": 0}
SPLIT = {"params": True, "dropout": True, "noise": True}
SAME = {"params": False, "dropout": False, "noise": False}
TRANSFORMED = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)


def transformed(**options: Any) -> Any:
    """Add a program of one argument of shape (3, 4), that may write every collection that `block` has."""
    return program(TRANSFORMED, mutable=["state", "batch_stats", "intermediates"], **options)


def block(nn: Any) -> Any:
    """A module that has everything: parameters, sown values and draws, two streams, state."""

    class Block(nn.Module):
        features: int = 4
        shared: nn.Module = None
        train: bool = True

        @nn.compact
        def __call__(self, x, extra=None):
            key = self.make_rng("noise")
            self.sow("intermediates", "key", jax.random.key_data(key))
            x = nn.Dense(self.features)(x)
            self.sow("intermediates", "h", x)
            x = nn.Dropout(0.5, deterministic=not self.train)(x)
            n = self.variable("state", "n", lambda: jnp.zeros(()))
            if not self.is_initializing() and self.is_mutable_collection("state"):
                n.value = n.value + x.mean()
            if self.shared is not None:
                x = self.shared(x)
            if extra is not None:
                x = x + extra
            return jnp.tanh(x) + jax.random.uniform(key, ()) + jax.random.normal(self.make_rng("noise"), x.shape)

        def helper(self, x):
            return self(x) * 2

    return Block


def cell(nn: Any) -> Any:
    """The block as the body of a scan: `(carry, x) -> (carry, y)`."""

    class Cell(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            y = block(nn)()(carry, x)
            return y, y.sum(-1)

    return Cell


def top(nn: Any, body: Callable[[Any, Any], Any]) -> Any:
    """A module whose compact call is `body(self, x)`, between two draws and a layer of its own."""

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            first = jax.random.key_data(self.make_rng("noise"))
            out = body(self, x)
            return out, first, jax.random.key_data(self.make_rng("noise")), nn.Dense(1)(x)

    return Top()
