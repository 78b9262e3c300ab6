"""The local energy of the exact state is its energy everywhere, and the program runs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

Load = Callable[..., ModuleType]


@pytest.fixture(scope="module")
def program(load: Load) -> ModuleType:
    return load("quantum_monte_carlo")


class Exact(nn.Module):
    """The ground state."""

    @nn.compact
    def __call__(self, r):
        return jnp.log1p(jnp.linalg.norm(r[0] - r[1]) / 2) - jnp.sum(r**2) / 4


def test_local_energy_of_the_exact_state(program: ModuleType) -> None:
    for seed in range(3):
        r = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 3)), jnp.float32)
        energy, _ = program.LocalEnergy(Exact()).apply({}, r)
        np.testing.assert_allclose(energy, program.EXACT, rtol=1e-4)


@pytest.mark.long
def test_quick_run_draws_and_ends_with_a_table(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "figure.png"
    assert program.main(["--quick", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "Training: 100%" in printed.err
    assert "2.00000" in printed.out


def test_a_bad_energy_is_the_exit_status(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "train", lambda *_: (None, np.ones((2, 2))))
    monkeypatch.setattr(program, "measure", lambda *_: (np.full((2, 512), 2.1), np.ones((2, 512))))
    assert program.main(["--out", str(tmp_path / "figure.png")]) == 1
    assert "FAILED: the energy is off by +0.10000 hartree" in capsys.readouterr().err


def test_no_steps_are_refused(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["--steps", "0"])
    assert caught.value.code == 2
    assert "--steps is 0" in capsys.readouterr().err
