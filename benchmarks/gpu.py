"""What can only be measured on a GPU, in one script of under eight minutes: `python -m benchmarks.gpu`.

The memory table (`memory.py`) with run times and peak memory, a step of training of three networks beside the same in
plain JAX and Linen (`run.py --only networks --quick`), and a sample of the suite. Everything goes to the terminal and
to `benchmarks/results/gpu.txt`, versions and the device first. Each part has a limit of its own, so that the others
run.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "gpu.txt"
VERSIONS = (
    "import platform, jax, jaxlib; d = jax.devices()[0]; "
    "print('Python', platform.python_version(), 'jax', jax.__version__, 'jaxlib', jaxlib.__version__, d.device_kind)"
)
SUITE = ["tests/ad/memory", "tests/ad/test_vjp.py", "tests/lift/control/test_budget.py"]
PARTS = {
    "versions": (60, ["-c", VERSIONS]),
    "memory": (
        240,
        ["-m", "benchmarks.memory", "--quick", "--run", "5", "--size", "8", "--json", "benchmarks/results/gpu.json"],
    ),
    "networks": (
        100,
        ["-m", "benchmarks.run", "--only", "networks", "--quick", "--json", "benchmarks/results/gpu-networks.json"],
    ),
    "suite": (70, ["-m", "pytest", "-q", "-x", "-m", "not long", *SUITE]),
}
"""The limit in seconds and the arguments of Python, by part."""


def main() -> int:
    """Run all parts; 1 if one of them failed or ran past its limit."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    failed = []
    with RESULTS.open("w") as file:
        for name, (limit, arguments) in PARTS.items():
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=HERE.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                text, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                text, _ = process.communicate()
                text += f"\n{name} ran past its limit of {limit} s"
            if process.returncode:
                failed.append(name)
            text = f"== {name}: {time.perf_counter() - start:.0f} s, status {process.returncode}\n{text}\n"
            print(text, flush=True)
            file.write(text)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
