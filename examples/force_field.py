"""Learn an interatomic potential whose forces are its own derivative, and run molecular dynamics on it.

The atoms: 16 copper and 16 gold atoms in random order on a face-centred cubic lattice (2x2x2 cubic cells, periodic).
The reference: the effective medium theory (EMT) of Jacobsen, Stoltze and Nørskov as ASE implements it. A Langevin run
at 500 K gives positions, energies E in eV and forces F = -dE/dR in eV/Å, one frame every 100 fs. The last fifth of the
run, with a gap before it, is held out: the model is judged on a stretch of time that it has never seen.

The model sees distances only, so that its energy does not change when the crystal is moved or turned, or when atoms of
one element are swapped. Like the theory that it learns, it embeds each atom in the densities that its neighbours make:

    n_i,kc = sum_j b_k(r_ij) w_c(s_j)        densities at atom i; b_k: radial basis, w_c: learned, s_j: element of j
    E      = sum_i net(n_i, s_i)             energy; each element scales and shifts the first layer of the net
    F_i    = -dE/dR_i                        forces, by `nn.value_and_grad` inside of the module `ForceField`

The sum over j runs over periodic images too: the cell is 7.7 Å wide and the cutoff 5.9 Å. Training, in float32, fits E
and F together; as F is a derivative already, the gradient of the loss is a derivative of a derivative that goes through
the module. The checks are made in float64: the forces against central differences of the energy, and 10 ps of dynamics
at constant energy (NVE) on the learned forces. The total energy must not drift (the drift is the slope of a line
through it), and the forces met on the way are compared with the theory's. The exit status is 1 if a check fails.

Errors of forces are means of the length of the error vector, |F - F_ref|, and stand beside the mean length |F_ref|; the
same is given for single components.

    python examples/force_field.py [--steps N] [--frames N] [--seed N] [--out FILE] [--cache DIR] [--quick]

Sources: K. W. Jacobsen, P. Stoltze, J. K. Nørskov, Surf. Sci. 366, 394 (1996): the theory; M. S. Daw, M. I. Baskes,
Phys. Rev. B 29, 6443 (1984): embedded atoms; J. Behler, M. Parrinello, Phys. Rev. Lett. 98, 146401 (2007): a net for
each atom on radial functions; J. Gasteiger, J. Groß, S. Günnemann, ICLR 2020 (arXiv:2003.03123): the envelope, p = 3;
W. C. Swope et al., J. Chem. Phys. 76, 637 (1982): velocity Verlet.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from liftax import nn

try:
    import optax
    from ase import Atoms, units
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.md.langevin import Langevin
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ModuleNotFoundError as error:
    raise SystemExit(f"{Path(__file__).name} needs {error.name}: pip install 'liftax[demo]'") from None

ROOT = Path(__file__).resolve().parent.parent
LATTICE = 3.87  # Å, about where the pressure vanishes
TEMPERATURE, SPACING = 500.0, 20  # K, steps of 5 fs between frames
CUTOFF = 5.9  # Å; the reference's interactions end at 5.88 Å
SKIN = 1.0  # Å, by how much the distances listed exceed the cutoff in the lattice: atoms move
BATCH, CHUNK = 4, 100  # frames a training step, training steps between looks at the held-out frames
MD_STEP, MD_CHUNK = 2.0, 250  # fs, steps between comparisons with the reference
MAX_FORCE_ERROR = 20.0  # meV/Å, mean length of the error vector
MAX_DRIFT = 0.01  # meV/atom/ps
MAX_DIFFERENCE = 1e-6  # eV/Å, forces against central differences in float64


# --- the model -------------------------------------------------------------------------------------------------------


class Crystal(NamedTuple):
    """Who is whose neighbour. N atoms, K neighbours each; periodic images count as neighbours of their own."""

    species: np.ndarray  # (N,), 0 copper, 1 gold
    neighbours: np.ndarray  # (N, K), indices of atoms
    offsets: np.ndarray  # (N, K, 3), Å, the lattice vectors that carry those atoms to their images


class RadialBasis(nn.Module):
    """Gaussians along the distance, times a polynomial that ends at the cutoff with two continuous derivatives."""

    size: int = 20

    @nn.compact
    def __call__(self, r: jax.Array) -> jax.Array:
        centres = jnp.linspace(1.8, CUTOFF, self.size, dtype=r.dtype)
        x = r / CUTOFF
        envelope = jnp.where(x < 1, 1 - 10 * x**3 + 15 * x**4 - 6 * x**5, 0)
        return envelope[..., None] * jnp.exp(-0.5 * ((r[..., None] - centres) / (centres[1] - centres[0])) ** 2)


class Potential(nn.Module):
    """Positions (N, 3) in Å to the energy in eV."""

    densities: int = 4
    width: int = 64

    @nn.compact
    def __call__(self, positions: jax.Array, crystal: Crystal) -> jax.Array:
        species, neighbours, offsets = (jnp.asarray(part) for part in crystal)
        bonds = positions[neighbours] + offsets.astype(positions.dtype) - positions[:, None]
        basis = RadialBasis()(jnp.sqrt(jnp.sum(bonds**2, axis=-1)))
        weights = nn.Embed(2, self.densities, name="neighbour")(species)[neighbours]
        density = jnp.einsum("ijk,ijc->ikc", basis, weights).reshape(len(species), -1)
        scale, shift = (nn.Embed(2, self.width, name=name)(species) for name in ("scale", "shift"))
        x = nn.silu((1 + scale) * nn.Dense(self.width)(density) + shift)
        x = nn.silu(nn.Dense(self.width)(x))
        return jnp.sum(nn.Dense(1)(x))


class ForceField(nn.Module):
    """Positions (N, 3) in Å to the energy in eV and the forces (N, 3) in eV/Å."""

    @nn.compact
    def __call__(self, positions: jax.Array, crystal: Crystal) -> tuple[jax.Array, jax.Array]:
        energy, (slope,) = nn.value_and_grad(lambda potential, x: potential(x, crystal), Potential(), positions)
        return energy, -slope


# --- the data --------------------------------------------------------------------------------------------------------


class Frames(NamedTuple):
    """A molecular-dynamics run: T frames of N atoms."""

    positions: np.ndarray  # (T, N, 3), Å, not wrapped into the cell
    velocities: np.ndarray  # (T, N, 3), ASE's unit, about Å per 10.18 fs
    forces: np.ndarray  # (T, N, 3), eV/Å
    energies: np.ndarray  # (T,), eV


def alloy(rng: np.random.Generator) -> Atoms:
    atoms = bulk("Cu", "fcc", a=LATTICE, cubic=True) * (2, 2, 2)
    atoms.symbols = rng.permutation(["Cu", "Au"] * (len(atoms) // 2))
    atoms.calc = EMT()
    return atoms


def image_pairs(positions: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distances (N, N, 27) from each atom to each image of each atom, and the 27 lattice vectors."""
    shifts = np.array(list(np.ndindex(3, 3, 3))) @ cell - cell.sum(axis=0)
    bonds = positions[None, :, None] + shifts - positions[:, None, None]
    return np.linalg.norm(bonds, axis=-1), shifts


