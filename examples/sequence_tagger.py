"""Read Python: tell for each character of a program what kind of token it belongs to, with an LSTM in both directions.

The programs come with Python: the source of about thirty modules of the standard library. Those of six others are held
out. The tags are what the module `tokenize` finds: space, name, keyword, number, string, comment, operator.

The model, for windows of T characters c_t:

    x = Embed(c);  a_t = LSTM(a_t-1, x_t),  b_t = LSTM(b_t+1, x_t)
    p(tag_t | c_1 ... c_T) = softmax(W [a_t, b_t] + b)

Beside it stands the most frequent tag of each character, counted in the same text. It knows that `#` is mostly of a
comment, but not that what comes after it is too. The exit status is 1 if the LSTM leaves more than half of its errors.

Everything here is the API of Linen: with `from flax import linen as nn` in place of the import of `nn` below, and
nothing else changed, it learns the same.

    python examples/sequence_tagger.py [--steps N] [--seed N] [--out FILE] [--quick]

Sources: S. Hochreiter, J. Schmidhuber, Neural Comput. 9, 1735 (1997): the LSTM; A. Graves, J. Schmidhuber, Neural
Networks 18, 602 (2005): tagging in both directions.
"""

import argparse
import io
import keyword
import sys
import sysconfig
import time
import tokenize
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
# fmt: off
TRAINING = [
    "argparse", "ast", "bisect", "calendar", "cmd", "code", "configparser", "contextlib", "copy", "csv",
    "dataclasses", "difflib", "enum", "fileinput", "functools", "gettext", "glob", "heapq", "inspect", "ipaddress",
    "locale", "optparse", "pprint", "queue", "random", "sched", "shutil", "statistics", "string", "tarfile",
    "tempfile", "timeit", "typing", "uuid",
]
# fmt: on
HELD_OUT = ["dis", "ftplib", "plistlib", "shlex", "textwrap", "trace"]
TAGS = ["space", "name", "keyword", "number", "string", "comment", "operator"]
KINDS = {tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.COMMENT: "comment", tokenize.OP: "operator"}
CHARACTERS = 128  # ASCII; those beyond are 127
CHUNK = 20  # training steps between looks at held-out text


# --- the programs ----------------------------------------------------------------------------------------------------


class Tagged(NamedTuple):
    characters: np.ndarray  # of any shape, from 0 to 127
    tags: np.ndarray  # of that shape, indices into TAGS


def tag(source: str) -> Tagged:
    """Return the characters (N,) of a program and their tags."""
    lines = source.splitlines(keepends=True)
    starts = np.cumsum([0, *map(len, lines)])
    tags = np.zeros(len(source), np.int32)
    fstring = getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None)
    opened: list[int] = []  # where f-strings begin that have not ended: from Python 3.12 on they are many tokens
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        begin, end = (int(starts[row - 1]) + column for row, column in (token.start, token.end))
        if token.type == fstring[0]:
            opened.append(begin)
        elif token.type == fstring[1]:
            tags[opened.pop() : end] = TAGS.index("string")
        elif token.type == tokenize.NAME:
            tags[begin:end] = TAGS.index("keyword" if keyword.iskeyword(token.string) else "name")
        elif token.type in KINDS:
            tags[begin:end] = TAGS.index(KINDS[token.type])
    return Tagged(np.minimum([ord(character) for character in source], CHARACTERS - 1).astype(np.int32), tags)


