"""Settings of a sweep: jobs that differ in nothing but a seed, and what their errors come to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum, isfinite, nan, sqrt
from statistics import fmean
from typing import Any

from pesloss.report.sweep.reading import Job, Sweep
from pesloss.sweeps.settings import is_seed, without_seeds


@dataclass(frozen=True)
class Mean:
    """Mean and spread of an error over the seeds of a setting.

    Args:
        value: the mean.
        spread: standard deviation of the sample, √(Σ(x − mean)²/(n − 1)); ``None`` of a single seed.
        num: over how many seeds; those without a finite value are not among them.
    """

    value: float
    spread: float | None
    num: int

    @property
    def ends(self) -> tuple[float, float]:
        """The mean less and plus the spread; it is drawn down to half of the mean, errors being positive."""
        spread = self.spread or 0.0
        return max(self.value - spread, self.value / 2), self.value + spread


@dataclass(frozen=True)
class Setting:
    """Jobs that differ in nothing but a seed.

    Args:
        values: of what varies, by key, without seeds; a job that lacks a key lacks it here.
        jobs: the seeds.
    """

    values: Mapping[str, Any]
    jobs: Sequence[Job]

    @cached_property
    def is_dropped(self) -> bool:
        """Whether no seed finished, but one was stopped early, whose errors are of fewer epochs."""
        states = {job.state for job in self.jobs}
        return "finished" not in states and "dropped" in states

    @cached_property
    def counted(self) -> list[Job]:
        """The jobs that means are over: finished ones; dropped ones if there are no others."""
        state = "dropped" if self.is_dropped else "finished"
        return [job for job in self.jobs if job.state == state]

    def mean(self, column: str) -> Mean | None:
        """Mean and spread of an error over the seeds; ``None`` if no seed has a finite one."""
        found = [value for job in self.counted if isfinite(value := job.errors.get(column, nan))]
        if not found:
            return None
        value = fmean(found)
        spread = (
            sqrt(fsum((one - value) ** 2 for one in found) / (len(found) - 1)) if len(found) > 1 else None
        )
        return Mean(value, spread, len(found))

    def best_job(self, column: str) -> Job | None:
        """The seed with the lowest error."""
        finite = [job for job in self.counted if isfinite(job.errors.get(column, nan))]
        return min(finite, key=lambda job: job.errors[column], default=None)


def setting_keys(sweep: Sweep) -> list[str]:
    """What varies, without seeds."""
    return [key for key in sweep.keys if not is_seed(key)]


def settings_of(sweep: Sweep) -> list[Setting]:
    """The settings of a sweep, in the order in which their first jobs were planned."""
    found: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in sweep.jobs:
        values = without_seeds(job.swept)
        found.setdefault(tuple(sorted((k, as_key(v)) for k, v in values.items())), []).append(job)
    return [Setting(without_seeds(jobs[0].swept), tuple(jobs)) for jobs in found.values()]


def as_key(value: Any) -> str:
    """A value of any type for comparing: 1 and 1.0 are one value, 1 and "1" are two.

    Example:
        >>> as_key(1) == as_key(1.0), as_key(1) == as_key("1"), as_key(True) == as_key(1)
        (True, False, False)
    """
    plain = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return json.dumps(plain, sort_keys=True, default=str)
