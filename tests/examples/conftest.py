"""How the tests get a program of `examples/`, as it is and on Flax Linen."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OURS, LINENS = "from liftax import nn\n", "from flax import linen as nn\n"


@pytest.fixture(scope="session")
def load() -> Callable[..., ModuleType]:
    """`(name, linen=False) -> module`: the program, imported not run, with the one import line or the other."""

    def load(name: str, linen: bool = False) -> ModuleType:
        file = EXAMPLES / f"{name}.py"
        source = file.read_text(encoding="utf-8")
        assert source.count(OURS) == 1
        module = ModuleType(name)
        module.__file__ = str(file)
        exec(compile(source.replace(OURS, LINENS if linen else OURS), file, "exec"), module.__dict__)
        return module

    return load
