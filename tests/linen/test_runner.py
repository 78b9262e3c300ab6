"""`python -m liftax.linen`: a program written for Linen computes what it does on Flax, and late calls are refused."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import flax.linen
import pytest

import liftax.linen
from liftax import errors
from liftax.linen.__main__ import main
from liftax.linen.addresses import LinenFinder, counterpart

HERE = Path(__file__).parent
SRC = str(HERE.parents[1] / "src")


def run(*argv: str, cwd: Path = HERE, **env: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join(filter(None, [SRC, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, **env},
    )


def result(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def test_script_equals_linen_to_the_bit():
    theirs = result(run("program.py", "--a", "1"))
    done = run("-m", "liftax.linen", "program.py", "--a", "1")
    ours = result(done)
    assert theirs["module"] == "flax.linen.module" and ours["module"] == "liftax.module.module"
    assert [ours[k] for k in ("names", "values", "error", "argv")] == [
        theirs[k] for k in ("names", "values", "error", "argv")
    ]
    assert ours["argv"] == ["--a", "1"]
    assert ours["others"] == [True, "liftax.core.scope", "liftax.nn.partitioning"]
    assert [line for line in done.stderr.decode().splitlines() if line.startswith("liftax.linen: flax.linen")]


@pytest.mark.long
def test_module_pytest_and_its_workers(tmp_path: Path):
    """With workers, which are processes of their own: their conftest and tests see liftax as well."""
    (tmp_path / "conftest.py").write_text("from flax import linen\nassert linen.__name__ == 'liftax.nn'\n")
    test = """
import sys
import flax
import pytest
import flax.core.lift
import flax.linen as nn
from flax import errors
import liftax

def test_what_is_liftax():
    assert nn is liftax.nn and flax.core.lift is liftax.core.lift and flax.core is liftax.core
    assert nn.module._context.module_stack[-1] is None
    with pytest.raises(AttributeError):
        nn.module._derive_profiling_name
    with pytest.raises(ModuleNotFoundError, match="flax.linen.experimental"):
        import flax.linen.experimental

def test_flags():
    with pytest.raises(errors.FlaxError, match="flax_return_frozendict"):
        flax.config.update("flax_return_frozendict", True)
    flax.config.update("flax_return_frozendict", False)

def test_second_call_changes_nothing():
    import liftax.linen
    finders = list(sys.meta_path)
    assert "liftax" in liftax.linen.install() and sys.meta_path == finders
"""
    (tmp_path / "test_sample.py").write_text(test)
    done = run(
        "-m", "liftax.linen", "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", str(tmp_path), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"3 passed" in done.stdout


@pytest.mark.long
def test_status_of_the_program_and_sys_path(tmp_path: Path):
    (tmp_path / "beside.py").write_text("status = 3\n")
    (tmp_path / "script.py").write_text("import sys, beside\nsys.exit(beside.status)\n")
    assert run("-m", "liftax.linen", str(tmp_path / "script.py"), cwd=HERE).returncode == 3


@pytest.mark.long
def test_flags_that_are_set_before(tmp_path: Path):
    done = run("-m", "liftax.linen", "-m", "this", FLAX_PRESERVE_ADOPTED_NAMES="1")
    assert (
        done.returncode == 1 and b"LinenInstallError" in done.stderr and b"preserve_adopted_names = True" in done.stderr
    )


def test_refused_after_flax_was_imported():
    before = list(sys.meta_path)
    with pytest.raises(errors.LinenInstallError, match=r"flax.core and flax.linen of Flax were imported before"):
        liftax.linen.install()
    assert sys.meta_path == before and flax.linen.Dense.__module__.startswith("flax")


@pytest.mark.parametrize("argv", [[], ["-m"], ["-q", "x.py"]])
def test_usage(argv: list[str], capsys: pytest.CaptureFixture):
    assert main(argv) == 2
    assert "usage: python -m liftax.linen script.py" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture):
    assert main(["--help"]) == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["flax", "flax.struct", "flax.linens", "flax.training.train_state", "numpy"])
def test_other_modules_are_left_alone(name: str):
    assert counterpart(name) is None and LinenFinder().find_spec(name) is None
