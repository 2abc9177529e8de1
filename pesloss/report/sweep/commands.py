"""Commands that a reader can copy: of the sweep, and of each of its jobs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pesloss.report.sweep.reading import Job, Sweep

TRAIN = ("python", "-m", "pesloss.train")
"""The program, where ``sweep.json`` does not tell it."""


def sweep_command(sweep: Sweep) -> str:
    """What started the sweep, and goes on with it; empty if it is not known."""
    return shlex.join(_runnable(sweep.command)) if sweep.command else ""


def job_command(sweep: Sweep, job: Job) -> str:
    """What trains one job alone."""
    return shlex.join([*_program(_runnable(sweep.command or TRAIN)), *job.overrides])


def _runnable(words: Sequence[str]) -> list[str]:
    """A script needs a program that runs it."""
    return ["python", *words] if words[0].endswith(".py") else [*words]


def _program(words: Sequence[str]) -> Sequence[str]:
    """The words before the arguments: ``python -m module``, ``python script.py`` or a program of its own."""
    if words[0] != "python":
        return words[:1]
    return words[:3] if words[1:2] == ["-m"] else words[:2]
