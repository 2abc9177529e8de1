"""A report of checks for the terminal, and as Markdown, a page for browsers, and JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pesloss.checks.findings import Finding, Report, Table, Value

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def as_text(value: Value) -> str:
    """A value in a table.

    Example:
        >>> [as_text(value) for value in (None, "Si", 214, 0.0123456, float("nan"))]
        ['', 'Si', '214', '0.01235', 'nan']
    """
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show(report: Report, console: Console) -> None:
    """Print a report: tables, then findings, the worst last, where a reader looks first."""
    for table in report.tables:
        console.print(rich_table(table))
    for finding in reversed(report.findings):
        tell(finding, console)
    console.print(report.verdict(), highlight=False)


def tell(finding: Finding, console: Console) -> None:
    """Print a finding and the structures it is about."""
    colour = COLOURS[finding.level]
    line = f"[{colour}]{finding.level}[/]: {escape(finding.message)}"
    console.print(line, highlight=False, soft_wrap=True)
    for name in finding.structures:
        console.print(f"    {name}", markup=False, highlight=False, soft_wrap=True)


def rich_table(table: Table) -> RichTable:
    """The same for the terminal."""
    style = {"title_justify": "left", "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    drawn = RichTable(title=escape(table.title), **style)
    rows = [[as_text(value) for value in row] for row in table.rows]
    for place, (column, right) in enumerate(zip(table.columns, _numeric(table), strict=True)):
        # numbers stay whole, names of columns and words may go on in the next line
        width = max((len(row[place]) for row in rows), default=0) if right else None
        justify = "right" if right else "left"
        drawn.add_column(escape(column), justify=justify, min_width=width, overflow="fold")
    for row in rows:
        drawn.add_row(*map(escape, row))
    return drawn


def markdown(report: Report) -> str:
    """The same as Markdown."""
    lines = ["# Check", "", f"{report.verdict().capitalize()}.", ""]
    lines += [f"- {name}: {words}" for name, words in report.about.items()]
    for finding in report.findings:
        lines += ["", f"**{finding.level}** ({finding.check}): {finding.message}"]
        lines += ["", *(f"- {name}" for name in finding.structures)] if finding.structures else []
    for table in report.tables:
        lines += ["", f"## {table.title}", "", *_markdown_rows(table)]
    return "\n".join(lines) + "\n"


def page(report: Report) -> str:
    """The same as a page that needs no other file."""
    about = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(words)}</dd>" for name, words in report.about.items())
    findings = "".join(map(_html_finding, report.findings))
    tables = "".join(map(_html_table, report.tables))
    verdict = _safe(report.verdict().capitalize())
    return _PAGE.format(verdict=verdict, about=about, findings=findings, tables=tables)


def as_json(report: Report) -> str:
    """The same for programs; what is not a number is null."""
    plain = json.loads(json.dumps(report.as_dict(), default=float), parse_constant=lambda _: None)
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


FORMATS: Mapping[str, Callable[[Report], str]] = {"md": markdown, "html": page, "json": as_json}
"""By the ending of the file."""


def write(report: Report, folder: Path, endings: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """``check.md``, ``check.html`` and ``check.json`` in a folder."""
    paths = [folder / f"check.{ending}" for ending in endings]
    for path, ending in zip(paths, endings, strict=True):
        path.write_text(FORMATS[ending](report), encoding="utf-8")
    return paths


def _numeric(table: Table) -> list[bool]:
    """Which columns hold numbers."""
    columns = zip(*table.rows, strict=True) if table.rows else ((),) * len(table.columns)
    return [not any(isinstance(value, str) for value in column) for column in columns]


def _markdown_rows(table: Table) -> list[str]:
    ends = ["---:" if right else "---" for right in _numeric(table)]
    rows = [table.columns, ends, *([as_text(value) for value in row] for row in table.rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _html_finding(finding: Finding) -> str:
    names = "".join(f"<li>{_safe(name)}</li>" for name in finding.structures)
    listed = f"<ul>{names}</ul>" if names else ""
    level = f'<span class="{finding.level}">{finding.level}</span>'
    return f"<section>{level} <b>{_safe(finding.check)}</b><p>{_safe(finding.message)}</p>{listed}</section>"


def _html_table(table: Table) -> str:
    kinds = [' class="n"' if right else "" for right in _numeric(table)]
    head = "".join(f"<th{k}>{_safe(column)}</th>" for k, column in zip(kinds, table.columns, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(f"<td{k}>{_safe(as_text(v))}</td>" for k, v in zip(kinds, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
    return f"<h2>{_safe(table.title)}</h2><div><table><tr>{head}</tr>{rows}</table></div>"


def _safe(text: str) -> str:
    return html.escape(text)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Check</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
dt {{ float: left; clear: left; width: 11rem; color: #666 }} dd {{ margin-left: 11rem }}
section {{ border-left: 3px solid #ddd; padding: .1rem .9rem; margin: .8rem 0 }}
section p {{ margin: .2rem 0 }}
ul {{ margin: .2rem 0; color: #555; font-size: .9em }}
.error, .warning, .note {{ color: #fff; border-radius: 3px; padding: 0 .45em; font-size: .85em }}
.error {{ background: #b3261e }} .warning {{ background: #a15c00 }} .note {{ background: #2f6f9f }}
div {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: .9em }}
th, td {{ padding: .2rem .7rem; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top }}
th.n, td.n {{ text-align: right; font-variant-numeric: tabular-nums }}
</style></head><body>
<h1>{verdict}</h1><dl>{about}</dl>{findings}{tables}
</body></html>
"""
