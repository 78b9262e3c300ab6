"""Learn to write documentation, character by character, with a transformer, and let it write some.

The text comes with Python: the docstrings of about fifty modules of the standard library, read from their source files.
The docstrings of six other modules and the Zen of Python are held out. A character is printable ASCII or a line break.

The model is a decoder of blocks, each with causal self-attention and a net of two layers, LayerNorm before both
(width d, context of T characters, the vocabulary V):

    x_t = token[c_t] + position[t]
    x  += Attention(LayerNorm(x));  x += W_2 gelu(W_1 LayerNorm(x))
    p(c_t+1 | c_1 ... c_t) = softmax(W LayerNorm(x_t))

It is judged by the held-out text's bits per character, -mean log2 p, in windows of T characters that do not overlap, so
that early ones are predicted from little context. Two models that count stand beside it, fit to the same text:

    p_1(b)     = (n_b + 1) / (n + |V|)                  unigrams
    p_2(b | a) = (n_ab + |V| p_1(b)) / (n_a + |V|)      bigrams; seldom seen a leave the unigrams

To write, the model runs with `decode=True`: it takes one character, and keeps the keys and values of those before it in
the collection `cache`. The logits have to be those of the model that sees the whole window at once; the exit status is
1 if they are not, or if the bigrams are better.

Everything here is the API of Linen: with `from flax import linen as nn` in place of the import of `nn` below, and
nothing else changed, it learns the same.

    python examples/char_transformer.py [--steps N] [--seed N] [--out FILE] [--quick]

Sources: A. Vaswani et al., NeurIPS 2017 (arXiv:1706.03762): attention; R. Xiong et al., ICML 2020
(arXiv:2002.04745): LayerNorm first; D. J. C. MacKay, L. C. Bauman Peto, Nat. Lang. Eng. 1, 289 (1995): bigrams that
lean on unigrams.
"""

import argparse
import ast
import contextlib
import io
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from liftax import nn

ROOT = Path(__file__).resolve().parent.parent
TRAINING = (
    "argparse bisect calendar cmd code codecs configparser contextlib copy csv dataclasses difflib doctest enum "
    "fileinput fractions functools gettext glob heapq inspect ipaddress locale mailbox optparse os pdb pickle platform "
    "pprint queue random sched selectors shelve shutil smtplib socket statistics string subprocess tarfile tempfile "
    "threading timeit tokenize traceback typing uuid weakref"
)
HELD_OUT = "imaplib textwrap shlex trace ftplib plistlib"
VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))
PROMPTS = ("Return the ", "Raised when ", "class ")
MAX_DIFFERENCE = 1e-4  # of logits, decoded one by one and all at once, in float32


# --- the text --------------------------------------------------------------------------------------------------------


def docstrings(module: str) -> str:
    """Return the docstrings of a module, its classes and its functions; nothing if this Python lacks the file."""
    file = Path(sysconfig.get_path("stdlib")) / f"{module}.py"
    if not file.exists():
        return ""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes))) + "\n\n"


def zen() -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        import this  # prints when it is imported first
    return "".join(map(this.d.get, this.s, this.s))


def encode(text: str) -> np.ndarray:
    """Return indices (length,) into the vocabulary; characters beyond it become question marks."""
    index = {character: i for i, character in enumerate(VOCABULARY)}
    return np.array([index.get(character, index["?"]) for character in text.replace("\t", "    ")], np.int32)


def decode(indices: np.ndarray) -> str:
    return "".join(VOCABULARY[i] for i in indices)


def windows(text: np.ndarray, length: int) -> np.ndarray:
    """Return (N, length + 1): windows in which the last character of one is the first, given, of the next."""
    count = (len(text) - 1) // length
    return text[np.arange(count)[:, None] * length + np.arange(length + 1)]


# --- the models ------------------------------------------------------------------------------------------------------


class Config(NamedTuple):
    layers: int = 2
    heads: int = 4
    width: int = 96
    context: int = 96  # characters
    batch: int = 8  # windows a training step
    dropout: float = 0.05
    rate: float = 4e-3  # the highest learning rate


class Block(nn.Module):
    """Features (B, T, d) to features (B, T, d)."""

    config: Config
    decode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, deterministic: bool) -> jax.Array:
        width, rate = self.config.width, self.config.dropout
        attention = nn.MultiHeadDotProductAttention(self.config.heads, dropout_rate=rate, decode=self.decode)
        y = attention(nn.LayerNorm()(x), mask=mask, deterministic=deterministic)
        x = x + nn.Dropout(rate)(y, deterministic=deterministic)
        y = nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x))))
        return x + nn.Dropout(rate)(y, deterministic=deterministic)


