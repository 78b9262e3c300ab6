"""Find the ground state of two electrons in a trap with a neural network.

The electrons, of opposite spin, repel each other in a harmonic trap (Hooke's atom), in atomic units:

    H = sum_i (-1/2 laplacian_i + 1/2 omega^2 r_i^2) + 1/r_12,        omega = 1/2

Its ground state is known, (1 + r_12/2) exp(-(r_1^2 + r_2^2)/4), with an energy of exactly 2 hartree. The network is a
small FermiNet. One stream of features follows each electron, one each pair; a layer gives each electron its own
features, and the means over the electrons of each spin and over its pairs:

    h_i <- h_i + tanh(W [h_i, mean_j h_j, mean_j h_ij])           features of electrons
    psi  = sum_k det[phi_k(h_i) envelope_k(r_i)] for each spin    determinants of orbitals

Walkers are moved by Metropolis steps, so that they are distributed as psi^2. The local energy H psi / psi holds a
derivative inside the module `LocalEnergy`: its kinetic part is one lifted Laplacian. The gradient of the energy is

    dE/dw = 2 <(E_local - E) dlog|psi|/dw>.

For the true ground state the local energy is the same everywhere; its spread tells how far the network is from it. The
exit status is 1 if the energy, measured after the training, is not exact within 5 millihartree.

    python examples/quantum_monte_carlo.py [--steps N] [--walkers N] [--seed N] [--out FILE] [--quick]

Sources: D. Pfau et al., Phys. Rev. Research 2, 033429 (2020): FermiNet; M. Taut, Phys. Rev. A 48, 3561 (1993): the
exact solution; N. Metropolis et al., J. Chem. Phys. 21, 1087 (1953): the moves.
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
from tqdm import tqdm

from liftax import nn

ROOT = Path(__file__).resolve().parent.parent
OMEGA, EXACT = 0.5, 2.0  # hartree
SPINS = (1, 1)  # electrons of each spin
CHUNK, MOVES = 20, 10  # training steps a call, Metropolis moves between them
MAX_ERROR = 0.005  # hartree


# --- the model -------------------------------------------------------------------------------------------------------


class WaveFunction(nn.Module):
    """Positions (N, 3) in bohr to log|psi|."""

    width: int = 24
    layers: int = 2
    determinants: int = 4

    @nn.compact
    def __call__(self, r: jax.Array) -> jax.Array:
        n = len(r)
        apart = r[:, None] - r[None]
        distance = jnp.sqrt(jnp.sum(apart**2, -1) + jnp.eye(n)) * (1 - jnp.eye(n))  # no root of zero
        pairs = jnp.concatenate([apart, distance[..., None]], -1)
        h = jnp.concatenate([r, jnp.sum(r**2, -1, keepdims=True)], -1)
        for i in range(self.layers):
            spins = jnp.split(h, [SPINS[0]])
            means = [jnp.broadcast_to(jnp.mean(s, 0), s.shape[1:]) for s in spins]
            seen = [h, *(jnp.broadcast_to(m, (n, m.size)) for m in means), jnp.mean(pairs, 1)]
            new = jnp.tanh(nn.Dense(self.width)(jnp.concatenate(seen, -1)))
            h = new if i == 0 else h + new
            pairs = jnp.tanh(nn.Dense(self.width // 3)(pairs)) + (0 if i == 0 else pairs)
        logs, signs = jnp.zeros(self.determinants), jnp.ones(self.determinants)
        for k, (own, there) in enumerate(zip(jnp.split(h, [SPINS[0]]), jnp.split(r, [SPINS[0]]), strict=True)):
            count = SPINS[k]
            orbitals = nn.Dense(self.determinants * count, bias_init=nn.initializers.ones)(own)
            narrow = self.param(f"narrow_{k}", nn.initializers.constant(0.5), (self.determinants * count,))
            orbitals = orbitals * jnp.exp(-jnp.sum(there**2, -1, keepdims=True) * narrow**2)
            matrices = orbitals.reshape(count, self.determinants, count).transpose(1, 0, 2)
            sign, log = jnp.linalg.slogdet(matrices)
            logs, signs = logs + log, signs * sign
        top = jax.lax.stop_gradient(jnp.max(logs))
        return jnp.log(jnp.abs(jnp.sum(signs * jnp.exp(logs - top)))) + top


class LocalEnergy(nn.Module):
    """Positions (N, 3) in bohr to H psi / psi in hartree and log|psi|."""

    psi: WaveFunction

    @nn.compact
    def __call__(self, r: jax.Array) -> tuple[jax.Array, jax.Array]:
        def ratio(psi: WaveFunction, r: jax.Array) -> tuple[jax.Array, jax.Array]:
            log = psi(r)
            return jnp.exp(
                log - jax.lax.stop_gradient(log)
            ), log  # psi over its value here: 1, with the Laplacian of psi

        _, laplacian, log = nn.laplacian(ratio, self.psi, r, has_aux=True)
        first, second = np.triu_indices(len(r), 1)
        repulsion = jnp.sum(1 / jnp.linalg.norm(r[first] - r[second], axis=-1))
        return -0.5 * laplacian + 0.5 * OMEGA**2 * jnp.sum(r**2) + repulsion, log


# --- sampling and training -------------------------------------------------------------------------------------------


class State(NamedTuple):
    """Everything that a training step changes."""

    params: Any
    moments: Any  # of the optimizer
    walkers: jax.Array  # (walkers, N, 3), bohr
    size: jax.Array  # bohr, of a Metropolis move
    key: jax.Array


def metropolis(model: LocalEnergy, state: State) -> State:
    """Move each walker so that they are distributed as psi^2; half of the moves should be taken."""
    log_psi = jax.vmap(lambda r: model.psi.apply({"params": state.params["psi"]}, r))

    def move(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        walkers, logs = carry
        step, chance = jax.random.split(key)
        there = walkers + state.size * jax.random.normal(step, walkers.shape)
        new = log_psi(there)
        taken = jnp.log(jax.random.uniform(chance, new.shape)) < 2 * (new - logs)
        return (jnp.where(taken[:, None, None], there, walkers), jnp.where(taken, new, logs)), jnp.mean(taken)

    key, *keys = jax.random.split(state.key, MOVES + 1)
    (walkers, _), taken = jax.lax.scan(move, (state.walkers, log_psi(state.walkers)), jnp.stack(keys))
    size = state.size * jnp.where(jnp.mean(taken) > 0.5, 1.05, 0.95)
    return state._replace(walkers=walkers, size=size, key=key)


def clipped(energies: jax.Array) -> jax.Array:
    """Return local energies without outliers beyond five mean deviations from the median."""
    middle = jnp.median(energies)
    spread = 5 * jnp.mean(jnp.abs(energies - middle))
    return jnp.clip(energies, middle - spread, middle + spread)


def train(model: LocalEnergy, walkers: int, steps: int, seed: int) -> tuple[State, np.ndarray]:
    """Return the last state, and the energy and the spread of local energies (steps, 2) in hartree."""
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    start = jax.random.normal(second, (walkers, sum(SPINS), 3)) / np.sqrt(OMEGA)
    params = model.init(first, start[0])["params"]
    optimizer = optax.adam(optax.exponential_decay(1e-2, steps, 0.05))
    state = State(params, optimizer.init(params), start, jnp.asarray(1.0), third)

    def step(state: State, _: None) -> tuple[State, Any]:
        state = metropolis(model, state)
        energies, _ = jax.vmap(lambda r: model.apply({"params": state.params}, r))(state.walkers)
        kept = clipped(energies)
        weights = 2 * (kept - jnp.mean(kept)) / len(kept)

        def loss(params: Any) -> jax.Array:  # its gradient is that of the energy
            logs = jax.vmap(lambda r: model.psi.apply({"params": params["psi"]}, r))(state.walkers)
            return jnp.sum(weights * logs)

        updates, moments = optimizer.update(jax.grad(loss)(state.params), state.moments)
        state = state._replace(params=optax.apply_updates(state.params, updates), moments=moments)
        return state, (jnp.mean(kept), jnp.std(kept))

    run = jax.jit(lambda state: jax.lax.scan(step, state, None, length=min(CHUNK, steps)))
    curve = []
    with tqdm(total=steps, desc="Training", unit=" steps", mininterval=0.5) as bar:
        while len(curve) < steps:
            state, chunk = run(state)
            curve += np.stack(chunk, -1).tolist()
            bar.update(len(chunk[0]))
            bar.set_postfix_str(f"energy {np.mean(curve[-CHUNK:], 0)[0]:.4f} hartree")
    return state, np.array(curve)


def measure(model: LocalEnergy, state: State, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return local energies (rounds, walkers) in hartree, and distances of the electrons (rounds, walkers) in bohr."""

    def sample(state: State, _: None) -> tuple[State, Any]:
        state = metropolis(model, state)
        energies, _ = jax.vmap(lambda r: model.apply({"params": state.params}, r))(state.walkers)
        return state, (energies, jnp.linalg.norm(state.walkers[:, 0] - state.walkers[:, 1], axis=-1))

    _, (energies, distances) = jax.jit(lambda s: jax.lax.scan(sample, s, None, length=rounds))(state)
    return np.asarray(energies), np.asarray(distances)


