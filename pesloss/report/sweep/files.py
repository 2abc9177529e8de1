"""The files of a report; the same sweep gives the same files, to the byte."""

from __future__ import annotations

from pathlib import Path

from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.markdown import markdown
from pesloss.report.sweep.page import page
from pesloss.report.sweep.spreadsheet import as_csv


def write(comparison: Comparison, folder: Path, parity: int = 6) -> list[Path]:
    """``report.html``, ``report.csv`` and ``report.md`` in a folder.

    Args:
        comparison: what is told.
        folder: where files go.
        parity: how many members of the front are shown with their parity plots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"html": page(comparison, parity), "csv": as_csv(comparison), "md": markdown(comparison)}
    for ending, text in texts.items():
        (folder / f"report.{ending}").write_text(text, encoding="utf-8", errors="backslashreplace")
    return [folder / f"report.{ending}" for ending in texts]
