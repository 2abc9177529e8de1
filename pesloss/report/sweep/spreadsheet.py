"""The jobs of a sweep as rows of a CSV file."""

from __future__ import annotations

import csv
import json
from io import StringIO
from typing import Any

from pesloss.report.sweep.commands import job_command
from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.reading import Job, Sweep


def as_csv(comparison: Comparison) -> str:
    """One row a job, with all its errors: numbers with all their digits, NaN where there is none."""
    sweep, text = comparison.sweep, StringIO()
    errors = list(dict.fromkeys(column for job in sweep.jobs for column in job.errors))
    table = csv.writer(text, lineterminator="\n")
    about = ("best_epoch", "epochs_done", "epochs", "seconds", "attempts", "error", "command")
    table.writerow(["job", "state", "on_front", *sweep.keys, *errors, *about])
    fronts = {id(job) for setting in comparison.front for job in setting.counted}
    for job in sweep.jobs:
        varied = [_exact(job.swept[key]) if key in job.swept else "" for key in sweep.keys]
        numbers = [job.errors.get(column, "") for column in errors]
        on_front = int(id(job) in fronts)
        table.writerow([job.name, job.state, on_front, *varied, *numbers, *_about(sweep, job)])
    return text.getvalue()


def _about(sweep: Sweep, job: Job) -> list[Any]:
    done, total = job.epochs or ("", "")
    found = [job.best_epoch, done, total, job.seconds, job.attempts, job.error, job_command(sweep, job)]
    return ["" if one is None else one for one in found]


def _exact(value: Any) -> str:
    """A value of the config with all its digits."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
