"""The character transformer learns the same on Flax Linen, decodes with its cache what it says without, and runs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="module")
def ct(load: Callable[..., ModuleType]) -> ModuleType:
    return load("char_transformer")


@pytest.fixture(scope="module")
def linen(load: Callable[..., ModuleType]) -> ModuleType:
    return load("char_transformer", linen=True)


def config(module: ModuleType) -> Any:
    return module.Config(layers=1, heads=2, width=8, context=12, batch=3)


@pytest.fixture(scope="module")
def text(ct: ModuleType) -> np.ndarray:
    return ct.encode(ct.zen())


@pytest.fixture(scope="module")
def trained(ct: ModuleType, text: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    return ct.train(config(ct), text, ct.windows(text, 12)[:4], 12, seed=0, quiet=True, chunk=6)


def test_text_is_the_zen_and_docstrings(ct: ModuleType) -> None:
    assert ct.zen().startswith("The Zen of Python, by Tim Peters\n\nBeautiful is better than ugly.")
    assert "Wrap a single paragraph of text, returning a list of wrapped lines." in ct.docstrings("textwrap")
    assert ct.docstrings("no_such_module") == ""
    assert not set(ct.TRAINING.split()) & set(ct.HELD_OUT.split())


def test_characters_are_coded_and_decoded(ct: ModuleType) -> None:
    assert ct.decode(ct.encode("Ünter\n\t~ {a}")) == "?nter\n    ~ {a}"
    np.testing.assert_array_equal(ct.windows(np.arange(8), 3), [[0, 1, 2, 3], [3, 4, 5, 6]])


def test_counting_models_have_the_bits_of_their_formulas(ct: ModuleType) -> None:
    text, size = ct.encode("ababb"), len(ct.VOCABULARY)
    unigram, bigram = ct.counting_bits(text, ct.encode("ab")[None])
    p = (3 + 1) / (5 + size)
    assert unigram == pytest.approx(-np.log2(p))
    assert bigram == pytest.approx(-np.log2((2 + size * p) / (2 + size)))


def test_loss_is_in_bits(ct: ModuleType) -> None:
    logits, targets = jnp.zeros((2, 3, 8)), jnp.ones((2, 3), jnp.int32)
    assert ct.bits(logits, targets) == pytest.approx(3.0)


@pytest.mark.long
def test_training_on_linen_gives_the_same_curve(
    linen: ModuleType, text: np.ndarray, trained: tuple[Any, np.ndarray, np.ndarray]
) -> None:
    """The same parameters at first, the same dropout and the same losses: to 1e-5 bits per character in 12 steps."""
    params, losses, curve = trained
    params_linen, losses_linen, curve_linen = linen.train(
        config(linen), text, linen.windows(text, 12)[:4], 12, seed=0, quiet=True, chunk=6
    )
    assert losses.shape == (12,) and losses[-1] < losses[0] - 0.1
    np.testing.assert_allclose(losses, losses_linen, rtol=0, atol=1e-5)
    np.testing.assert_allclose(curve, curve_linen, rtol=0, atol=1e-5)
    assert jax.tree.structure(params) == jax.tree.structure(params_linen)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(params_linen), strict=True):
        if "['key']['bias']" not in jax.tree_util.keystr(path):  # no effect on softmax: Adam scales rounding errors up
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.long
def test_cached_logits_are_those_of_the_whole_window(
    ct: ModuleType, linen: ModuleType, text: np.ndarray, trained: tuple[Any, np.ndarray, np.ndarray]
) -> None:
    texts = ct.windows(text, 12)[:3]
    assert ct.cache_difference(config(ct), trained[0], texts) < 1e-5
    ours, theirs = (module.write(config(module), trained[0], texts, jax.random.key(0)) for module in (ct, linen))
    np.testing.assert_array_equal(ours[0], texts)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-5)


def test_the_difference_sees_a_cache_that_is_wrong(
    ct: ModuleType, text: np.ndarray, trained: tuple[Any, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ct.write
    monkeypatch.setattr(ct, "write", lambda config, params, given, key: write(config, params, given[:, ::-1], key))
    assert ct.cache_difference(config(ct), trained[0], ct.windows(text, 12)[:3]) > 1e-2


@pytest.mark.long
def test_samples_begin_with_their_prompts_and_repeat(ct: ModuleType, trained: tuple[Any, np.ndarray, Any]) -> None:
    given = np.full((2, 12), -1)
    given[0, :3], given[1, :1] = ct.encode("The"), ct.encode("a")
    first, second, other = (ct.write(config(ct), trained[0], given, jax.random.key(i))[0] for i in (0, 0, 1))
    np.testing.assert_array_equal(np.where(given < 0, -1, first), given)
    np.testing.assert_array_equal(first, second)
    assert (first >= 0).all() and (first != other).any()


@pytest.mark.long
def test_quick_run_passes_and_draws(ct: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "figure.png"
    assert ct.main(["--quick", "--steps", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "Return the " in printed.out and "bigrams" in printed.out
    assert "All checks passed" in printed.out
    assert "Training: 100%" in printed.err


@pytest.mark.parametrize(("difference", "learned", "said"), [(1.0, 0.1, "cached logits"), (0.0, 9.0, "bigrams have")])
def test_a_failed_check_is_the_exit_status(
    ct: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    difference: float,
    learned: float,
    said: str,
) -> None:
    monkeypatch.setattr(ct, "train", lambda *_: ({}, np.ones(1), np.array([[1, learned]])))
    monkeypatch.setattr(ct, "cache_difference", lambda *_: difference)
    monkeypatch.setattr(ct, "write", lambda config, params, given, key: (np.zeros_like(given), None))
    assert ct.main(["--out", str(tmp_path / "figure.png")]) == 1
    printed = capsys.readouterr()
    assert "FAILED: " in printed.err and said in printed.err
    assert "passed" not in printed.out


def test_no_steps_are_refused(ct: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ct.main(["--steps", "0"])
    assert caught.value.code == 2
    assert "--steps is 0" in capsys.readouterr().err
