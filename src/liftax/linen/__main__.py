"""`python -m liftax.linen script.py args`, `python -m liftax.linen -m module args`: a program for Linen, on liftax."""

import os
import runpy
import sys
from pathlib import Path

from liftax.linen.install import install

_USAGE = """\
usage: python -m liftax.linen script.py [args]
       python -m liftax.linen -m module [args]

Runs a program that is written for Flax Linen on liftax: flax.linen, flax.core and Linen's errors in flax.errors resolve
to liftax, in the program and in the packages that it imports. For tests: python -m liftax.linen -m pytest [args]"""


def main(argv: list[str]) -> int:
    """Run the program that `argv` names, as `python argv…` would, with Linen's addresses those of liftax.

    Args:
        argv: what follows `python -m liftax.linen` on the command line.

    Returns:
        The exit status: 2 if no program is named. The status of the program itself leaves as its `SystemExit`.
    """
    is_module, program = argv[:1] == ["-m"], argv[1:] if argv[:1] == ["-m"] else argv
    if not program or (not is_module and program[0].startswith("-")):
        print(_USAGE, file=sys.stdout if program[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if program[:1] in (["-h"], ["--help"]) else 2
    install()
    # the workers of pytest-xdist are processes of their own, which start with the plugins named here
    plugins = os.environ.get("PYTEST_PLUGINS")
    os.environ["PYTEST_PLUGINS"] = ",".join(filter(None, ["liftax.linen.pytest_plugin", plugins]))
    sys.argv = program
    if is_module:
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(program[0]).resolve().parent)
        runpy.run_path(program[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
