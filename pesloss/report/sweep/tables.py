"""The settings of a sweep as rows, for the page, Markdown and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan

from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.markup import setting_name
from pesloss.report.sweep.reading import STATES, ErrorName, Job, Sweep
from pesloss.report.sweep.settings import Mean, Setting
from pesloss.report.sweep.texts import plural, value

BESIDE = {"dropped": "stopped early"}
"""States that a reader knows by another word."""


@dataclass(frozen=True)
class Row:
    """A setting in the table of settings.

    Args:
        setting: what it is of.
        rank: its place by the score, from 1; ``None`` without a score.
        front: its place on the front.
        values: of what varies, as text; empty where a job lacks the key.
        means: by the columns of the comparison.
        is_best: by the columns, whether no other mean is lower.
        seeds: how many jobs the means are over, of how many.
        note: what became of the others.
    """

    setting: Setting
    rank: int | None
    front: int | None
    values: Sequence[str]
    means: Sequence[Mean | None]
    is_best: Sequence[bool]
    seeds: str
    note: str


def rows(comparison: Comparison) -> list[Row]:
    """A row a setting, the best first."""
    lowest = [_lowest(comparison, error) for error in comparison.columns]
    return [_row(comparison, place, setting, lowest) for place, setting in enumerate(comparison.settings, 1)]


def _lowest(comparison: Comparison, error: ErrorName) -> float:
    found = [mean.value for s in comparison.settings if (mean := comparison.mean(s, error)) is not None]
    return min(found, default=nan)


def _row(comparison: Comparison, place: int, setting: Setting, lowest: Sequence[float]) -> Row:
    means = [setting.mean(error.column) for error in comparison.columns]
    score = None if comparison.score is None else setting.mean(comparison.score.column)
    compared = zip(means, lowest, strict=True)
    return Row(
        setting=setting,
        rank=None if score is None else place,
        front=comparison.number(setting),
        values=[value(setting.values[k]) if k in setting.values else "" for k in comparison.keys],
        means=means,
        is_best=[mean is not None and not setting.is_dropped and mean.value == low for mean, low in compared],
        seeds=_seeds(setting, 0 if score is None else score.num),
        note=_note(setting, score),
    )


def _seeds(setting: Setting, num: int) -> str:
    return str(num) if num == len(setting.jobs) else f"{num} of {len(setting.jobs)}"


def _note(setting: Setting, score: Mean | None) -> str:
    """What became of the seeds that are not in the means."""
    states = Counter(job.state for job in setting.jobs if job.state != "finished")
    parts = [f"{states[state]} {BESIDE.get(state, state)}" for state in STATES if states[state]]
    lost = len(setting.counted) - (0 if score is None else score.num)
    parts += [f"{lost} without a finite error"] if lost else []
    return ", ".join(parts)


def counted(sweep: Sweep) -> str:
    """How many jobs are in each state, in words."""
    told = [f"{num} {BESIDE.get(state, state)}" for state, num in sweep.counts.items() if num]
    return f"{plural(len(sweep.jobs), 'job')}: {', '.join(told)}"


def sentences(comparison: Comparison) -> list[str]:
    """What a reader is told first."""
    if comparison.score is None:
        return ["No job has an error to compare yet."]
    found, best = [], comparison.best
    if best is not None:
        told = ", ".join(_told(comparison, best, error) for error in comparison.columns)
        found.append(f"Lowest {comparison.score.label}: {setting_name(best)}: {told}.")
    if comparison.has_front:
        compared = " / ".join(error.label for error in comparison.errors)
        num = plural(len(comparison.settings), "setting")
        found.append(f"{len(comparison.front)} of {num} on the Pareto front of {compared}.")
    finished = [job for job in comparison.sweep.jobs if job.state == "finished"]
    if lost := sum(not _is_scored(comparison, job) for job in finished):
        found.append(f"{plural(lost, 'job')} finished without a finite {comparison.score.label}.")
    return found


def _is_scored(comparison: Comparison, job: Job) -> bool:
    return comparison.score is not None and isfinite(job.errors.get(comparison.score.column, nan))


def _told(comparison: Comparison, setting: Setting, error: ErrorName) -> str:
    digits = comparison.digits[error]
    return f"{error.label} {digits.mean(setting.mean(error.column))} {error.unit}".rstrip()


def headed(comparison: Comparison) -> list[str]:
    """Names of the columns of the table of settings."""
    errors = [f"{e.label} [{e.unit}]" if e.unit else e.label for e in comparison.columns]
    return ["rank", "front", *comparison.keys, *errors, "seeds", "other seeds"]
