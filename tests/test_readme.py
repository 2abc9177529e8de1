"""The README says what the code says, and its example runs."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from pathlib import Path

import pytest
import yaml

import pesloss

ROOT = Path(__file__).parent.parent
PAGES = {
    path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))
BLOCKS = [
    (f"{page}: {language}", code)
    for page, text in PAGES.items()
    for language, code in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
]
COMPLETE = [code for name, code in BLOCKS if name.endswith("python") and "import" in code]


@pytest.mark.parametrize("page", TABLES["PAGES"])
def test_the_tables_are_those_of_the_code(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert TABLES["written"](page, text) == text, "run: python docs/tables.py"


@pytest.mark.parametrize("code", COMPLETE)
def test_an_example_prints_what_it_says(code):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "example", "exec"), {})
    assert "# " + out.getvalue().strip().replace("\n", "\n# ") in code


@pytest.mark.parametrize("code", [code for name, code in BLOCKS if name.endswith("yaml")])
def test_the_configs_are_yaml(code):
    assert isinstance(yaml.safe_load(code), dict)


def test_a_property_of_your_own_comes_from_a_config():
    node = next(yaml.safe_load(code) for name, code in BLOCKS if name == "extending: yaml")
    assert pesloss.TotalLoss(node["terms"]).required["mtt::etot"].unit == "eV"


def test_every_dependency_is_pinned_in_the_constraints():
    project = (ROOT / "pyproject.toml").read_text()
    names = set(re.findall(r'^\s*"([A-Za-z0-9-]+)>=', project, re.MULTILINE)) | set(
        re.findall(r'[\[ ]"([A-Za-z0-9-]+)>=', project)
    )
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]}
    assert names <= pinned
