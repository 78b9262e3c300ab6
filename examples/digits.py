"""Read handwritten digits with a small convolutional network.

The images: the 1797 of scikit-learn's digits, 8x8 pixels of 17 shades, which the package brings along. One fifth of
each class, drawn at random, is held out. Beside it stands logistic regression on the pixels of the same images.

    x = relu(BatchNorm(Conv(x)))  three times, the last two with a maximum over 2x2 pixels after them
    p = softmax(W_2 Dropout(relu(W_1 x + b_1)) + b_2)

Training moves each image by at most one pixel along both axes, and minimizes the cross-entropy. BatchNorm normalizes
with statistics of the batch then, and with their running averages, the collection `batch_stats`, on held-out images.
The exit status is 1 if at most 97 % of those are right.

Everything here is the API of Linen: with `from flax import linen as nn` in place of the import of `nn` below, and
nothing else changed, it learns the same.

    python examples/digits.py [--epochs N] [--seed N] [--out FILE] [--quick]

Sources: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998):
the images; Y. LeCun et al., Proc. IEEE 86, 2278 (1998): convolutional networks that read digits.
"""

import argparse
import sys
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
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from liftax import nn

ROOT = Path(__file__).resolve().parent.parent
BATCH = 64  # images a training step
MIN_ACCURACY = 97.0  # %


class Classifier(nn.Module):
    """Images (B, 8, 8, 1), from 0 to 1, to logits (B, 10)."""

    width: int = 16
    dropout: float = 0.3

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, factor in enumerate((1, 2, 4)):
            x = nn.Conv(factor * self.width, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
            if i > 0:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(4 * self.width)(x.reshape(len(x), -1)))
        return nn.Dense(10)(nn.Dropout(self.dropout, deterministic=not train)(x))


class Digits(NamedTuple):
    images: np.ndarray  # (N, 8, 8, 1), from 0 to 1
    labels: np.ndarray  # (N,), from 0 to 9


def load(seed: int) -> tuple[Digits, Digits]:
    """Return training digits and the held-out fifth."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
    return Digits(parts[0], parts[2]), Digits(parts[1], parts[3])


def moved(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the images (N, 8, 8, 1), each moved by -1, 0 or 1 pixels along both axes; what comes in is black."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = rng.integers(3, size=(2, len(images), 1)) + np.arange(8)
    return padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def train(
    model: nn.Module, data: Digits, held_out: Digits, epochs: int, seed: int, quiet: bool = False
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return variables, the loss of each step, and the held-out accuracy (%) after each epoch.

    The accuracy is for the curve alone: nothing is chosen by it, the last variables are returned.
    """
    per_epoch = len(data.images) // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, epochs * per_epoch))

    def loss(params: Any, state: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, **state}
        logits, state = model.apply(variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), state

    @jax.jit
    def step(carry: Any, *batch: jax.Array) -> tuple[Any, jax.Array]:
        params, state, optimizer_state = carry
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, *batch)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return (optax.apply_updates(params, updates), state, optimizer_state), value

    variables = jax.jit(model.init, static_argnames="train")(jax.random.key(seed), data.images[:1], train=False)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    carry, rng, losses, curve = (params, state, optimizer.init(params)), np.random.default_rng(seed), [], []
    keys = jax.random.split(jax.random.key(seed + 1), (epochs, per_epoch))
    with tqdm(keys, desc="Training", unit="epoch", disable=quiet) as progress:
        for epoch_keys in progress:
            order = rng.permutation(len(data.images))[: per_epoch * BATCH].reshape(per_epoch, BATCH)
            images = moved(data.images, rng)
            for batch, key in zip(order, epoch_keys, strict=True):
                carry, value = step(carry, images[batch], data.labels[batch], key)
                losses.append(value)
            right = predict(model, {"params": carry[0], **carry[1]}, held_out.images) == held_out.labels
            curve.append(100 * right.mean())
            progress.set_postfix_str(f"held-out {curve[-1]:.1f} %")
    return {"params": carry[0], **carry[1]}, np.array(losses), np.array(curve)


def predict(model: nn.Module, variables: Any, images: np.ndarray) -> np.ndarray:
    """Return the most probable labels (N,)."""
    return np.asarray(jnp.argmax(model.apply(variables, images, train=False), axis=-1))


def draw(file: Path, losses: np.ndarray, curve: np.ndarray, held_out: Digits, predicted: np.ndarray) -> None:
    """Draw loss and accuracy along the training, and the held-out images that are read wrongly, at most 12."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    training, wrong = figure.subfigures(1, 2, width_ratios=(2, 1))
    left, right = training.subplots(1, 2)
    epochs = np.arange(1, len(curve) + 1)
    left.semilogy(np.arange(1, len(losses) + 1) * len(curve) / len(losses), losses, color="0.4", lw=0.8)
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Training batches")
    right.plot(epochs, 100 - curve, color="#1f5fa8")
    right.axhline(100 - MIN_ACCURACY, color="0.4", lw=1, ls=":")
    right.set(xlabel="epoch", ylabel="read wrongly (%)", title=f"Held out: {curve[-1]:.1f} % right", yscale="symlog")
    wrong.suptitle("Read wrongly (as, is)")
    mistakes = np.flatnonzero(predicted != held_out.labels)
    for i, ax in enumerate(wrong.subplots(3, 4).flat):
        ax.axis("off")
        if i < len(mistakes):
            ax.imshow(held_out.images[mistakes[i], :, :, 0], cmap="gray_r")
            ax.set_title(f"{predicted[mistakes[i]]}, {held_out.labels[mistakes[i]]}", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Read handwritten digits with a convolutional network.")
    parser.add_argument("--epochs", type=int, help="passes over the training images (12)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and of the training (0)")
    parser.add_argument("--out", type=Path, default=ROOT / "examples/out/digits.png", help="the figure")
    parser.add_argument("--quick", action="store_true", help="a tiny network; accuracy is not checked")
    options = parser.parse_args(arguments)
    epochs = (1 if options.quick else 12) if options.epochs is None else options.epochs
    if epochs < 1:
        parser.error(f"--epochs is {epochs}; at least 1 epoch is needed")

    console, start = Console(), time.perf_counter()
    model = Classifier(width=2) if options.quick else Classifier()
    data, held_out = load(options.seed)
    linear = LogisticRegression(max_iter=1000).fit(data.images.reshape(-1, 64), data.labels)
    baseline = 100 * linear.score(held_out.images.reshape(-1, 64), held_out.labels)
    variables, losses, curve = train(model, data, held_out, epochs, options.seed)
    predicted = predict(model, variables, held_out.images)
    draw(options.out, losses, curve, held_out, predicted)

    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    caption = f"{len(data.images)} images to learn from, {len(held_out.images)} held out; {epochs} epochs, "
    table = Table("Model", title="Held-out digits", caption=f"{caption}{time.perf_counter() - start:.0f} s")
    for name in ("Right (%)", "Wrong"):
        table.add_column(name, justify="right")
    rows = ("logistic regression", baseline), (f"network, {size} parameters", curve[-1])
    for name, accuracy in rows:
        table.add_row(name, f"{accuracy:.2f}", f"{round(len(held_out.images) * (1 - accuracy / 100))}")
    console.print(f"Figure: {options.out}", soft_wrap=True)
    console.print(table)
    if not options.quick and not curve[-1] > MIN_ACCURACY:
        print(
            f"FAILED: {curve[-1]:.2f} % of the held-out digits are right, expected > {MIN_ACCURACY} %", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
