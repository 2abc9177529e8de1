"""The README says what the code says, and its example runs."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def test_the_tables_are_those_of_the_code():
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    assert tables["written"](README) == README, "run: python docs/tables.py"


def test_the_example_prints_what_it_says():
    code = next(block for language, block in BLOCKS if language == "python" and "import" in block)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue().strip() in code


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "yaml"])
def test_the_configs_are_yaml(block):
    assert isinstance(yaml.safe_load(block), dict)


def test_every_dependency_is_pinned_in_the_constraints():
    project = (ROOT / "pyproject.toml").read_text()
    names = set(re.findall(r'^\s*"([A-Za-z0-9-]+)>=', project, re.MULTILINE)) | set(
        re.findall(r'[\[ ]"([A-Za-z0-9-]+)>=', project)
    )
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]}
    assert names <= pinned
