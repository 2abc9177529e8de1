"""What a person reads on the terminal: the best settings, and what failed."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pesloss.names import visible
from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.tables import counted, headed, rows, sentences

SHOWN = 10
"""Settings and failures; the files have them all."""


def show(comparison: Comparison, console: Console) -> None:
    """Print the best settings with their errors, then the failures."""
    console.print(f"{counted(comparison.sweep)}.", highlight=False)
    if comparison.columns:
        console.print(_settings(comparison))
    for sentence in sentences(comparison):
        _say(console, sentence)
    failed = [job for job in comparison.sweep.jobs if job.state == "failed"]
    for job in failed[:SHOWN]:
        _say(console, f"failed: {' '.join(job.overrides)}: {job.error}")
    if len(failed) > SHOWN:
        _say(console, f"{len(failed) - SHOWN} more failures are in the report.")


def _settings(comparison: Comparison) -> Table:
    left = len(comparison.settings) - SHOWN
    caption = f"{left} more in the report" if left > 0 else None
    title = f"Errors of the {comparison.structures} structures"
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption=caption,
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    for name in headed(comparison):
        table.add_column(escape(visible(_broken(name))), justify="right", overflow="fold")
    digits = [*comparison.digits.values()]
    for row in rows(comparison)[:SHOWN]:
        means = [
            f"[bold]{digit.mean(mean)}[/]" if is_best else digit.mean(mean)
            for digit, mean, is_best in zip(digits, row.means, row.is_best, strict=True)
        ]
        values = [escape(visible(text)) for text in row.values]
        table.add_row(str(row.rank or ""), str(row.front or ""), *values, *means, row.seeds, row.note)
    return table


def _broken(name: str) -> str:
    """A head in lines, so that numbers have room."""
    return name.replace(" [", "\n[").replace(" (", "\n(") if " " in name else name.replace(".", ".\n")


def _say(console: Console, sentence: str) -> None:
    console.print(visible(sentence), markup=False, highlight=False, soft_wrap=True)
