"""A report says the same in every format, whatever is in it."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser

import pytest
from rich.console import Console

from pesloss.checks import Finding, Report, Table
from pesloss.checks.findings import named
from pesloss.checks.rendering import FORMATS, show, write

NASTY = "<script>alert('1|2')</script> [bold]energy[/] `x`"
FOUND = (
    Finding("note", "units", "A note."),
    Finding("error", "labels", f"An error about {NASTY}.", ("a.xyz, structure 3 (C2H6O)",), 12),
    Finding("warning", "outliers", "A warning."),
)
NUMBERS = Table("Labels", ("term", "labelled", "RMS [eV/Å]"), (("forces", 12, 0.123456), (NASTY, 0, None)))


def report() -> Report:
    return Report.of([*FOUND, NUMBERS], {"loss": "energy"})


def printed(one: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(one, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def as_read(page: str) -> str:
    class Reader(HTMLParser):
        text = ""

        def handle_starttag(self, tag, attrs):
            assert tag != "script"

        def handle_data(self, data):
            self.text += data

    reader = Reader()
    reader.feed(page)
    return reader.text


def test_the_worst_is_first():
    assert [finding.level for finding in report().findings] == ["error", "warning", "note"]


def test_the_verdict_counts():
    assert report().verdict() == "1 error, 1 warning, 1 note"
    assert Report.of([*FOUND, FOUND[0]]).verdict() == "1 error, 1 warning, 2 notes"
    assert Report().verdict() == "nothing to complain of"


@pytest.mark.parametrize(
    "text",
    [
        lambda one: printed(one),
        FORMATS["md"],
        lambda one: as_read(FORMATS["html"](one)),
        lambda one: json.loads(FORMATS["json"](one)) and FORMATS["json"](one),
    ],
)
def test_every_format_says_everything(text):
    said = text(report())
    for finding in FOUND:
        assert finding.level in said and finding.message in said
    assert "a.xyz, structure 3 (C2H6O)" in said and "RMS [eV/Å]" in said
    assert "0.1235" in said or "0.123456" in said


def test_json_is_json_where_a_number_is_none():
    table = Table("Labels", ("RMS",), ((float("nan"),), (float("inf"),)))
    plain = json.loads(FORMATS["json"](Report.of([table])), parse_constant=pytest.fail)
    assert plain["tables"][0]["rows"] == [[None], [None]]


def test_a_markdown_table_keeps_its_columns():
    lines = [line for line in FORMATS["md"](report()).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_files_are_written(tmp_path):
    assert [path.name for path in write(report(), tmp_path)] == ["check.md", "check.html", "check.json"]
    assert "1 error" in (tmp_path / "check.md").read_text(encoding="utf-8")


def test_a_row_has_a_value_for_each_column():
    with pytest.raises(ValueError, match="has columns"):
        Table("Labels", ("term", "RMS"), (("energy",),))


def test_names_in_a_row():
    assert named([]) == ""
    assert named(["a", "b"], most=2) == "a, b"


def test_a_table_without_a_column():
    left = NUMBERS.without("labelled")
    assert left.columns == ("term", "RMS [eV/Å]")
    assert left.rows == (("forces", 0.123456), (NASTY, None))