def read(modules: Sequence[str]) -> Tagged:
    """Return characters (N,) and tags of the modules, one after another."""
    files = [Path(sysconfig.get_path("stdlib")) / f"{module}.py" for module in modules]
    parts = [tag(file.read_text(encoding="utf-8")) for file in files]
    return Tagged(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def windows(text: Tagged, length: int) -> Tagged:
    """Return windows (N, length) that follow one another; an incomplete last one is left out."""
    return Tagged(*(part[: len(part) // length * length].reshape(-1, length) for part in text))


def majority(text: Tagged) -> np.ndarray:
    """Return the most frequent tag of each character (128,)."""
    counts = np.zeros((CHARACTERS, len(TAGS)))
    np.add.at(counts, tuple(text), 1)
    return counts.argmax(axis=1)


# --- the model and its training --------------------------------------------------------------------------------------


class Config(NamedTuple):
    embedding: int = 24
    width: int = 64  # of the LSTM in each direction
    length: int = 128  # characters a window
    batch: int = 32  # windows a training step
    rate: float = 1e-2  # the highest learning rate


class Tagger(nn.Module):
    """Characters (B, T) to logits (B, T, 7) of tags."""

    config: Config

    @nn.compact
    def __call__(self, characters: jax.Array) -> jax.Array:
        x = nn.Embed(CHARACTERS, self.config.embedding)(characters)
        forward, backward = (nn.RNN(nn.OptimizedLSTMCell(self.config.width)) for _ in range(2))
        return nn.Dense(len(TAGS))(nn.Bidirectional(forward, backward)(x))


def train(
    config: Config, text: Tagged, held_out: Tagged, steps: int, seed: int, quiet: bool = False
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return parameters, the loss of each step (nats), and a row (step, held-out accuracy in %) for each chunk.

    The accuracy is for the curve alone: nothing is chosen by it, the last parameters are returned.
    """
    model = Tagger(config)
    schedule = optax.warmup_cosine_decay_schedule(0, config.rate, max(1, steps // 10), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(params: Any, characters: jax.Array, tags: jax.Array) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model.apply(params, characters), tags))

    @jax.jit
    def step(state: Any, *batch: jax.Array) -> tuple[Any, jax.Array]:
        params, optimizer_state = state
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    predict = jax.jit(model.apply)
    params = jax.jit(model.init)(jax.random.key(seed), held_out.characters[:1])
    state, rng, losses, curve = (params, optimizer.init(params)), np.random.default_rng(seed), [], []
    with tqdm(total=steps, desc="Training", unit="step", disable=quiet) as progress:
        for done in range(1, steps + 1):
            starts = rng.integers(len(text.tags) - config.length, size=(config.batch, 1))
            index = starts + np.arange(config.length)
            state, value = step(state, text.characters[index], text.tags[index])
            losses.append(value)
            progress.update()
            if done % CHUNK == 0 or done == steps:
                tags = np.asarray(predict(state[0], held_out.characters)).argmax(axis=-1)
                curve.append((done, 100 * (tags == held_out.tags).mean()))
                progress.set_postfix_str(f"held-out {curve[-1][1]:.1f} %")
    return state[0], np.array(losses), np.array(curve)


# --- what a person sees ----------------------------------------------------------------------------------------------


def draw(file: Path, losses: np.ndarray, curve: np.ndarray, baseline: float, confusion: np.ndarray) -> None:
    """Draw the training, and what the tags (rows) are taken for (columns)."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*curve.T, color="#1f5fa8", label=f"held-out text: {curve[-1, 1]:.1f} %")
    left.axhline(baseline, color="#a8471c", lw=1, ls="--", label=f"by character alone: {baseline:.1f} %")
    left.set(xlabel="training step", ylabel="characters tagged rightly (%)", title="An LSTM learns to read Python")
    left.legend(loc="center right", frameon=False)
    loss = left.twinx()
    loss.plot(np.arange(1, len(losses) + 1), losses, color="0.8", lw=0.8, zorder=0)
    loss.set_ylabel("loss of training batches (nats)", color="0.6")
    right.imshow(confusion, cmap="Blues", vmin=0, vmax=100)
    for i, j in np.ndindex(confusion.shape):
        right.text(j, i, f"{confusion[i, j]:.0f}", ha="center", va="center", color="wk"[int(confusion[i, j] < 50)])
    right.set_xticks(range(len(TAGS)), TAGS, rotation=45)
    right.set_yticks(range(len(TAGS)), TAGS)
    right.set(xlabel="tagged as", ylabel="is", title="Held-out characters (% of the row)")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tag each character of a program with its kind of token.")
    parser.add_argument("--steps", type=int, help="training steps (300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (0)")
    parser.add_argument("--out", type=Path, default=ROOT / "examples/out/sequence_tagger.png", help="the figure")
    parser.add_argument("--quick", action="store_true", help="a tiny model; what it learned is not checked")
    options = parser.parse_args(arguments)
    steps = (5 if options.quick else 300) if options.steps is None else options.steps
    if steps < 1:
        parser.error(f"--steps is {steps}; at least 1 step is needed")

    console, start = Console(), time.perf_counter()
    config = Config(embedding=4, width=4, length=32, batch=4) if options.quick else Config()
    text, held_out = read(TRAINING[:2] if options.quick else TRAINING), windows(read(HELD_OUT), config.length)
    by_character = majority(text)[held_out.characters]
    params, losses, curve = train(config, text, held_out, steps, options.seed)
    tags = np.asarray(jax.jit(Tagger(config).apply)(params, held_out.characters)).argmax(axis=-1)
    confusion = np.zeros((len(TAGS), len(TAGS)))
    np.add.at(confusion, (held_out.tags, tags), 1)
    confusion *= 100 / confusion.sum(axis=1, keepdims=True)
    baseline, learned = (100 * (found == held_out.tags).mean() for found in (by_character, tags))
    draw(options.out, losses, curve, baseline, confusion)

    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    caption = f"{len(text.tags)} characters to learn from, {held_out.tags.size} held out; {steps} steps, "
    table = Table("Tag", title="Held-out characters tagged rightly (%)")
    table.caption = f"{caption}{time.perf_counter() - start:.0f} s"
    table.add_column("by character", justify="right")
    table.add_column(f"LSTM, {size} parameters", justify="right")
    for i, name in enumerate(TAGS):
        table.add_row(name, f"{100 * (by_character[held_out.tags == i] == i).mean():.1f}", f"{confusion[i, i]:.1f}")
    table.add_section()
    table.add_row("all", f"{baseline:.2f}", f"{learned:.2f}")
    console.print(f"Figure: {options.out}", soft_wrap=True)
    console.print(table)
    if not options.quick and not 100 - learned <= (100 - baseline) / 2:
        print(f"FAILED: {learned:.2f} % tagged rightly, {baseline:.2f} % by character alone", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
