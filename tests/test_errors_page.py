"""The page of errors shows every class, each under a heading of its own, by a program that raises it."""

import inspect
import re
from pathlib import Path

import pytest

from liftax import errors

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "errors.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE))
CLASSES = {c.__name__ for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.LiftaxError)}
NEVER_RAISED = {"LiftaxError", "MultipleMethodsCompactError"}


def test_each_class_has_a_heading():
    assert set(SECTIONS) == CLASSES


@pytest.mark.parametrize("name", sorted(CLASSES - NEVER_RAISED))
def test_section_shows_wrong_and_right(name):
    """`wrong` demands exactly the class, and a right program follows in the same cell."""
    _, called, after = SECTIONS[name].rpartition(f"wrong(errors.{name}, ")
    assert called
    assert "\n\n" in after.split("```")[0].strip()


def test_classes_without_a_program_are_raised_nowhere():
    source = Path(errors.__file__).parent
    text = "".join(p.read_text() for p in source.rglob("*.py"))
    assert {n for n in CLASSES if not re.search(rf"\b{n}\b(?!\(LiftaxError)", text)} <= NEVER_RAISED
    for name in NEVER_RAISED:
        assert f"raise {name}" not in text
        assert f"raise errors.{name}" not in text
        assert f"| `{name}` |" in PAGE
