"""The tagger of Python's tokens learns the same on Flax Linen, and the program runs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

Load = Callable[..., ModuleType]
SOURCE = 'if x1 >= 2.5:  # why?\n    é = f"a{b}c" + """d\n  e"""\n'
LETTERS = "kk nn oo ###o  cccccc " + "    n o ssssssss o ssss" + "s" + "ssssss "


@pytest.fixture(scope="module")
def tagger(load: Load) -> ModuleType:
    return load("sequence_tagger")


def test_characters_have_the_tags_of_their_tokens(tagger: ModuleType) -> None:
    characters, tags = tagger.tag(SOURCE)
    letters = {"k": "keyword", "n": "name", "o": "operator", "#": "number", "c": "comment", "s": "string"}
    expected = [tagger.TAGS.index(letters.get(letter, "space")) for letter in LETTERS]
    np.testing.assert_array_equal(tags, expected)
    assert characters[0] == ord("i")
    assert characters[SOURCE.index("é")] == 127


def test_majority_is_that_of_each_character(tagger: ModuleType) -> None:
    tags = tagger.majority(tagger.tag("for f in x:\n    f = 'f'\n    # f o\n    f\n"))
    assert [tagger.TAGS[tags[ord(c)]] for c in "fx= z"] == ["name", "name", "operator", "space", "space"]


def test_held_out_modules_are_others(tagger: ModuleType) -> None:
    assert not set(tagger.TRAINING) & set(tagger.HELD_OUT)


@pytest.mark.long
def test_learns_the_same_on_linen(tagger: ModuleType, load: Load) -> None:
    """The same parameters at first and the same losses: to 1e-5 of the loss in 8 steps."""
    curves = []
    for module in (tagger, load("sequence_tagger", linen=True)):
        config = module.Config(embedding=4, width=5, length=16, batch=4)
        text = module.tag(SOURCE * 8)
        curves.append(module.train(config, text, module.windows(text, 16), 8, seed=0, quiet=True)[1:])
    (losses, curve), (losses_linen, _) = curves
    assert losses.shape == (8,)
    assert losses[-1] < losses[0]
    assert curve.shape == (1, 2)
    np.testing.assert_allclose(losses, losses_linen, rtol=1e-5)


@pytest.mark.long
def test_quick_run_draws_and_ends_with_a_table(
    tagger: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tagger, "HELD_OUT", ["textwrap"])
    out = tmp_path / "new" / "figure.png"
    assert tagger.main(["--quick", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "Training: 100%" in printed.err
    assert "Held-out characters tagged rightly (%)" in printed.out


def test_no_steps_are_refused(tagger: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        tagger.main(["--steps", "0"])
    assert caught.value.code == 2
    assert "--steps is 0" in capsys.readouterr().err
