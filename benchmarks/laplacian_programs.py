"""Ten kinds of programs whose Laplacians people take, each at three sizes, in the number type of the process.

Each entry of `PROGRAMS` is a function `size -> (f, x)`: a scalar function of one array, and a point of it.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import nn

Program = tuple[Callable[[jax.Array], jax.Array], jax.Array]


def _draw(seed: int, *shape: int) -> jax.Array:
    """Normal numbers, scaled so that a product with them keeps the size of a vector."""
    scale = shape[-2] ** -0.5 if len(shape) > 1 else 1.0
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale)


def _mlp(activation: Callable[[Any], Any], widths: list[int]) -> Program:
    weights = [_draw(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(widths))]

    def f(x: jax.Array) -> jax.Array:
        for w in weights[:-1]:
            x = activation(x @ w + 0.1)
        return (x @ weights[-1])[0]

    return f, _draw(99, widths[0])


def wide(activation: str) -> Callable[[int], Program]:
    """An MLP of two hidden layers."""
    return lambda size: _mlp(getattr(jax.nn, activation), [size, 4 * size, 4 * size, 1])


def deep(activation: str) -> Callable[[int], Program]:
    """An MLP of six hidden layers."""
    return lambda size: _mlp(getattr(jax.nn, activation), [size, *[2 * size] * 6, 1])


def siren(size: int) -> Program:
    """Sines of linear layers, as in implicit neural representations; few arguments."""
    return _mlp(lambda x: jnp.sin(3 * x), [3, size, size, size, 1])


def attention(particles: int, width: int = 32, heads: int = 4) -> Program:
    """Two blocks of self-attention over particles, with residual connections."""
    first, names = _draw(0, 3, width), ("q", "k", "v", "o", "m")
    blocks = [{n: _draw(10 * b + i, width, width) for i, n in enumerate(names)} for b in range(2)]

    def f(x: jax.Array) -> jax.Array:
        h = jnp.tanh(x @ first)
        for w in blocks:
            q, k, v = ((h @ w[n]).reshape(-1, heads, width // heads) for n in "qkv")
            weights = jax.nn.softmax(jnp.einsum("ihd,jhd->hij", q, k) / (width // heads) ** 0.5)
            h = h + jnp.einsum("hij,jhd->ihd", weights, v).reshape(-1, width) @ w["o"]
            h = h + jnp.tanh(h @ w["m"])
        return jnp.sum(h)

    return f, _draw(98, particles, 3)


def layer_norm(size: int) -> Program:
    """An MLP with a layer norm after each layer."""

    def norm(x: jax.Array) -> jax.Array:
        mean = jnp.mean(x)
        return (x - mean) * jax.lax.rsqrt(jnp.var(x) + 1e-6) * 1.1 + 0.1

    return _mlp(lambda x: jax.nn.gelu(norm(x)), [size, *[4 * size] * 3, 1])


def _orbitals(x: jax.Array, weights: list[jax.Array], mixed: bool) -> jax.Array:
    """Features of electrons; with `mixed`, each also sees the mean of all."""
    h = jnp.concatenate([x, jnp.linalg.norm(x, axis=-1, keepdims=True)], -1)
    for w in weights[:-1]:
        if mixed:
            h = jnp.concatenate([h, jnp.broadcast_to(jnp.mean(h, 0), h.shape)], -1)
        h = jnp.tanh(h @ w)
    return h @ weights[-1]


def slater(electrons: int, width: int = 64) -> Program:
    """The logarithm of a determinant of orbitals, of which each is a network of one electron's position."""
    weights = [_draw(0, 4, width), _draw(1, width, width), _draw(2, width, electrons)]

    def f(x: jax.Array) -> jax.Array:
        envelope = jnp.exp(-0.3 * jnp.linalg.norm(x, axis=-1, keepdims=True))
        return jnp.linalg.slogdet(_orbitals(x, weights, False) * envelope)[1]

    return f, _draw(97, electrons, 3)