# --- what a person sees ----------------------------------------------------------------------------------------------


def draw(file: Path, curve: np.ndarray, energies: np.ndarray, distances: np.ndarray) -> None:
    """Draw the energy during training, and how far apart the electrons are."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    blue = "#1f5fa8"
    left.semilogy(np.abs(curve[:, 0] - EXACT), color=blue, lw=0.6, label="|energy - exact|")
    left.semilogy(curve[:, 1], color="0.6", lw=0.8, label="spread of local energies")
    left.axhline(abs(energies.mean() - EXACT), color="black", lw=1, ls=":", label="error after training")
    left.set(xlabel="training step", ylabel="hartree", title="Two electrons in a trap: 2 hartree exactly")
    left.legend(frameon=False)
    r = np.linspace(0, 8, 200)
    exact = r**2 * (1 + r / 2) ** 2 * np.exp(-(r**2) / 4)
    right.hist(distances.ravel(), bins=80, range=(0, 8), density=True, color=blue, alpha=0.4, label="walkers")
    right.plot(r, exact / (exact.sum() * (r[1] - r[0])), color="black", lw=1, label="exact")
    right.set(xlabel="distance of the electrons (bohr)", ylabel="probability (1/bohr)", title="They keep apart")
    right.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Find the ground state of two electrons in a trap.")
    parser.add_argument("--steps", type=int, help="training steps (600)")
    parser.add_argument("--walkers", type=int, help="walkers (512)")
    parser.add_argument("--seed", type=int, default=0, help="seed of parameters and walkers (0)")
    parser.add_argument("--out", type=Path, default=ROOT / "examples/out/quantum_monte_carlo.png", help="the figure")
    parser.add_argument("--quick", action="store_true", help="a tiny network; the energy is not checked")
    options = parser.parse_args(arguments)
    steps = (4 if options.quick else 600) if options.steps is None else options.steps
    walkers = (16 if options.quick else 512) if options.walkers is None else options.walkers
    if steps < 1 or walkers < 2:
        parser.error(f"--steps is {steps} and --walkers {walkers}; at least 1 step and 2 walkers are needed")

    console, start = Console(), time.perf_counter()
    model = LocalEnergy(WaveFunction(6, 1, 1) if options.quick else WaveFunction())
    state, curve = train(model, walkers, steps, options.seed)
    energies, distances = measure(model, state, 2 if options.quick else 100)
    draw(options.out, curve, energies, distances)

    error = energies.mean() - EXACT
    uncertain = energies.mean(0).std() / np.sqrt(walkers)  # walkers are independent, steps of one are not
    table = Table("Quantity", title="Two electrons in a harmonic trap", caption=f"{time.perf_counter() - start:.0f} s")
    table.add_column("hartree", justify="right")
    rows = ("energy", f"{energies.mean():.5f} ± {uncertain:.5f}"), ("exact", f"{EXACT:.5f}")
    for row in (*rows, ("spread of local energies", f"{energies.std():.5f}")):
        table.add_row(*row)
    console.print(f"Figure: {options.out}", soft_wrap=True)
    console.print(table)
    if not options.quick and not abs(error) < MAX_ERROR:
        print(f"FAILED: the energy is off by {error:+.5f} hartree, expected at most {MAX_ERROR}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
