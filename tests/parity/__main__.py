"""Run and print the table: `PYTHONPATH=src python -m tests.parity [part of a name …]`.

A program that differs from Linen by more than its row allows is printed with the difference, and the exit status is 1.
"""

import collections
import sys
import time

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)

import flax.linen  # noqa: E402

from liftax import nn  # noqa: E402

from .mistakes import MISTAKES  # noqa: E402
from .scripts import SCRIPTS  # noqa: E402
from .table import Program, difference, load, plain, run  # noqa: E402


def verdict(row: Program) -> str:
    """Return what is equal, and how far, with the reasons."""
    ours, theirs = plain(run(row, nn)), plain(run(row, flax.linen))
    if wrong := difference(ours, theirs, row.rounding):
        return f"DIFFERENT: {wrong}"
    exact = not difference(ours, theirs)
    said = "equal to the bit" if exact else "equal up to rounding"
    notes = [f"{', '.join(r.parts)} to {r.ulps:g} ulp: {r.reason}" for r in row.rounding if not exact]
    notes += [f"no gradients: {row.underivable}"] * bool(row.underivable)
    return said + "".join(f"\n{'':<56}{note}" for note in notes)


def main() -> int:
    """Print each row as soon as it is known, then the totals."""
    wanted = sys.argv[1:]
    rows = [row for row in load() if not wanted or any(part in str(row) for part in wanted)]
    counts: collections.Counter[str] = collections.Counter()
    start = time.perf_counter()
    print(f"jax {jax.__version__}, flax {flax.__version__}")
    print(f"{'theme':<17}{'program':<39}variables, draws, outputs, state, gradients")
    for row in rows:
        said = verdict(row)
        counts[said.partition(":")[0].partition("\n")[0]] += 1
        print(f"{row.theme:<17}{row.name:<39}{said}", flush=True)
    seconds = time.perf_counter() - start
    print(f"{len(rows)} programs in {seconds:.0f} s: " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
    print(f"{sum(not row.underivable for row in rows)} of them with gradients")
    print(f"Beside it, test_scripts.py compares {len(SCRIPTS)} scripts, to the bit, and {len(MISTAKES)} mistakes.")
    return bool(counts["DIFFERENT"])


if __name__ == "__main__":
    sys.exit(main())
