"""The story of a sweep in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pesloss.report.sweep.commands import job_command, sweep_command
from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.tables import counted, headed, rows, sentences


def markdown(comparison: Comparison) -> str:
    """Counts, settings with their errors, failures, and the command of every job."""
    sweep, command = comparison.sweep, sweep_command(comparison.sweep)
    lines = [f"# Sweep {_plain(sweep.folder.resolve().name)}", ""]
    lines += [*_code([command]), ""] if command else []
    for sentence in (f"{counted(sweep)}.", *sentences(comparison)):
        lines += [_plain(sentence), ""]
    lines += ["## Settings", "", *_settings(comparison), ""]
    if failures := [*_failures(comparison)]:
        lines += ["## Failures", "", *failures, ""]
    commands = [f"{job_command(sweep, job)}  # {job.state}" for job in sweep.jobs]
    return "\n".join([*lines, "## Commands", "", *_code(commands), ""])


def _settings(comparison: Comparison) -> Iterator[str]:
    """The table of settings, the best first."""
    digits, heads = [*comparison.digits.values()], headed(comparison)
    yield _line(map(_plain, heads))
    yield _line(["---:"] * (len(heads) - 1) + ["---"])
    for row in rows(comparison):
        means = [
            f"**{digit.mean(mean)}**" if is_best else digit.mean(mean)
            for digit, mean, is_best in zip(digits, row.means, row.is_best, strict=True)
        ]
        places = [str(row.rank or ""), str(row.front or "")]
        yield _line([*places, *map(_plain, row.values), *means, row.seeds, row.note])
    yield ""
    yield (
        f"Errors of the {comparison.structures} structures; ± is the standard deviation over seeds, **bold** "
        "the lowest mean of a column, `front` a place on the Pareto front."
    )


def _failures(comparison: Comparison) -> Iterator[str]:
    """Jobs that failed, with what ended them."""
    for job in comparison.sweep.jobs:
        if job.state == "failed":
            yield f"- {_plain(' '.join(job.overrides) or job.name)}: {_plain(job.error)}"


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    return " ".join(re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text).split())


def _code(lines: Sequence[str]) -> list[str]:
    """A block that nothing in it can end."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", *lines, fence]