class Transformer(nn.Module):
    """Characters (B, T) to logits (B, T, |V|) of those that follow them; with `decode`, T is 1 after init."""

    config: Config
    decode: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        width, length = self.config.width, tokens.shape[1]
        positions, mask = jnp.arange(length), nn.make_causal_mask(tokens)
        if self.decode:
            mask, running = None, self.has_variable("cache", "position")
            position = self.variable("cache", "position", lambda: jnp.zeros((), jnp.int32))
            if running:  # not at init, which takes a whole window to size the cache
                positions = position.value[None]
                position.value += 1
        x = nn.Embed(len(VOCABULARY), width)(tokens) + nn.Embed(self.config.context, width)(positions)
        for _ in range(self.config.layers):
            x = Block(self.config, self.decode)(x, mask, deterministic)
        return nn.Dense(len(VOCABULARY))(nn.LayerNorm()(x))


def bits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets)) / np.log(2)


def counting_bits(text: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    """Return bits per character of the held-out windows (N, T + 1), of unigrams and of bigrams counted in the text."""
    size = len(VOCABULARY)
    pairs = np.zeros((size, size))
    np.add.at(pairs, (text[:-1], text[1:]), 1)
    unigram = (np.bincount(text, minlength=size) + 1) / (len(text) + size)
    bigram = (pairs + size * unigram) / (pairs.sum(axis=1, keepdims=True) + size)
    before, after = held_out[:, :-1], held_out[:, 1:]
    return -np.log2(unigram[after]).mean().item(), -np.log2(bigram[before, after]).mean().item()


# --- training --------------------------------------------------------------------------------------------------------


def train(
    config: Config, text: np.ndarray, held_out: np.ndarray, steps: int, seed: int, quiet: bool = False, chunk: int = 50
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return parameters, the loss of each step, and a row (step, held-out loss) for each chunk, in bits per character.

    The held-out loss is for the curve alone: nothing is chosen by it, the last parameters are returned.
    """
    model = Transformer(config)
    schedule = optax.warmup_cosine_decay_schedule(0, config.rate, max(1, steps // 10), steps, config.rate / 20)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.05))

    def loss(params: Any, batch: jax.Array, key: jax.Array) -> jax.Array:
        logits = model.apply(params, batch[:, :-1], deterministic=False, rngs={"dropout": key})
        return bits(logits, batch[:, 1:])

    @jax.jit
    def run_chunk(state: Any, batches: jax.Array, keys: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        def step(state: Any, inputs: Any) -> tuple[Any, jax.Array]:
            params, optimizer_state = state
            value, grads = jax.value_and_grad(loss)(params, *inputs)
            updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), value

        state, losses = jax.lax.scan(step, state, (batches, keys))
        return state, losses, bits(model.apply(state[0], test[:, :-1]), test[:, 1:])

    test = jnp.asarray(held_out)
    params = jax.jit(model.init)(jax.random.key(seed), test[:1, :-1])
    state, rng = (params, optimizer.init(params)), np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(seed + 1), steps)
    losses, curve = [], []
    with tqdm(total=steps, desc="Training", unit="step", disable=quiet) as progress:
        for done in range(0, steps, chunk):
            starts = rng.integers(len(text) - config.context, size=(min(chunk, steps - done), config.batch, 1))
            batches = jnp.asarray(text[starts + np.arange(config.context + 1)])
            state, values, value = run_chunk(state, batches, keys[done : done + len(starts)])
            losses.append(np.asarray(values))
            curve.append((done + len(starts), value.item()))
            progress.set_postfix_str(f"held-out {curve[-1][1]:.2f} bits/char")
            progress.update(len(starts))
    return state[0], np.concatenate(losses), np.array(curve)


# --- decoding --------------------------------------------------------------------------------------------------------


def write(config: Config, params: Any, given: np.ndarray, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Write texts with the cache, one character at a time.

    Args:
        config: the model's.
        params: its variables.
        given: (B, T), T at most the context; where it is -1, characters are drawn, elsewhere they are as given.
        key: what to draw with.

    Returns:
        The texts (B, T), and the logits (B, T - 1, |V|) of the characters from the second on.
    """
    model = Transformer(config, decode=True)
    cache = jax.jit(model.init)(key, jnp.zeros((len(given), config.context), jnp.int32))["cache"]

    def step(state: Any, inputs: Any) -> tuple[Any, Any]:
        cache, tokens = state
        fixed, key = inputs
        logits, updates = model.apply({**params, "cache": cache}, tokens[:, None], mutable=["cache"])
        logits = logits[:, 0]
        tokens = jnp.where(fixed < 0, jax.random.categorical(key, logits), fixed).astype(jnp.int32)
        return (updates["cache"], tokens), (tokens, logits)

    @jax.jit
    def run(cache: Any, given: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, (tokens, logits) = jax.lax.scan(step, (cache, given[:, 0]), (given[:, 1:].T, keys))
        return jnp.concatenate([given[:, :1], tokens.T], axis=1), jnp.swapaxes(logits, 0, 1)

    texts, logits = run(cache, jnp.asarray(given, jnp.int32), jax.random.split(key, given.shape[1] - 1))
    return np.asarray(texts), np.asarray(logits)


def cache_difference(config: Config, params: Any, texts: np.ndarray) -> float:
    """Return the largest difference between logits of texts (B, T + 1) taken one by one and all at once."""
    cached = write(config, params, np.pad(texts[:, :-1], ((0, 0), (0, 1))), jax.random.key(0))[1]
    whole = jax.jit(Transformer(config).apply)(params, jnp.asarray(texts[:, :-1]))
    return np.abs(cached - np.asarray(whole)).max().item()


# --- what a person sees ----------------------------------------------------------------------------------------------


def draw(file: Path, losses: np.ndarray, curve: np.ndarray, unigram: float, bigram: float) -> None:
    """Draw the training, in bits per character, with the models that count as lines."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.subplots()
    ax.plot(np.arange(1, len(losses) + 1), losses, color="0.8", lw=0.8, label="training batches")
    ax.plot(*curve.T, color="#1f5fa8", label=f"held-out text: {curve[-1, 1]:.2f}")
    ax.axhline(unigram, color="#a8471c", lw=1, ls=":", label=f"unigrams: {unigram:.2f}")
    ax.axhline(bigram, color="#a8471c", lw=1, ls="--", label=f"bigrams: {bigram:.2f}")
    ax.set(xlabel="training step", ylabel="bits per character", title="A transformer learns to write documentation")
    ax.set_ylim(0, unigram + 1)
    ax.legend(loc="lower left", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def make_table(rows: Sequence[tuple[str, float]], caption: str) -> Table:
    table = Table("Model", title="Held-out text", caption=caption)
    table.add_column("Bits per character", justify="right")
    for name, value in rows:
        table.add_row(name, f"{value:.3f}")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Learn to write documentation, character by character.")
    parser.add_argument("--steps", type=int, help="training steps (900)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training and of the samples (0)")
    parser.add_argument("--out", type=Path, default=ROOT / "examples/out/char_transformer.png", help="the figure")
    parser.add_argument("--quick", action="store_true", help="a tiny model, seconds; what it learned is not checked")
    options = parser.parse_args(arguments)
    steps = (20 if options.quick else 900) if options.steps is None else options.steps
    if steps < 1:
        parser.error(f"--steps is {steps}; at least 1 step is needed")

    console, start = Console(), time.perf_counter()
    config = Config(layers=1, heads=2, width=16, context=32, batch=4) if options.quick else Config()
    text = encode("".join(map(docstrings, TRAINING.split())))
    held_out = windows(encode("".join(map(docstrings, HELD_OUT.split())) + zen()), config.context)
    unigram, bigram = counting_bits(text, held_out)
    params, losses, curve = train(config, text, held_out, steps, options.seed)
    difference = cache_difference(config, params, held_out[-4:])
    given = np.full((len(PROMPTS), config.context), -1)
    for row, prompt in zip(given, PROMPTS, strict=True):
        row[: len(prompt)] = encode(prompt)
    samples = write(config, params, given, jax.random.key(options.seed))[0]
    draw(options.out, losses, curve, unigram, bigram)

    learned, size = curve[-1, 1], sum(leaf.size for leaf in jax.tree.leaves(params))
    caption = f"{len(text)} characters to learn from, {held_out[:, 1:].size} held out; {steps} steps, "
    caption += f"{time.perf_counter() - start:.0f} s"
    rows = ("unigrams", unigram), ("bigrams", bigram), (f"transformer, {size} parameters", learned)
    console.print(make_table(rows, caption))
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        console.print(f"--- a sample that begins with {prompt!r}", highlight=False)
        console.print(decode(sample), markup=False, highlight=False)
    console.print(f"Figure: {options.out}", soft_wrap=True)
    console.print(f"Decoding with the cache moves logits by {difference:.0e} at most (limit {MAX_DIFFERENCE:.0e}).")
    failed = not difference <= MAX_DIFFERENCE
    if failed:
        print(f"FAILED: cached logits differ by {difference:.0e}, limit {MAX_DIFFERENCE:.0e}", file=sys.stderr)
    if not options.quick and not learned < bigram:
        print(f"FAILED: {learned:.3f} bits per character, bigrams have {bigram:.3f}", file=sys.stderr)
        failed = True
    if not failed:
        unchecked = " What was learned is not checked with --quick." if options.quick else ""
        console.print(f"All checks passed.{unchecked}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
