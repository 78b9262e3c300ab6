"""The guides hold what they assert: their code cells, run as one program each, as `make docs` runs them too."""

import re
from pathlib import Path

import pytest

PAGES = sorted(p for p in (Path(__file__).parents[1] / "docs" / "guides").glob("*.md") if p.stem != "index")


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_guide_runs(page):
    cells = re.findall(r"```\{code-cell\} python3\n(.*?)```", page.read_text(), re.DOTALL)
    program = "\n".join(cells)
    assert "assert " in program
    exec(compile(program, str(page), "exec"), {"__name__": "guide"})


def test_index_lists_every_guide():
    listed = (PAGES[0].parent / "index.md").read_text().split("```{toctree}")[1].split()
    assert {p.stem for p in PAGES} <= set(listed)
