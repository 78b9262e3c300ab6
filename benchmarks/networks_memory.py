"""Networks whose memory is planned: plain JAX, each made of blocks that a hand policy can be wrapped around.

A network is `(loss, params, batch)`, made by `NETWORKS[name](wrap, size)`: `wrap` goes around each block, as a person
would put `jax.checkpoint` there, and `size` is a multiple of the batch. Where a network has statistics or other
outputs, the loss returns `(loss, aux)`.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
Network = tuple[Callable[..., Any], Any, Any]


class Draw:
    """Parameters, drawn one after the other."""

    def __init__(self, dtype: Any = jnp.float32):
        self.keys, self.dtype = (jax.random.key(i) for i in itertools.count()), dtype

    def __call__(self, *shape: int, fan: int | None = None) -> jax.Array:
        fan = fan or (shape[-2] if len(shape) > 1 else 1)
        return (jax.random.normal(next(self.keys), shape) / fan**0.5).astype(self.dtype)


def normalized(x: jax.Array) -> jax.Array:
    """LayerNorm without parameters, in float32."""
    y = x.astype(jnp.float32)
    y = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-6)
    return y.astype(x.dtype)


def dropped(key: jax.Array, x: jax.Array, rate: float = 0.1) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


def transformer_block(p: Any, x: jax.Array, key: jax.Array | None = None, heads: int = 4) -> jax.Array:
    qkv = (normalized(x) @ p["qkv"]).reshape(*x.shape[:2], heads, -1)
    mixed = attention(*jnp.split(qkv, 3, axis=-1)).reshape(x.shape) @ p["out"]
    keys = (None, None) if key is None else jax.random.split(key)
    x = x + (mixed if key is None else dropped(keys[0], mixed))
    y = jax.nn.gelu(normalized(x) @ p["up"]) @ p["down"]
    return x + (y if key is None else dropped(keys[1], y))


def transformer(wrap: Wrap, size: int, scanned: bool, dtype: Any, dropout: bool) -> Network:
    width, depth, length, vocabulary = 128, 6, 64, 128
    draw = Draw(dtype)
    shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    layers = {name: draw(depth, *shape) for name, shape in shapes.items()}
    params = {"embed": draw(vocabulary, width, fan=1), "layers": layers, "head": draw(width, vocabulary)}
    block = wrap(transformer_block)

    def loss(params: Any, batch: Any) -> jax.Array:
        tokens, key = batch
        x = params["embed"][tokens]
        keys = jax.random.split(key, depth) if dropout else None
        if scanned:
            step = lambda x, inputs: (block(inputs[0], x, inputs[1]), None)  # noqa: E731
            x, _ = jax.lax.scan(step, x, (params["layers"], keys))
        else:
            for i in range(depth):
                x = block(jax.tree.map(lambda w: w[i], params["layers"]), x, None if keys is None else keys[i])  # noqa: B023
        logits = (normalized(x) @ params["head"]).astype(jnp.float32)[:, :-1]
        found = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1)
        return -found.mean()

    tokens = jax.random.randint(jax.random.key(1), (8 * size, length), 0, vocabulary)
    return loss, params, (tokens, jax.random.key(2))


def lstm(wrap: Wrap, size: int) -> Network:
    width, steps = 128, 100
    draw = Draw()
    params = {
        "x": draw(width, 4 * width),
        "h": draw(width, 4 * width),
        "b": jnp.zeros(4 * width),
        "out": draw(width, 1),
    }

    @wrap
    def cell(p: Any, carry: Any, x: jax.Array) -> Any:
        h, c = carry
        i, f, g, o = jnp.split(x @ p["x"] + h @ p["h"] + p["b"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def loss(params: Any, xs: jax.Array) -> jax.Array:
        start = jnp.zeros(xs.shape[1:])
        _, hs = jax.lax.scan(lambda carry, x: cell(params, carry, x), (start, start), xs)
        return jnp.mean((hs @ params["out"] - xs.sum(-1, keepdims=True)) ** 2)

    return loss, params, jax.random.normal(jax.random.key(1), (steps, 8 * size, width))


def convolution(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def batch_normalized(x: jax.Array, p: Any) -> tuple[jax.Array, Any]:
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["bias"], (mean, var)


def resnet(wrap: Wrap, size: int) -> Network:
    width, depth = 32, 6
    draw = Draw()

    def layer() -> Any:
        return {"w": draw(3, 3, width, width, fan=9 * width), "scale": jnp.ones(width), "bias": jnp.zeros(width)}

    params = {"stem": draw(3, 3, 3, width, fan=27), "blocks": [(layer(), layer()) for _ in range(depth)]}
    params["head"] = draw(width, 10)

    @wrap
    def block(p: Any, x: jax.Array) -> Any:
        y, first = batch_normalized(convolution(x, p[0]["w"]), p[0])
        y, second = batch_normalized(convolution(jax.nn.relu(y), p[1]["w"]), p[1])
        return jax.nn.relu(x + y), (first, second)

    def loss(params: Any, batch: Any) -> Any:
        x, labels = batch
        x, moved = convolution(x, params["stem"]), []
        for p in params["blocks"]:
            x, statistics = block(p, x)
            moved.append(statistics)
        logits = x.mean((1, 2)) @ params["head"]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1).mean(), moved

    images = jax.random.normal(jax.random.key(1), (8 * size, 16, 16, 3))
    return loss, params, (images, jnp.arange(8 * size) % 10)


def fno(wrap: Wrap, size: int) -> Network:
    width, modes, depth, points = 32, 12, 4, 256
    draw = Draw()
    layers = [
        {"re": draw(modes, width, width), "im": draw(modes, width, width), "w": draw(width, width)}
        for _ in range(depth)
    ]
    params = {"lift": draw(2, width), "layers": layers, "head": draw(width, 1)}

    @wrap
    def block(p: Any, x: jax.Array) -> jax.Array:
        spectrum = jnp.fft.rfft(x, axis=1)[:, :modes]
        mixed = jnp.einsum("bki,kio->bko", spectrum, p["re"] + 1j * p["im"])
        return jax.nn.gelu(jnp.fft.irfft(mixed, n=points, axis=1) + x @ p["w"])

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y = x @ params["lift"]
        for p in params["layers"]:
            y = block(p, y)
        return jnp.mean((y @ params["head"] - x.sum(-1, keepdims=True)) ** 2)

    return loss, params, jax.random.normal(jax.random.key(1), (16 * size, points, 2))


def ssm(wrap: Wrap, size: int) -> Network:
    width, state, depth, length = 64, 64, 4, 128
    draw = Draw()
    layers = [
        {"a": jnp.linspace(0.5, 4, state), "b": draw(width, state), "c": draw(state, width), "gate": draw(width, width)}
        for _ in range(depth)
    ]

    @wrap
    def block(p: Any, x: jax.Array) -> jax.Array:
        u = normalized(x) @ p["b"]
        decay = jnp.broadcast_to(jax.nn.sigmoid(p["a"]), u.shape)
        join = lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1])  # noqa: E731
        _, h = jax.lax.associative_scan(join, (decay, u), axis=1)
        return x + jax.nn.silu(h @ p["c"]) * jax.nn.sigmoid(normalized(x) @ p["gate"])

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y = x
        for p in params:
            y = block(p, y)
        return jnp.mean((y - x) ** 2)

    return loss, layers, jax.random.normal(jax.random.key(1), (8 * size, length, width))


def gated_mlp(wrap: Wrap, size: int) -> Network:
    width, depth = 128, 8
    draw = Draw()
    layers = [
        {"a": draw(width, 4 * width), "b": draw(width, 4 * width), "out": draw(4 * width, width)} for _ in range(depth)
    ]

    @wrap
    def block(p: Any, x: jax.Array) -> jax.Array:
        y = normalized(x)
        return x + (jax.nn.gelu(y @ p["a"]) * jax.nn.sigmoid(y @ p["b"])) @ p["out"]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y = x
        for p in params:
            y = block(p, y)
        return jnp.mean((y - jnp.roll(x, 1, -1)) ** 2)

    return loss, layers, jax.random.normal(jax.random.key(1), (512 * size, width))


def force_field(wrap: Wrap, size: int) -> Network:
    width, basis, depth, neighbours = 64, 16, 3, 12
    draw = Draw()
    layers = [{"filter": draw(basis, width), "w": draw(width, width), "out": draw(width, width)} for _ in range(depth)]
    params = {"embed": draw(4, width, fan=1), "layers": layers, "head": draw(width, 1)}

    @wrap
    def block(p: Any, h: jax.Array, radial: jax.Array, other: jax.Array) -> jax.Array:
        messages = (h @ p["w"])[other] * jnp.tanh(radial @ p["filter"])
        return h + jax.nn.silu(messages.sum(1)) @ p["out"]

    def energy(params: Any, positions: jax.Array, other: jax.Array, species: jax.Array) -> jax.Array:
        bonds = positions[other] - positions[:, None] + 0.1
        r = jnp.sqrt((bonds**2).sum(-1, keepdims=True) + 1e-3)
        radial = jnp.exp(-2 * (r - jnp.linspace(0, 4, basis)) ** 2)
        h = params["embed"][species]
        for p in params["layers"]:
            h = block(p, h, radial, other)
        return (h @ params["head"]).sum()

    def loss(params: Any, batch: Any) -> jax.Array:
        positions, other, species, forces = batch
        value, slope = jax.value_and_grad(energy, argnums=1)(params, positions, other, species)
        return jnp.mean((slope + forces) ** 2) + 1e-4 * value**2

    atoms = 64 * size
    keys = jax.random.split(jax.random.key(1), 3)
    positions = jax.random.normal(keys[0], (atoms, 3)) * 2
    other = jax.random.randint(keys[1], (atoms, neighbours), 0, atoms)
    return loss, params, (positions, other, jnp.arange(atoms) % 4, jax.random.normal(keys[2], (atoms, 3)))


def unet(wrap: Wrap, size: int) -> Network:
    widths = (16, 32, 64)
    draw = Draw()

    def pair(inputs: int, outputs: int) -> Any:
        return draw(3, 3, inputs, outputs, fan=9 * inputs), draw(3, 3, outputs, outputs, fan=9 * outputs)

    down = [pair(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True)]
    up = [pair(i + o, o) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True)]
    params = {"down": down, "up": up, "head": draw(1, 1, widths[0], 3, fan=widths[0])}

    @wrap
    def block(p: Any, x: jax.Array) -> jax.Array:
        for w in p:
            x = convolution(x, w)
            x = jax.nn.silu((x - x.mean((1, 2), keepdims=True)) * jax.lax.rsqrt(x.var((1, 2), keepdims=True) + 1e-5))
        return x

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y, skips = x, []
        for i, p in enumerate(params["down"]):
            y = block(p, y if i == 0 else y[:, ::2, ::2] + y[:, 1::2, 1::2])
            skips.append(y)
        for p, skip in zip(params["up"], skips[-2::-1], strict=True):
            y = jnp.repeat(jnp.repeat(y, 2, 1), 2, 2)
            y = block(p, jnp.concatenate([y, skip], -1))
        return jnp.mean((convolution(y, params["head"]) - x) ** 2)

    return loss, params, jax.random.normal(jax.random.key(1), (4 * size, 32, 32, 3))


def mixture(wrap: Wrap, size: int) -> Network:
    width, experts, depth = 64, 4, 4
    draw = Draw()
    layers = [
        {"route": draw(width, experts), "up": draw(experts, width, 4 * width), "down": draw(experts, 4 * width, width)}
        for _ in range(depth)
    ]

    @wrap
    def block(p: Any, x: jax.Array) -> jax.Array:
        y = normalized(x)
        gates = jax.nn.softmax(y @ p["route"])
        best = jax.nn.one_hot(gates.argmax(-1), experts) * gates
        hidden = jax.nn.gelu(jnp.einsum("ti,eio->teo", y, p["up"]))
        return x + jnp.einsum("teo,eod,te->td", hidden, p["down"], best)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y = x
        for p in params:
            y = block(p, y)
        return jnp.mean((y - jnp.roll(x, 1, -1)) ** 2)

    return loss, layers, jax.random.normal(jax.random.key(1), (512 * size, width))


def graph_net(wrap: Wrap, size: int) -> Network:
    width, depth, edges = 64, 4, 1024 * size
    nodes = edges // 8
    draw = Draw()
    layers = [{"edge": draw(3 * width, width), "node": draw(2 * width, width)} for _ in range(depth)]

    @wrap
    def block(p: Any, h: jax.Array, e: jax.Array, ends: Any) -> Any:
        e = e + jax.nn.silu(jnp.concatenate([h[ends[0]], h[ends[1]], e], -1) @ p["edge"])
        gathered = jax.ops.segment_sum(e, ends[1], nodes)
        return h + jax.nn.silu(normalized(jnp.concatenate([h, gathered], -1)) @ p["node"]), e

    def loss(params: Any, batch: Any) -> jax.Array:
        h, e, ends = batch
        first = h
        for p in params:
            h, e = block(p, h, e, ends)
        return jnp.mean((h - first**2) ** 2)

    keys = jax.random.split(jax.random.key(1), 3)
    h, e = jax.random.normal(keys[0], (nodes, width)), jax.random.normal(keys[1], (edges, width))
    return loss, layers, (h, e, tuple(jax.random.randint(keys[2], (2, edges), 0, nodes)))


def _transformer(**options: Any) -> Callable[..., Network]:
    return functools.partial(transformer, **options)


NETWORKS: dict[str, Callable[..., Network]] = {
    "transformer, scanned": _transformer(scanned=True, dtype=jnp.float32, dropout=True),
    "transformer, unrolled": _transformer(scanned=False, dtype=jnp.float32, dropout=True),
    "transformer, bfloat16": _transformer(scanned=True, dtype=jnp.bfloat16, dropout=False),
    "LSTM": lstm,
    "ResNet": resnet,
    "FNO": fno,
    "SSM": ssm,
    "gated MLP": gated_mlp,
    "force field": force_field,
    "U-Net": unet,
    "mixture of experts": mixture,
    "graph net": graph_net,
}
