"""The rules that keep the code base in shape: layers, private JAX, file sizes, what an import brings in."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "liftax"
FILES = sorted(SRC.rglob("*.py"))
MAX_LINES = 500

# What each layer may import, itself aside; a layer is a file or folder right under src/liftax.
BASE = {"_compat", "jaxprs", "typing", "errors"}
GROUND = BASE | {"explain"}
ALLOWED = {
    **dict.fromkeys(BASE, BASE),
    "explain": BASE,
    "ad": GROUND,
    "core": GROUND,
    "lift": GROUND | {"ad", "core"},
    "module": GROUND | {"ad", "core", "lift"},
    "nn": GROUND | {"ad", "core", "lift", "module"},
    "testing": GROUND | {"ad", "core", "lift", "module", "nn"},
    "bridge": GROUND | {"ad", "core", "lift", "module", "nn"},
    "linen": GROUND | {"ad", "core", "lift", "module", "nn"},
    "__init__": GROUND | {"ad", "core", "lift", "module", "nn", "testing", "bridge"},
}

# Files that only give the names of higher layers the address that Linen has for them. They import what `nn` may.
ADDRESSES = {"liftax.core.lift"}

PRIVATE_JAX = re.compile(r"jaxlib\b|jax\.(interpreters|extend)\b|jax\.(\w+\.)*_(?!_)\w+")


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str, str | None]]:
    """Yield `(line, module, name)` of each import; `name` is what `from module import name` takes.

    Imports under `if TYPE_CHECKING` exist for the type checker alone and are left out.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            for other in node.orelse:
                yield from imports(ast.Module([other], []), module, is_package)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = package[: len(package) - (node.level - 1)]
                source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, source, alias.name
        else:
            yield from imports(node, module, is_package)


def private_jax(source: str) -> list[str]:
    """Return each use of private or semi-private JAX in `source`, as `line: name`."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    uses: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                uses.append((node.lineno, alias.name))
                aliases[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                uses.append((node.lineno, f"{node.module}.{alias.name}"))
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            uses.append((node.lineno, f"{aliases.get(root, '')}.{rest}"))
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[\w.]+", str(node.value)):
            uses.append((node.lineno, str(node.value)))  # importlib.import_module("jax._src")
    return [f"{line}: {name}" for line, name in uses if PRIVATE_JAX.match(name)]


def layer_violations(source: str, module: str, is_package: bool) -> list[str]:
    """Return each import in `source` that its layer may not make, as `line: imported`."""
    layer = module.split(".")[1] if module != "liftax" else "__init__"
    allowed = ALLOWED["testing" if module in ADDRESSES else layer]
    bad = []
    for line, imported, name in imports(ast.parse(source), module, is_package):
        parts = imported.split(".")
        if parts[0] != "liftax":
            continue
        if len(parts) > 1:
            targets = {parts[1]}
        elif name in ALLOWED:
            targets = {name}
        else:
            targets = {"__init__"}  # `import liftax`, `from liftax import vjp`
        for target in targets - {layer} - allowed:
            bad.append(f"{line}: {layer} imports {target}")
    return bad


def module_name(path: Path) -> tuple[str, bool]:
    parts = ["liftax", *path.relative_to(SRC).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if is_package else parts), is_package


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_file_keeps_the_rules(path: Path):
    source = path.read_text()
    module, is_package = module_name(path)
    layer = path.relative_to(SRC).parts[0].removesuffix(".py")
    assert layer in ALLOWED, f"{layer} is no layer: give it a place in ALLOWED, and in the documentation"
    assert layer_violations(source, module, is_package) == []
    if layer != "_compat":
        assert private_jax(source) == []
    assert len(source.splitlines()) <= MAX_LINES, "a file this long holds more than one concept"


@pytest.mark.parametrize(
    "source",
    [
        "import jaxlib",
        "import jax._src.core",
        "import jax.interpreters.ad as ad",
        "from jax import extend",
        "from jax.interpreters import batching",
        "from jax._src import core as c",
        "import jax\njax.extend.core.Primitive",
        "import jax as j\nj._src.core",
        "from jax import numpy as jnp\njnp._private(1)",
        "import importlib\nimportlib.import_module('jax._src.core')",
        "def f():\n    from jax.extend.core import Primitive",
    ],
)
def test_private_jax_is_seen(source: str):
    assert private_jax(source)


@pytest.mark.parametrize(
    "source",
    [
        "import jax\njax.__version__",
        "import jax.numpy as jnp\njnp.sin(x)._mine",
        "self._src.x",
        "from jax.extender import x",
        "'see jax._src for the reason'",
    ],
)
def test_public_jax_is_left_alone(source: str):
    assert not private_jax(source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("liftax.ad.vjp", "from liftax.core import scope"),
        ("liftax.ad.vjp", "from ..core.scope import Scope"),
        ("liftax.core.scope", "def f():\n    import liftax.ad"),
        ("liftax.core.scope", "from liftax import lift"),
        ("liftax.lift.derivatives.vjp", "from liftax.module.module import Module"),
        ("liftax.lift.derivatives.vjp", "from ... import nn"),
        ("liftax.module.module", "import liftax.nn as nn"),
        ("liftax.nn.linear", "import liftax"),
        ("liftax.nn.linear", "from liftax import vjp"),
        ("liftax.errors", "if not TYPE_CHECKING:\n    from liftax.core import scope"),
        ("liftax.core.scope", "if TYPE_CHECKING:\n    pass\nelse:\n    from liftax.ad import vjp"),
    ],
)
def test_layer_violation_is_seen(module: str, source: str):
    assert layer_violations(source, module, is_package=False)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("liftax.lift.derivatives.vjp", "from liftax.ad import vjp\nfrom ..core import pack\nfrom .rng import fold"),
        ("liftax.core.scope", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from liftax import module"),
        ("liftax.core.scope", "import typing\nif typing.TYPE_CHECKING:\n    from liftax import nn"),
        ("liftax.testing", "from liftax import nn, errors"),
        ("liftax", "from liftax import nn"),
    ],
)
def test_allowed_import_passes(module: str, source: str):
    assert layer_violations(source, module, is_package=module == "liftax") == []


def test_import_brings_in_jax_and_nothing_else():
    """`import liftax` loads JAX, what JAX loads, and the standard library."""
    program = """
import sys, jax, jax.numpy, numpy
before = {name.partition(".")[0] for name in sys.modules}
import liftax, liftax.nn, liftax.lift, liftax.core, liftax.errors
after = {name.partition(".")[0] for name in sys.modules}
# JAX loads these by itself, some of them late
jaxs_own = {"jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum"}
print(*sorted(after - before - jaxs_own - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["liftax"]
