"""What the folder of a sweep tells: its jobs, what varied, how they ended, with which errors."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

from pesloss.sweeps import records
from pesloss.sweeps.running import is_killed

STATES = ("finished", "dropped", "running", "interrupted", "failed", "not begun")
"""How far a job may have come; ``dropped`` was stopped early because others were better."""
UNIT = re.compile(r"(?P<name>.*) \[(?P<unit>[^\[\]]*)\]")


@dataclass(frozen=True)
class ErrorName:
    """An error of a model on one part of the data, as ``metrics.json`` names it.

    Args:
        split: ``val`` or ``test``.
        name: property and kind, ``forces/mae_component``.
        unit: such as ``meV/Å``.

    Example:
        >>> forces = ErrorName.of("val/forces/mae_component [meV/Å]")
        >>> forces.name, forces.unit, forces.label
        ('forces/mae_component', 'meV/Å', 'forces MAE (component)')
    """

    split: str
    name: str
    unit: str

    @classmethod
    def of(cls, column: str) -> ErrorName:
        """The error that a column of ``metrics.json`` or ``epochs.csv`` holds."""
        found = UNIT.fullmatch(column)
        whole, unit = (column, "") if found is None else (found["name"], found["unit"])
        split, _, name = whole.partition("/")
        return cls(split, name, unit)

    @property
    def column(self) -> str:
        """Its name in ``metrics.json`` and ``epochs.csv``."""
        return f"{self.split}/{self.name}" + (f" [{self.unit}]" if self.unit else "")

    @property
    def label(self) -> str:
        """Its name in words, without the unit."""
        of, _, kind = self.name.rpartition("/")
        kind, _, entries = kind.partition("_")
        words = f"{of} {kind.upper() if kind in ('mae', 'rmse') else kind}"
        return words + (f" ({entries})" if entries else "")


@dataclass(frozen=True)
class Job:
    """One training of a sweep.

    Args:
        folder: where its files are.
        state: one of :data:`STATES`.
        overrides: its command line.
        swept: what varies in the sweep, by key; typed values.
        errors: of the best epoch by their column in ``metrics.json``; empty until the job has ended. They may
            be infinite or NaN.
        score: column of the error that chose the best epoch; empty if it is not known.
        best_epoch: the epoch that was the best.
        epochs: those that are done, and all; ``None`` if it is not known.
        seconds: that the training took.
        error: what ended a failed job, in a sentence.
        attempts: how often it was started.
    """

    folder: Path
    state: str
    overrides: Sequence[str] = ()
    swept: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    score: str = ""
    best_epoch: int | None = None
    epochs: tuple[int, int] | None = None
    seconds: float | None = None
    error: str = ""
    attempts: int = 0

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    def curves(self) -> dict[str, list[float]]:
        """Columns of ``epochs.csv``, empty if there is none; what cannot be read is NaN."""
        try:
            with (self.folder / "epochs.csv").open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error):
            return {}
        if len(rows) < 2:
            return {}
        whole = [row for row in rows[1:] if len(row) == len(rows[0])]  # the last may be half written
        return {name: [as_float(row[i]) for row in whole] for i, name in enumerate(rows[0])}


@dataclass(frozen=True)
class Sweep:
    """All jobs of a sweep.

    Args:
        folder: of the sweep.
        command: the command line that started it, empty if it is not known.
        jobs: in the order in which they were planned.
    """

    folder: Path
    command: Sequence[str]
    jobs: Sequence[Job]

    @property
    def keys(self) -> list[str]:
        """What varies, in the order of the command line."""
        return list(dict.fromkeys(key for job in self.jobs for key in job.swept))

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are in each state; they add up to the number of jobs."""
        return {state: sum(job.state == state for job in self.jobs) for state in STATES}

    def errors(self, split: str) -> list[ErrorName]:
        """The errors that any job has on a split."""
        columns = dict.fromkeys(column for job in self.jobs for column in job.errors)
        return [error for error in map(ErrorName.of, columns) if error.split == split]


def read_sweep(folder: Path) -> Sweep:
    """Read all that the folder of a sweep tells, whether the sweep has ended or still runs.

    A record that cannot be read belongs to a job that counts as failed. Nothing is written.

    Raises:
        FileNotFoundError: if the folder holds no job of a sweep.
    """
    record = records.Sweep(folder)
    planned = {job.folder: job for job in record.jobs()}
    found = sorted(path.parent.name for path in folder.glob(f"*/{records.RECORD}"))
    jobs = [_job(folder / name, planned.get(name)) for name in dict.fromkeys([*planned, *found])]
    if not jobs:
        raise FileNotFoundError(
            f"There is no sweep in {folder}: neither a {records.SWEEP} that names jobs nor folders with a "
            f"{records.RECORD}. Give the folder that hydra.sweep.dir named, by default one below multirun."
        )
    return Sweep(folder, _strings(record.about.get("command")), jobs)


def as_float(value: object) -> float:
    """A number as it is read from a file; NaN for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return nan


def _job(folder: Path, planned: records.Planned | None) -> Job:
    """A job by its record, or by what was planned if it has not begun."""
    try:
        record = records.read(folder)
    except records.RecordError as error:
        return _begun(folder, planned, "failed", error=str(error))
    if record is None:
        return _begun(folder, planned, "not begun")
    result, told = _dict(record.result), record.error or {}
    score = _dict(result.get("score"))
    best, seconds = score.get("epoch"), as_float(result.get("seconds"))
    return Job(
        folder=folder,
        state=_state(folder, record),
        overrides=_strings(list(record.overrides)),
        # more may vary since it was begun
        swept={**({} if planned is None else planned.swept), **record.swept},
        errors=_errors(result),
        score=_column(score),
        best_epoch=best if isinstance(best, int) else None,
        epochs=_epochs(record.epochs),
        seconds=seconds if isfinite(seconds) else None,
        error=": ".join(str(told[key]) for key in ("type", "message") if told.get(key)),
        attempts=record.attempts,
    )


def _begun(folder: Path, planned: records.Planned | None, state: str, error: str = "") -> Job:
    """A job of which no more is known than what was planned."""
    overrides, swept = ([], {}) if planned is None else (list(planned.overrides), planned.swept)
    return Job(folder, state, overrides, swept, error=error)


def _state(folder: Path, record: records.Record) -> str:
    """The state of a job; one that was killed could not write down that it no longer runs."""
    return records.INTERRUPTED if is_killed(folder, record) else record.state


def _errors(result: Mapping[str, Any]) -> dict[str, float]:
    """The errors of a job's best epoch, without those by group."""
    metrics = _dict(result.get("metrics"))
    return {name: as_float(value) for name, value in metrics.items() if "=" not in name}


def _column(score: Mapping[str, Any]) -> str:
    return (
        ErrorName("val", str(score["name"]), str(score.get("unit") or "")).column if "name" in score else ""
    )


def _epochs(value: object) -> tuple[int, int] | None:
    match value:
        case [int(done), int(total)]:
            return done, total
    return None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []
