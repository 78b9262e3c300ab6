"""The classifier of digits learns the same on Flax Linen, and the program runs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

Load = Callable[..., ModuleType]


@pytest.fixture(scope="module")
def digits(load: Load) -> ModuleType:
    return load("digits")


def learn(module: ModuleType) -> tuple[Any, np.ndarray, np.ndarray]:
    """Learn from four batches, three times."""
    data, held_out = module.load(0)
    few = module.Digits(data.images[: 4 * module.BATCH], data.labels[: 4 * module.BATCH])
    return module.train(module.Classifier(width=2), few, held_out, epochs=3, seed=0, quiet=True)


def test_a_fifth_of_each_class_is_held_out(digits: ModuleType) -> None:
    data, held_out = digits.load(0)
    assert data.images.shape == (1437, 8, 8, 1)
    assert (data.images.min(), data.images.max()) == (0, 1)
    classes = np.bincount(data.labels), np.bincount(held_out.labels)
    np.testing.assert_allclose(classes[1] / (classes[0] + classes[1]), 0.2, atol=0.005)
    both = np.concatenate([data.images, held_out.images]).reshape(-1, 64)
    assert len(np.unique(both, axis=0)) == 1797  # no image is in both parts


def test_images_move_by_one_pixel(digits: ModuleType) -> None:
    image = np.zeros((1, 8, 8, 1), np.float32)
    image[0, 3, 5] = 1
    found = digits.moved(np.repeat(image, 200, axis=0), np.random.default_rng(0))
    assert found.shape == (200, 8, 8, 1)
    where = np.argwhere(found)
    np.testing.assert_array_equal(where[:, 0], np.arange(200))
    assert {(y, x) for _, y, x, _ in where} == {(y, x) for y in (2, 3, 4) for x in (4, 5, 6)}


@pytest.mark.long
def test_learns_the_same_on_linen(digits: ModuleType, load: Load) -> None:
    """The same dropout, statistics and losses: to 1e-4 of the loss in 12 steps; Adam magnifies rounding errors."""
    (variables, losses, curve), (on_linen, losses_linen, curve_linen) = learn(digits), learn(load("digits", linen=True))
    assert losses.shape == (12,)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, losses_linen, rtol=1e-4)
    np.testing.assert_allclose(curve, curve_linen, atol=100 / 360 + 1e-9)  # one image on the edge of two classes
    assert jax.tree.structure(variables) == jax.tree.structure(on_linen)


@pytest.mark.long
def test_quick_run_draws_and_ends_with_a_table(
    digits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "figure.png"
    assert digits.main(["--quick", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "Training: 100%" in printed.err
    assert "Held-out digits" in printed.out
    assert "96.67 │    12" in printed.out  # logistic regression


@pytest.mark.long
def test_bad_accuracy_is_the_exit_status(
    digits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "train", lambda *_: ({"params": {}}, np.ones(4), np.array([97.0])))
    monkeypatch.setattr(digits, "predict", lambda *_: np.zeros(360, int))
    assert digits.main(["--out", str(tmp_path / "figure.png")]) == 1
    assert "FAILED: 97.00 % of the held-out digits are right, expected > 97.0 %" in capsys.readouterr().err


def test_no_epochs_are_refused(digits: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        digits.main(["--epochs", "0"])
    assert caught.value.code == 2
    assert "--epochs is 0" in capsys.readouterr().err