def determinants(electrons: int, width: int = 32, count: int = 8) -> Program:
    """A sum of determinants of orbitals that see all electrons, as in FermiNet."""
    weights = [_draw(0, 8, width), _draw(1, 2 * width, width), _draw(2, width, count * electrons)]

    def f(x: jax.Array) -> jax.Array:
        orbitals = _orbitals(x, weights, True).reshape(electrons, count, electrons).transpose(1, 0, 2)
        signs, logs = jnp.linalg.slogdet(orbitals)
        top = jax.lax.stop_gradient(jnp.max(logs))
        return jnp.log(jnp.abs(jnp.sum(signs * jnp.exp(logs - top)))) + top

    return f, _draw(96, electrons, 3)


def spins(electrons: int, width: int = 48) -> Program:
    """Two determinants, of the electrons of each spin, and a factor of the distances of all pairs."""
    half = electrons // 2
    weights = [_draw(0, 4, width), _draw(1, width, width), _draw(2, width, half)]
    rows, columns = np.triu_indices(electrons, 1)

    def f(x: jax.Array) -> jax.Array:
        orbitals = _orbitals(x, weights, False).reshape(2, half, half)
        distances = jnp.linalg.norm(x[rows] - x[columns], axis=-1)
        return jnp.sum(jnp.linalg.slogdet(orbitals)[1]) - jnp.sum(0.5 / (1 + distances))

    return f, _draw(95, electrons, 3)


def graph(particles: int, width: int = 24) -> Program:
    """Two rounds of messages along the edges of a graph net, cut off smoothly at a distance."""
    first, second = [_draw(i, 1, width) for i in (0, 1)], [_draw(i, width, width) for i in (2, 3)]
    others = 1 - np.eye(particles)

    def f(x: jax.Array) -> jax.Array:
        squares = jnp.sum((x[:, None] - x[None]) ** 2, -1) + np.eye(particles)
        distances = jnp.sqrt(squares)
        cutoff = jnp.where(distances < 3, (1 - (distances / 3) ** 2) ** 3, 0) * others
        h = jnp.ones((particles, width))
        for w, u in zip(first, second, strict=True):
            edges = jnp.tanh(distances[..., None] @ w) * cutoff[..., None]
            h = jnp.tanh(jnp.einsum("ijc,jc->ic", edges, h) @ u) + h
        return jnp.sum(h)

    return f, _draw(94, particles, 3)


def lattice(side: int, channels: int = 8) -> Program:
    """Three convolutions on a periodic square lattice."""
    kernels = [_draw(i, 3, 3, a, channels) / 3 for i, a in enumerate((1, channels, channels))]

    def f(x: jax.Array) -> jax.Array:
        h = x[None, :, :, None]
        for k in kernels:
            h = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
            h = jax.lax.conv_general_dilated(h, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            h = jnp.tanh(h)
        return jnp.sum(h)

    return f, _draw(93, side, side)


class _Normalized(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = nn.silu(nn.BatchNorm(use_running_average=True)(nn.Dense(self.width)(x)))
        return jnp.sum(nn.Dense(1)(x))


def batch_statistics(size: int) -> Program:
    """A module of liftax whose layers are normalized by running statistics."""
    model, x = _Normalized(4 * size), _draw(92, size)
    variables = jax.tree.map(lambda v: v.astype(x.dtype), model.init(jax.random.key(0), x[None]))
    return lambda x: model.apply(variables, x[None]), x


PROGRAMS: dict[str, tuple[Callable[[int], Program], tuple[int, ...]]] = {
    **{f"wide MLP, {a}": (wide(a), (6, 24, 64)) for a in ("tanh", "silu", "gelu", "softplus")},
    **{f"deep MLP, {a}": (deep(a), (6, 24, 64)) for a in ("tanh", "silu", "sigmoid")},
    "attention": (attention, (4, 8, 16)),
    "layer norm": (layer_norm, (6, 24, 64)),
    "Slater determinant": (slater, (4, 8, 16, 32)),
    "determinants, mixed": (determinants, (4, 8, 16)),
    "spin blocks, pairs": (spins, (4, 8, 16)),
    "graph net": (graph, (4, 8, 16)),
    "periodic lattice": (lattice, (4, 8, 12)),
    "SIREN": (siren, (32, 64, 128)),
    "batch statistics": (batch_statistics, (6, 24, 64)),
}
