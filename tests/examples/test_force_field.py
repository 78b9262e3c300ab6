"""The demonstration runs, and its physics holds: symmetries, cutoff, forces, conservation of energy."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[2]

# ASE 3.29 under NumPy 2.5; nothing that the program does itself.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:Setting the shape on a NumPy array:DeprecationWarning:{module}")
    for module in ("ase.atoms", "ase.md.md")
]


@pytest.fixture(scope="module")
def ff() -> ModuleType:
    """The program, imported without being run."""
    spec = importlib.util.spec_from_file_location("force_field", ROOT / "examples/force_field.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def atoms(ff: ModuleType) -> ase.Atoms:
    return ff.alloy(np.random.default_rng(0))


@pytest.fixture(scope="module")
def shaken(atoms: ase.Atoms) -> np.ndarray:
    return atoms.positions + np.random.default_rng(1).normal(scale=0.1, size=atoms.positions.shape)


@pytest.fixture(scope="module")
def params(ff: ModuleType, atoms: ase.Atoms) -> Any:
    return jax.jit(ff.ForceField().init)(
        jax.random.key(0), jnp.asarray(atoms.positions, jnp.float32), ff.make_crystal(atoms)
    )


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def progress() -> Progress:
    return Progress(console=Console(quiet=True))


def predict(ff: ModuleType, params: Any, positions: np.ndarray, crystal: Any) -> tuple[Any, np.ndarray]:
    energy, forces = jax.jit(ff.ForceField().apply)(params, jnp.asarray(positions), crystal)
    return energy, np.asarray(forces)


def test_list_of_pairs_is_that_of_ase(ff: ModuleType, atoms: ase.Atoms, shaken: np.ndarray) -> None:
    crystal = ff.make_crystal(atoms)
    bonds = shaken[crystal.neighbours] + crystal.offsets - shaken[:, None]
    distances = np.linalg.norm(bonds, axis=-1)
    moved = atoms.copy()
    moved.positions = shaken
    expected = np.sort(neighbor_list("d", moved, ff.CUTOFF))
    np.testing.assert_allclose(np.sort(distances[distances < ff.CUTOFF]), expected, rtol=1e-12)
    assert ff.unlisted_pairs(atoms, shaken[None]) == 0


def test_pairs_missing_from_the_list_are_counted(ff: ModuleType, atoms: ase.Atoms) -> None:
    positions = atoms.positions.copy()
    positions[0, 2] += 2.0  # 5.8 Å from an image that was 7.2 Å away
    assert ff.unlisted_pairs(atoms, positions[None]) > 0


@pytest.mark.usefixtures("x64")
def test_energy_is_invariant_and_forces_turn_with_the_crystal(
    ff: ModuleType, atoms: ase.Atoms, shaken: np.ndarray, params: Any
) -> None:
    crystal = ff.make_crystal(atoms)
    energy, forces = predict(ff, params, shaken, crystal)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned = crystal._replace(offsets=crystal.offsets @ turn)
    energy_turned, forces_turned = predict(ff, params, shaken @ turn + [0.3, -2.0, 1.0], turned)
    np.testing.assert_allclose(energy_turned, energy, rtol=1e-12)
    np.testing.assert_allclose(forces_turned, forces @ turn, atol=1e-12)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-12)
    assert np.abs(forces).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_two_cells_have_twice_the_energy(ff: ModuleType, atoms: ase.Atoms, shaken: np.ndarray, params: Any) -> None:
    energy, forces = predict(ff, params, shaken, ff.make_crystal(atoms))
    twice = atoms * (1, 1, 2)
    positions = np.concatenate([shaken, shaken + atoms.cell[2]])
    energy_twice, forces_twice = predict(ff, params, positions, ff.make_crystal(twice))
    np.testing.assert_allclose(energy_twice, 2 * energy, rtol=1e-12)
    np.testing.assert_allclose(forces_twice, np.tile(forces, (2, 1)), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_basis_ends_smoothly_at_the_cutoff(ff: ModuleType) -> None:
    def basis(r: jax.Array) -> jax.Array:
        return ff.RadialBasis().apply({}, r)

    inside, outside = jnp.array(ff.CUTOFF - 1e-4), jnp.array(ff.CUTOFF + 1e-4)
    for derivative in (jax.jit(basis), jax.jit(jax.jacfwd(basis)), jax.jit(jax.jacfwd(jax.jacfwd(basis)))):
        np.testing.assert_allclose(derivative(inside), 0, atol=1e-3)
        np.testing.assert_array_equal(derivative(outside), 0)
    assert float(jnp.max(basis(jnp.array(2.7)))) > 0.1


@pytest.mark.usefixtures("x64")
def test_velocity_verlet_follows_a_harmonic_oscillator(ff: ModuleType, progress: Progress) -> None:
    period = 400 * ff.units.fs
    masses = np.array([2.0])
    stiffness = masses[0] * (2 * np.pi / period) ** 2

    def field(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return 0.5 * stiffness * jnp.sum(x**2), -stiffness * x

    x = jnp.array([[1.0, 0.0, 0.0]])
    energies, positions, forces = ff.run_nve(field, (x, 0 * x, field(x)[1]), masses, 2 * ff.MD_CHUNK, progress)
    assert energies.shape == (2, 2 * ff.MD_CHUNK)
    angles = 2 * np.pi * ff.MD_STEP * ff.MD_CHUNK * np.array([1, 2]) * ff.units.fs / period
    np.testing.assert_allclose(positions[:, 0, 0], np.cos(angles), atol=1e-3)
    np.testing.assert_allclose(forces, -stiffness * positions, rtol=1e-12)
    np.testing.assert_allclose(energies.sum(axis=0), 0.5 * stiffness, rtol=1e-3)


def test_held_out_frames_come_after_a_gap(ff: ModuleType) -> None:
    times = np.arange(60.0)
    training, held_out = ff.split(ff.Frames(times, times, times, 2 * times))
    np.testing.assert_array_equal(training.positions, np.arange(47))
    np.testing.assert_array_equal(held_out.positions, np.arange(48, 60))
    np.testing.assert_array_equal(held_out.energies, 2 * np.arange(48, 60) - 46)


@pytest.mark.parametrize(("value", "failed"), [(0.9, False), (-0.9, False), (1.1, True), (-1.1, True), (np.nan, True)])
def test_a_measure_fails_beyond_its_limit(ff: ModuleType, value: float, failed: bool) -> None:
    assert ff.Measure("force", value, ".1f", limit=1.0).failed() is failed
    assert ff.Measure("force", value, ".1f").failed() is bool(np.isnan(value))


def test_quick_run_passes_and_draws(ff: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "figure.png"
    arguments = ["--quick", "--frames", "10", "--steps", "30", "--cache", str(tmp_path / "cache"), "--out", str(out)]
    assert ff.main(arguments) == 0
    printed = capsys.readouterr()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert f"Figure: {out}" in printed.out
    assert "All checks passed" in printed.out
    assert printed.err == ""
    (cached,) = (tmp_path / "cache").iterdir()
    assert "10x20steps-seed0" in cached.name


def test_a_failed_check_is_the_exit_status(
    ff: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = ff.Frames(*(np.zeros((10, 32, 3)),) * 3, np.zeros(10))
    measures = [ff.Measure("Force", 21.0, ".1f", limit=20.0)]
    monkeypatch.setattr(ff, "simulate", lambda *_: frames)
    monkeypatch.setattr(ff, "train", lambda *_: ({}, np.ones((1, 3))))
    monkeypatch.setattr(ff, "validate", lambda *_: (measures, np.zeros((2, 32, 3)), np.zeros((2, 5))))
    monkeypatch.setattr(ff, "draw", lambda *_: None)
    assert ff.main(["--out", str(tmp_path / "figure.png")]) == 1
    printed = capsys.readouterr()
    assert "FAILED: Force: 21.0, must be finite and within 20" in printed.err
    assert "passed" not in printed.out


def test_too_few_frames_are_refused(ff: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ff.main(["--frames", "3"])
    assert caught.value.code == 2
    assert "--frames is 3" in capsys.readouterr().err
