"""The options of `vmap`, `scan`, `remat` and `remat_scan`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..blocks import top
from ..table import X, program

STACKED = {"params": 0, "intermediates": 0, "state": 0}
SPLIT = {"params": True, "noise": True}


def option(**options: Any) -> Any:
    """Add a program that may write every collection of these programs."""
    return program(X, mutable=["state", "batch_stats", "intermediates"], **options)


def small(nn: Any) -> Any:
    """A layer that draws, sows its draw, and has an argument of its own for training."""

    class Small(nn.Module):
        width: int = 3

        @nn.compact
        def __call__(self, x, train=True, *, scale=1.0):
            key = self.make_rng("noise")
            self.sow("intermediates", "key", jax.random.key_data(key))
            return nn.tanh(nn.Dense(self.width)(x)) * scale + jax.random.normal(key, ()) * (1.0 if train else 0.0)

    return Small


def step(nn: Any) -> Any:
    """The layer as the body of a scan."""

    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            return small(nn)()(carry), x

    return Step


@option(long=True)
def vmap_spmd_axis_name(nn: Any) -> Any:
    return top(nn, lambda s, x: nn.vmap(small(nn), STACKED, SPLIT, spmd_axis_name="data")()(x))


@option()
def vmap_axes_of_trees(nn: Any) -> Any:
    class M(nn.Module):
        @nn.compact
        def __call__(self, d, y):
            return {"o": nn.Dense(3)(d["a"]) + d["b"], "q": y}

    return top(
        nn,
        lambda s, x: nn.vmap(
            M, {"params": None}, {"params": False}, in_axes=({"a": 0, "b": None}, None), out_axes={"o": 1, "q": None}
        )()({"a": x, "b": x[0]}, x),
    )


@option()
def vmap_metadata(nn: Any) -> Any:
    D = functools.partial(nn.Dense, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out")))
    return top(
        nn,
        lambda s, x: nn.vmap(D, {"params": 1}, {"params": True}, metadata_params={nn.PARTITION_NAME: "layers"})(3)(x),
    )


@option()
def vmap_methods(nn: Any) -> Any:
    class M(nn.Module):
        @nn.compact
        def go(self, x):
            return nn.Dense(3)(x)

    return top(
        nn, lambda s, x: nn.vmap(M, variable_axes={"params": 0}, split_rngs={"params": True}, methods=["go"])().go(x)
    )


@option()
def vmap_decorator(nn: Any) -> Any:
    class M(nn.Module):
        @functools.partial(nn.vmap, variable_axes={"params": 0}, split_rngs={"params": True})
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    return top(nn, lambda s, x: M()(x))


@option(long=True)
def scan_split_transpose(nn: Any) -> Any:
    return top(
        nn, lambda s, x: nn.scan(step(nn), STACKED, split_rngs=SPLIT, length=3, _split_transpose=True)()(x, None)
    )


@option(long=True)
def scan_unroll_reverse(nn: Any) -> Any:
    return top(
        nn, lambda s, x: nn.scan(step(nn), STACKED, split_rngs=SPLIT, unroll=2, reverse=True)()(x, jnp.arange(4.0))
    )


@option()
def scan_metadata(nn: Any) -> Any:
    D = functools.partial(nn.Dense, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out")))

    class Cell(nn.Module):
        @nn.compact
        def __call__(self, c, _):
            return D(3)(c), None

    def body(s, x):
        return nn.scan(
            Cell, {"params": 1}, split_rngs={"params": True}, length=2, metadata_params={nn.PARTITION_NAME: None}
        )()(x, None)

    return top(nn, body)


@option()
def scan_axes_of_trees(nn: Any) -> Any:
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, c, a, b, d):
            return nn.Dense(3)(c) + a["u"] + b, (a["v"], d)

    return top(
        nn,
        lambda s, x: nn.scan(
            Cell,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=({"u": 1, "v": 0}, nn.broadcast, -1),
            out_axes=(1, 0),
        )()(x, {"u": jnp.ones((2, 4, 3)), "v": jnp.ones((4, 5))}, x, jnp.ones((2, 4))),
    )


@option()
def scan_function_in_compact(nn: Any) -> Any:
    class M(nn.Module):
        @nn.compact
        def __call__(self, x):
            c = nn.Dense(3)

            def f(mdl, carry, x):
                return mdl(carry) + x, carry

            return nn.scan(f, variable_broadcast="params", split_rngs={"params": False})(c, x, jnp.ones((3, 2, 3)))

    return top(nn, lambda s, x: M()(x))


@option()
def scan_decorator(nn: Any) -> Any:
    class M(nn.Module):
        @functools.partial(nn.scan, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        @nn.compact
        def __call__(self, c, x):
            c = nn.Dense(3)(c + x)
            return c, c

    return top(nn, lambda s, x: M()(jnp.zeros(2), x)) if 0 else top(nn, lambda s, x: M()(x, jnp.ones((2, 4, 3))))


@option(long=True)
def scan_lstm(nn: Any) -> Any:
    def body(s, x):
        L = nn.scan(nn.LSTMCell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        c = L(features=3)
        x = jnp.stack([x, x], 1)
        return c(c.initialize_carry(jax.random.key(0), x[:, 0].shape), x)

    return top(nn, body)


@option(long=True)
def scan_data_transform(nn: Any) -> Any:
    return top(
        nn,
        lambda s, x: nn.scan(
            step(nn),
            {"params": 0, "intermediates": 0},
            split_rngs={"params": True, "noise": True},
            length=2,
            data_transform=lambda v, r: (
                jax.tree.map(lambda a: a * 2 if jnp.issubdtype(a.dtype, jnp.floating) else a, v),
                r,
            ),
        )()(x, None),
    )


@option()
def remat_options(nn: Any) -> Any:
    B = small(nn)
    return top(
        nn,
        lambda s, x: nn.remat(
            B, prevent_cse=False, policy=jax.checkpoint_policies.dots_saveable, static_argnums=(2,)
        )()(x, False),
    )


@option()
def remat_two_static_arguments(nn: Any) -> Any:
    class M(nn.Module):
        @nn.compact
        def __call__(self, x, mode, train):
            return nn.Dense(3)(x) if mode == "a" and train else x

    return top(nn, lambda s, x: nn.remat(M, static_argnums=(2, 3))()(x, "a", True))


@option()
def remat_variables_rngs(nn: Any) -> Any:
    return top(
        nn, lambda s, x: nn.remat(small(nn), variables=["params", "intermediates"], rngs=["noise", "params"])()(x)
    )


@option()
def checkpoint_named_values(nn: Any) -> Any:
    from jax.ad_checkpoint import checkpoint_name

    class M(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.sin(checkpoint_name(nn.Dense(3)(x), "h"))

    return top(nn, lambda s, x: nn.checkpoint(M, policy=jax.checkpoint_policies.save_only_these_names("h"))()(x))


@option(long=True)
def remat_scan_options(nn: Any) -> Any:
    class M(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.tanh(nn.Dense(3)(x))

    return top(
        nn,
        lambda s, x: nn.remat_scan(
            M,
            lengths=(2, 2),
            policy=jax.checkpoint_policies.nothing_saveable,
            variable_axes={"params": 1},
            split_rngs={"params": True},
        )()(x),
    )


@option()
def remat_scan_broadcast(nn: Any) -> Any:
    def body(s, x):
        class M(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.tanh(nn.Dense(3)(x))

        return nn.remat_scan(M, (3,), variable_broadcast="params", split_rngs={"params": False}, variable_axes={})()(x)

    return top(nn, body)