def make_crystal(atoms: Atoms) -> Crystal:
    distances, shifts = image_pairs(atoms.positions, atoms.cell.array)
    centre, neighbours, image = np.nonzero((distances > 0) & (distances < CUTOFF + SKIN))
    shape = len(atoms), len(centre) // len(atoms)  # every site of the lattice has as many
    return Crystal((atoms.numbers == 79).astype(int), neighbours.reshape(shape), shifts[image].reshape(*shape, 3))


def unlisted_pairs(atoms: Atoms, positions: np.ndarray) -> int:
    """Count pairs that came within the cutoff though `make_crystal`, given the lattice, does not list them."""
    listed = image_pairs(atoms.positions, atoms.cell.array)[0] < CUTOFF + SKIN
    return sum(int(np.sum((image_pairs(x, atoms.cell.array)[0] < CUTOFF) & ~listed)) for x in positions)


def simulate(atoms: Atoms, frames: int, rng: np.random.Generator, file: Path, progress: Progress) -> Frames:
    """Run Langevin dynamics on the reference, or read the run from the file where an earlier call left it."""
    if file.exists():
        with np.load(file) as saved:
            progress.console.print(f"Reference data from {file}")
            return Frames(**saved)
    atoms = atoms.copy()
    atoms.calc = EMT()
    dynamics = Langevin(atoms, 5 * units.fs, temperature_K=TEMPERATURE, friction=0.01 / units.fs, fixcm=False, rng=rng)
    task = progress.add_task("Reference dynamics", total=frames, note="")
    dynamics.run(300)  # from rest to thermal motion
    rows = []
    for _ in range(frames):
        dynamics.run(SPACING)
        rows.append((atoms.get_positions(), atoms.get_velocities(), atoms.get_forces(), atoms.get_potential_energy()))
        progress.advance(task)
    run = Frames(*(np.array(column) for column in zip(*rows, strict=True)))
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_suffix(".part.npz")
    np.savez(whole, **run._asdict())
    whole.rename(file)  # an interrupted run leaves no half of a file under the name
    return run


