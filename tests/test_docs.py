"""The reference names every public name; the pages themselves are executed by `make docs`."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def names_on(page: str) -> set[str]:
    """Return the names that a page of the reference documents or mentions in code."""
    text = (REFERENCE / f"{page}.md").read_text()
    names = set(re.findall(r"`(\w+)`", text)) | set(re.findall(r"auto\w+:: [\w.]+\.(\w+)", text))
    for namespace, package in re.findall(r"functions:: ([\w.]+) ([\w.]+)", text):
        members = vars(importlib.import_module(namespace)).items()
        names |= {name for name, x in members if f"{getattr(x, '__module__', '')}.".startswith(f"{package}.")}
    return names


@pytest.mark.parametrize(
    "module",
    [
        "liftax.nn",
        "liftax.nn.initializers",
        "liftax.nn.fp8_ops",
        "liftax.lift",
        "liftax.ad",
        "liftax.core",
        "liftax.bridge",
    ],
)
def test_reference_names_everything(module: str):
    """Each public name stands in code on the page of its namespace, or on the page that this one says to be its own."""
    named = names_on(module.split(".")[1])
    named |= {"liftax.ad": names_on("liftax"), "liftax.lift": names_on("nn")}.get(module, set())
    namespace = vars(importlib.import_module(module))
    public = namespace.get("__all__") or [
        name for name, value in namespace.items() if not name.startswith("_") and not inspect.ismodule(value)
    ]
    assert set(public) - named == set()


@pytest.mark.parametrize(
    "module", ["liftax", "liftax.nn", "liftax.lift", "liftax.ad", "liftax.module", "liftax.testing"]
)
def test_everything_public_has_an_example(module: str):
    """Examples are executed as doctests. What JAX provides is documented there."""
    namespace = vars(importlib.import_module(module))
    public = [namespace[name] for name in namespace.get("__all__", namespace) if not name.startswith("_")]
    ours = [x for x in public if callable(x) and getattr(x, "__module__", "").startswith("liftax")]
    assert ours
    assert [x.__qualname__ for x in ours if ">>>" not in (x.__doc__ or "")] == []
