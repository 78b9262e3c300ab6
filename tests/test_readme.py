"""The README's Python blocks run, in order and in one namespace."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_readme_blocks_run():
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert namespace["forces"].shape == (4, 3)
    assert abs(namespace["slope"] - 0.5403023) < 1e-6  # cos(1)


def test_readme_names_files_that_exist():
    links = re.findall(r"\]\((?!#)([^)]+)\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link).is_file(), link