def split(run: Frames) -> tuple[Frames, Frames]:
    """Return training frames and the held-out last fifth; energies are relative to the mean of the training frames."""
    test = len(run.energies) - len(run.energies) // 5
    gap = max(1, len(run.energies) // 60)
    run = run._replace(energies=run.energies - run.energies[: test - gap].mean())
    return Frames(*(part[: test - gap] for part in run)), Frames(*(part[test:] for part in run))


# --- training --------------------------------------------------------------------------------------------------------


def milli_mean(vectors: Any) -> Any:
    """Return the mean length of vectors (..., 3), times 1000: of forces in eV/Å, in meV/Å."""
    return 1e3 * ((vectors**2).sum(axis=-1) ** 0.5).mean()


def train(
    crystal: Crystal, data: Frames, held_out: Frames, steps: int, seed: int, progress: Progress
) -> tuple[Any, np.ndarray]:
    """Return parameters, and a row (step, training error, held-out error) for each chunk, errors in meV/Å.

    The held-out error is for the curve alone: nothing is chosen by it, the last parameters are returned.
    """
    model, atoms = ForceField(), data.forces.shape[1]
    predict = jax.vmap(lambda params, x: model.apply(params, x, crystal), in_axes=(None, 0))
    schedule = optax.warmup_cosine_decay_schedule(0, 2e-2, min(200, steps // 4), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(params: Any, x: jax.Array, forces: jax.Array, energies: jax.Array) -> tuple[jax.Array, jax.Array]:
        energies_out, forces_out = predict(params, x)
        errors = forces_out - forces
        return jnp.mean(errors**2) + jnp.mean(((energies_out - energies) / atoms) ** 2), milli_mean(errors)

    @jax.jit
    def run_chunk(state: Any, batches: Any) -> tuple[Any, jax.Array]:
        def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
            params, optimizer_state = state
            grads, error = jax.grad(loss, has_aux=True)(params, *batch)
            updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), error

        state, errors = jax.lax.scan(step, state, batches)
        return state, jnp.stack([jnp.mean(errors), milli_mean(predict(state[0], test_x)[1] - test_forces)])

    test_x, test_forces = jnp.asarray(held_out.positions), jnp.asarray(held_out.forces)
    x, forces, energies = (jnp.asarray(part) for part in (data.positions, data.forces, data.energies))
    params = jax.jit(model.init)(jax.random.key(seed), x[0], crystal)
    state, rng, curve = (params, optimizer.init(params)), np.random.default_rng(seed), []
    task = progress.add_task("Training", total=steps, note="compiling")
    for done in range(0, steps, CHUNK):
        index = rng.integers(len(x), size=(min(CHUNK, steps - done), BATCH))
        state, errors = run_chunk(state, (x[index], forces[index], energies[index]))
        curve.append((done + len(index), *np.asarray(errors)))
        progress.update(task, advance=len(index), note=f"held-out |ΔF| {curve[-1][2]:.1f} meV/Å")
    return state[0], np.array(curve)


# --- checks, in float64 ----------------------------------------------------------------------------------------------


class Measure(NamedTuple):
    """A row of the table."""

    what: str
    value: float
    form: str
    scale: float = np.nan  # what the value is to be compared with
    limit: float = np.inf

    def failed(self) -> bool:
        return not (np.isfinite(self.value) and abs(self.value) <= self.limit)


def central_differences(energies: Callable[[jax.Array], jax.Array], x: jax.Array, step: float = 1e-4) -> jax.Array:
    """Return the forces (eV/Å) at x (N, 3) from energies alone, moving one coordinate at a time by +-step (Å)."""
    moves = step * jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
    return -(energies(x + moves) - energies(x - moves)).reshape(x.shape) / (2 * step)


def run_nve(
    field: Callable[[jax.Array], Any], state: Any, masses: np.ndarray, steps: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integrate (positions, velocities, forces) by velocity Verlet.

    Returns energies (2, steps) in eV, potential and kinetic; and, after each chunk, positions (Å) and forces (eV/Å).
    """
    dt, mass = MD_STEP * units.fs, jnp.asarray(masses)[:, None]

    def verlet(state: Any, _: None) -> tuple[Any, Any]:
        x, v, forces = state
        v_half = v + 0.5 * dt * forces / mass
        x = x + dt * v_half
        energy, forces = field(x)
        v = v_half + 0.5 * dt * forces / mass
        return (x, v, forces), (energy, 0.5 * jnp.sum(mass * v**2))

    run_chunk = jax.jit(lambda state: jax.lax.scan(verlet, state, None, length=MD_CHUNK))
    energies, positions, forces = [], [], []
    task = progress.add_task("Learned dynamics", total=steps, note="")
    for _ in range(steps // MD_CHUNK):
        state, chunk = run_chunk(state)
        energies.append(np.array(chunk))
        positions.append(np.array(state[0]))
        forces.append(np.array(state[2]))
        progress.advance(task, MD_CHUNK)
    return np.concatenate(energies, axis=1), np.array(positions), np.array(forces)


def reference_forces(atoms: Atoms, positions: np.ndarray) -> np.ndarray:
    if not np.isfinite(positions).all():  # the dynamics exploded
        return np.full_like(positions, np.nan)
    frames = [Atoms(atoms.numbers, x, cell=atoms.cell, pbc=True, calculator=EMT()) for x in positions]
    return np.array([frame.get_forces() for frame in frames])


def validate(
    params: Any, crystal: Crystal, atoms: Atoms, run: Frames, held_out: Frames, quick: bool, progress: Progress
) -> tuple[list[Measure], np.ndarray, np.ndarray]:
    """Return measures, learned forces of the held-out frames (eV/Å), and energies (2, steps) in NVE (meV/atom)."""
    with jax.enable_x64(True):

        def field(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return ForceField().apply(params, x, crystal)

        predict = jax.jit(jax.vmap(field))
        energies, forces = map(np.asarray, predict(jnp.asarray(held_out.positions)))
        last = jnp.asarray(held_out.positions[-1])
        differences = np.asarray(central_differences(lambda x: predict(x)[0], last))
        state = last, jnp.asarray(held_out.velocities[-1]), jnp.asarray(forces[-1])
        steps = MD_CHUNK * (2 if quick else 20)
        md_energies, md_x, md_forces = run_nve(field, state, atoms.get_masses(), steps, progress)
    errors, md_reference = forces - held_out.forces, reference_forces(atoms, md_x)
    milli = 1e3 / len(atoms)  # eV to meV/atom
    energy_errors, energy_scale = milli * (energies - held_out.energies), milli * held_out.energies.std()
    total, time_ps = milli * md_energies.sum(axis=0), MD_STEP * 1e-3 * np.arange(md_energies.shape[1])
    line = np.polyfit(time_ps, total, 1) if np.isfinite(total).all() else np.full(2, np.nan)
    wiggle = np.std(total - np.polyval(line, time_ps)).item()
    mismatch = np.abs(differences - forces[-1]).max()
    unlisted = unlisted_pairs(atoms, np.concatenate([run.positions, md_x]))
    force_limit, drift_limit, pair_limit = [np.inf] * 3 if quick else (MAX_FORCE_ERROR, MAX_DRIFT, 0)
    measures = [
        Measure("Held-out force |ΔF| (meV/Å)", milli_mean(errors), ".2f", milli_mean(held_out.forces), force_limit),
        Measure("  its components (meV/Å)", 1e3 * np.abs(errors).mean(), ".2f", 1e3 * np.abs(held_out.forces).mean()),
        Measure("Held-out energy |ΔE| (meV/atom)", np.abs(energy_errors).mean(), ".3f", energy_scale),
        Measure(
            "NVE force |ΔF| (meV/Å)", milli_mean(md_forces - md_reference), ".2f", milli_mean(md_reference), force_limit
        ),
        Measure("NVE energy drift (meV/atom/ps)", line[0], "+.5f", limit=drift_limit),
        Measure("  fluctuation about it (meV/atom)", wiggle, ".4f"),
        Measure("Forces - central differences (eV/Å)", mismatch, ".0e", limit=MAX_DIFFERENCE),
        Measure("Pairs too close for the list", unlisted, "d", limit=pair_limit),
    ]
    return measures, forces, milli * md_energies


# --- what a person sees ----------------------------------------------------------------------------------------------


def make_table(measures: Sequence[Measure], seconds: dict[str, float]) -> Table:
    times = ", ".join(f"{what} {value:.0f} s" for what, value in seconds.items())
    scales = "Errors are means. Scale: mean |F|, mean |component|, spread of E."
    table = Table("Quantity", title="CuAu, 32 atoms: learned potential against EMT", caption=f"{scales}\nTime: {times}")
    for name in ("Value", "Scale", "Limit"):
        table.add_column(name, justify="right")
    for what, value, form, scale, limit in measures:
        scale_text = f"{scale:.3g}" if np.isfinite(scale) else ""
        table.add_row(what, f"{value:{form}}", scale_text, f"{limit:g}" if np.isfinite(limit) else "")
    return table


def draw(
    file: Path, species: np.ndarray, reference: np.ndarray, learned: np.ndarray, curve: np.ndarray, energies: np.ndarray
) -> None:
    """Draw held-out forces (eV/Å) against each other, the training, and the energies in NVE (meV/atom)."""
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    axes = figure.subplot_mosaic("ABC;ABD", height_ratios=(3, 2))
    blue, copper, gold = "#1f5fa8", "#a8471c", "#e0ac1a"

    ax, bound = axes["A"], 1.05 * np.abs(reference).max()
    ax.axline((0, 0), slope=1, color="0.6", lw=1, zorder=0)
    for number, name, colour, size in ((1, "gold", gold, 8), (0, "copper", copper, 3)):
        pair = (forces[:, species == number].ravel() for forces in (reference, learned))
        ax.plot(*pair, ".", ms=size, mew=0, color=colour, label=name)
    ax.set(xlabel="EMT force component (eV/Å)", ylabel="learned force component (eV/Å)")
    ax.set(xlim=(-bound, bound), ylim=(-bound, bound), aspect="equal")
    ax.set_title(
        f"Held-out forces: mean |ΔF| {milli_mean(learned - reference):.1f} of {milli_mean(reference):.0f} meV/Å"
    )
    ax.legend(loc="upper left", markerscale=2, frameon=False)
    inset = ax.inset_axes((0.62, 0.17, 0.34, 0.25))
    inset.hist(1e3 * (learned - reference).ravel(), bins=61, color="0.4")
    inset.set(yticks=[])
    inset.set_xlabel("error (meV/Å)", fontsize=8)
    inset.tick_params(labelsize=8)

    ax = axes["B"]
    ax.semilogy(curve[:, 0], curve[:, 1], color="0.65", label="training batches")
    ax.semilogy(curve[:, 0], curve[:, 2], color=blue, label="held-out frames")
    ax.axhline(MAX_FORCE_ERROR, color="0.4", lw=1, ls=":", label="limit")
    ax.set(xlabel="training step", ylabel="mean |ΔF| (meV/Å)", title="Training on energies and forces")
    ax.legend(frameon=False)

    ax, time_ps = axes["C"], MD_STEP * 1e-3 * np.arange(1, energies.shape[1] + 1)
    for row, name, colour in zip(energies, ("potential", "kinetic"), (blue, copper), strict=True):
        ax.plot(time_ps, row - row.mean(), color=colour, lw=0.8, label=name)
    ax.set(ylabel="E - mean (meV/atom)", title="Dynamics at constant energy on the learned forces")
    ax.margins(y=0.2)
    ax.legend(loc="upper right", ncols=2, frameon=False)
    total = 1e3 * energies.sum(axis=0)
    axes["D"].plot(time_ps, total - total.mean(), color="black", lw=0.5)
    axes["D"].set(xlabel="time (ps)", ylabel="total - mean (µeV/atom)")
    axes["D"].sharex(ax)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Learn a potential and its forces, and run dynamics on them.")
    parser.add_argument("--steps", type=int, help="training steps (6000)")
    parser.add_argument("--frames", type=int, help="reference frames, training and held-out together (300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the alloy, the dynamics and the training (0)")
    parser.add_argument("--out", type=Path, default=ROOT / "examples/out/force_field.png", help="the figure")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/liftax", help="where reference data are kept")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; accuracy is not checked")
    options = parser.parse_args(arguments)
    frames = options.frames or (20 if options.quick else 300)
    steps = options.steps or (40 if options.quick else 6000)
    if frames < 10 or steps < 1:
        parser.error(f"--frames is {frames} and --steps {steps}; at least 10 frames and 1 step are needed")

    console, start = Console(), time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - start - sum(seconds.values())

    columns = TextColumn("{task.description:18}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        rng = np.random.default_rng(options.seed)
        atoms = alloy(rng)
        crystal = make_crystal(atoms)
        name = f"CuAu-{LATTICE}A-{TEMPERATURE:g}K-{frames}x{SPACING}steps-seed{options.seed}.npz"
        run = simulate(atoms, frames, rng, options.cache / name, progress)
        lap("data")
        training, held_out = split(run)
        params, curve = train(crystal, training, held_out, steps, options.seed, progress)
        lap("training")
        measures, forces, energies = validate(params, crystal, atoms, run, held_out, options.quick, progress)
        lap("checks")
    draw(options.out, crystal.species, held_out.forces, forces, curve, energies)
    lap("figure")

    console.print(make_table(measures, seconds | {"total": sum(seconds.values())}))
    console.print(f"Figure: {options.out}", soft_wrap=True)
    failed = [measure for measure in measures if measure.failed()]
    for what, value, form, _, limit in failed:
        print(f"FAILED: {what.strip()}: {value:{form}}, must be finite and within {limit:g}", file=sys.stderr)
    if not failed:
        unchecked = " Accuracy is not checked with --quick." if options.quick else ""
        console.print(f"All checks passed; the forces are the central differences of the energy.{unchecked}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
