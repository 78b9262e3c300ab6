"""Run each program on Flax and by `python -m liftax.linen`, and print the table of docs/packages.md.

make compat                        into an environment of its own, with the packages installed
python -m tests.compat e3x         in this one
"""

import pickle
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

MEASURE = Path(__file__).with_name("measure.py")

# Package, and what runs of it.
PACKAGES = {
    "e3x": "message passing with forces by `jax.value_and_grad` in the module, ten steps of training on forces",
    "apax": "a Gaussian-moment network with forces, ten steps of training on forces",
    "transformers": "BERT with dropout: loss and gradient; GPT-2: logits, whole and with its cache",
    "numpyro": "`flax_module` in a regression, ten steps of `SVI`",
    "distrax": "a flow of masked couplings conditioned by Linen: log density and gradient",
    "brax": "policy, value and Q networks: initial parameters, outputs, gradients",
    "netket": "RBM and `ARNNDense`: initial parameters, log psi of all states, gradients",
}


def run(name: str, *runner: str) -> dict[str, Any]:
    """Return what `measure` says about a program, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.pkl")
        subprocess.run([sys.executable, *runner, str(MEASURE), name, str(out)], check=True)
        return pickle.loads(out.read_bytes())


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Say how two sets of named arrays agree: `to the bit`, or the largest difference relative to the largest value."""
    if ours.keys() != theirs.keys():
        return f"**other names**: {sorted(ours.keys() ^ theirs.keys())[:3]}"
    worst, bits = 0.0, True
    for k, x in theirs.items():
        if ours[k].shape != x.shape or ours[k].dtype != x.dtype:
            return f"**another shape or dtype**: {k}"
        bits &= ours[k].tobytes() == x.tobytes()
        scale = max(float(np.abs(x.astype("float64")).max(initial=0.0)), 1e-30)
        worst = max(worst, float(np.abs(ours[k].astype("float64") - x.astype("float64")).max(initial=0.0)) / scale)
    return "to the bit" if bits else f"up to {worst:.0e}"


def row(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Return the line of the table for two results of `measure`."""
    assert ours["module"].startswith("liftax") and theirs["module"].startswith("flax"), "not the libraries to compare"
    equal = differences(ours["values"], theirs["values"])
    ratio = ours["trace_s"] / theirs["trace_s"]
    what = f"{PACKAGES[name]} ({len(ours['values'])} arrays)"
    return f"| {name} | {metadata.version(name)} | {what} | {equal} | {ratio:.2f} |"


def main(names: list[str]) -> int:
    """Print the table of the programs called `names`, by default of all; the status is 1 if one fails or differs."""
    lines, bad = [], 0
    for name in names or PACKAGES:
        try:
            lines.append(row(name, run(name, "-m", "liftax.linen"), run(name)))
        except subprocess.CalledProcessError as error:
            lines.append(f"| {name} | | {PACKAGES[name]} | **fails**: status {error.returncode} | |")
        bad += "**" in lines[-1]
    head = "| package | version | what ran | equal | trace time / Linen |\n| --- | --- | --- | --- | --- |"
    sys.stdout.write("\n".join([head, *lines]) + "\n")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
