"""What is known of the jobs of a sweep: ``job.json`` in each job's folder, ``sweep.json`` beside the folders.

Records are replaced whole, so that whoever looks sees the one of before or the one of after.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pesloss.mistakes import explain
from pesloss.names import visible
from pesloss.sweeps.locks import holding

RECORD, SWEEP = "job.json", "sweep.json"
RUNNING, FINISHED, FAILED, INTERRUPTED, DROPPED = "running", "finished", "failed", "interrupted", "dropped"
STATES = (RUNNING, FINISHED, FAILED, INTERRUPTED, DROPPED)
ENDED = (FINISHED, DROPPED)
"""States that have a result; nothing is trained in such a folder again."""
PATIENCE = 10.0
"""Seconds to wait for another process that writes the same file."""


class RecordError(RuntimeError):
    """A file does not say what the record of a job or of a sweep says."""


@dataclass(frozen=True)
class Record:
    """A job of a sweep: what it is, how far it is, and what came of it.

    Args:
        state: one of ``STATES``.
        overrides: its command line, without Hydra's own part.
        swept: values of what varies in the sweep, by key.
        config: hash of its config.
        session: the run of the sweep's command that began it last.
        attempts: how often it was begun.
        started: when, the last time.
        ended: when it ended; ``None`` while it runs, or if it was killed.
        process: host and number of the process that trains it.
        version: of pesloss.
        epochs: how many are done, and of how many.
        result: ``score``, ``objective``, ``seconds``, ``ended`` and ``metrics`` of a job that has ended.
        error: ``type`` and ``message`` of a failure.
        files: path, size and time of the last change of the files of its data.
    """

    state: str
    overrides: Sequence[str]
    swept: Mapping[str, Any]
    config: str
    session: str = ""
    attempts: int = 1
    started: str | None = None
    ended: str | None = None
    process: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    epochs: Sequence[int] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, str] | None = None
    files: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                raise TypeError(f"its '{name}' is {getattr(self, name)!r}")
        if self.state not in STATES:
            raise ValueError(f"its 'state' is {self.state!r}, none of {', '.join(STATES)}")
        if self.has_ended != (self.result is not None):
            raise ValueError(f"it is {self.state}, and its 'result' is {self.result!r}")
        if self.result is not None:
            _check_result(self.result)

    @property
    def has_ended(self) -> bool:
        """Whether there is a result."""
        return self.state in ENDED


def _check_result(result: Mapping[str, Any]) -> None:
    score = result.get("score")
    known: set[str] = set(score) if isinstance(score, dict) else set()
    missing = _SCORE - known or {"seconds", "ended", "metrics"} - set(result)
    if missing or not isinstance(result["metrics"], dict):
        raise ValueError(f"its 'result' lacks {', '.join(sorted(missing)) or 'metrics by name'}")


_SCORE = {"name", "value", "unit", "epoch"}
_KINDS: Mapping[str, tuple[type, ...]] = {
    "state": (str,),
    "overrides": (list, tuple),
    "swept": (dict,),
    "config": (str,),
    "session": (str,),
    "attempts": (int,),
    "process": (dict,),
    "epochs": (list, tuple, type(None)),
    "result": (dict, type(None)),
    "error": (dict, type(None)),
    "files": (list, tuple),
}


def read(folder: Path) -> Record | None:
    """The record of a job; ``None`` if it never began.

    Raises:
        RecordError: if the file is damaged, or is not one of ours.
    """
    content = _read(folder / RECORD)
    if content is None:
        return None
    known = {one.name for one in fields(Record)}
    try:
        return Record(**{name: value for name, value in content.items() if name in known})
    except (TypeError, ValueError) as error:
        raise RecordError(_damaged(folder / RECORD, error)) from error


def note_epochs(folder: Path, done: int, total: int) -> None:
    """So many epochs of the job in a folder are done, which may be known in another process than its own.

    Outside a sweep it does nothing.
    """
    record = read(folder)
    if record is not None and record.state == RUNNING:
        write(folder / RECORD, asdict(replace(record, epochs=[done, total])), durable=False)


def of_config(folder: Path, config: str) -> Record | None:
    """The record in a folder; ``None`` if there is none.

    Raises:
        RecordError: if it is that of a job with another config, or damaged.
    """
    record = read(folder)
    if record is not None and record.config != config:
        raise RecordError(
            f"{folder} holds a job with another config ({' '.join(record.overrides) or 'no overrides'}). "
            "Give the sweep another folder by hydra.sweep.dir, or leave hydra.sweep.subdir out."
        )
    return record


@dataclass(frozen=True)
class Planned:
    """A job as a sweep knows it before it begins.

    Args:
        folder: its name in the folder of the sweep.
        overrides: its command line, without Hydra's own part.
        swept: values of what varies.
        session: the last run of the sweep's command that asked for it.
    """

    folder: str
    overrides: Sequence[str]
    swept: Mapping[str, Any]
    session: str = ""

    def agrees(self, swept: Mapping[str, Any]) -> bool:
        """Whether it may be the job with these values: what both say is the same.

        Example:
            >>> job = Planned("a", [], {"seed": 1})
            >>> job.agrees({"seed": 1, "model": "painn"}), job.agrees({"seed": 2})
            (True, False)
        """
        return all(str(swept[key]) == str(value) for key, value in self.swept.items() if key in swept)


class Sweep:
    """The jobs of a sweep, whoever runs them.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, jobs: Sequence[Planned], *, command: Sequence[str], session: str) -> None:
        """Note that a run of the command asks for these jobs; those of before stay known."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with holding(self.folder / f".{SWEEP}.lock", PATIENCE):
            known = {job.folder: job for job in self.jobs()}
            for job in jobs:
                before = known[job.folder].swept if job.folder in known else {}
                known[job.folder] = replace(job, swept={**job.swept, **before, **job.swept})
            content = {
                "command": list(command),
                "started": self.about.get("started") if self.session == session else now(),
                "session": session,
                "jobs": [asdict(job) for job in known.values()],
            }
            write(self.folder / SWEEP, content)

    @property
    def about(self) -> Mapping[str, Any]:
        """What ``sweep.json`` says; nothing if there is none, or none that can be read."""
        try:
            return _read(self.folder / SWEEP) or {}
        except RecordError:
            return {}

    @property
    def session(self) -> str:
        """The run of the command that asked for jobs last."""
        return str(self.about.get("session", ""))

    def by_config(self) -> dict[str, list[Planned]]:
        """Jobs that have begun, by the hash of their config."""
        found: dict[str, list[Planned]] = {}
        for job in self.jobs():
            if isinstance(record := self.record(job), Record):
                found.setdefault(record.config, []).append(job)
        return found

    def jobs(self, session: str | None = None) -> list[Planned]:
        """The jobs that were asked for, by one run of the command or by any."""
        named = [one for one in self.about.get("jobs", ()) if isinstance(one, dict) and "folder" in one]
        jobs = [
            Planned(one["folder"], one.get("overrides", []), one.get("swept", {}), one.get("session", ""))
            for one in named
        ]
        return [job for job in jobs if session in (None, job.session)]

    def has_failed(self, session: str) -> bool:
        """Whether a job has failed in a run of the command."""
        return any(
            record.state == FAILED and record.session == session
            for record in (self.record(job) for job in self.jobs(session))
            if isinstance(record, Record)
        )

    def record(self, job: Planned) -> Record | RecordError | None:
        """What is known of a job, or why nothing can be."""
        try:
            return read(self.folder / job.folder)
        except RecordError as error:
            return error


def described(error: BaseException) -> dict[str, str]:
    """An error as plain data, its message a sentence where there is one."""
    message = explain(error) or str(error).strip() or f"{type(error).__name__}, without a message"
    return {"type": type(error).__name__, "message": visible(message)}


def file_stamps(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Path, size and time of the last change of those files that there are."""
    found = [Path(path).absolute() for path in paths]
    stats = [(path, path.stat()) for path in found if path.exists()]
    return [{"file": str(p), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns} for p, stat in stats]


def changed_files(record: Record) -> list[str]:
    """Files of a job's data that are not as they were when it ended."""
    before = [str(one.get("file")) for one in record.files]
    there = file_stamps(before)
    return [str(one.get("file")) for one in record.files if dict(one) not in there]


def write(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """Replace a file, whole or not at all; ``durable`` waits until it is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(f"{text}\n")
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(_damaged(path, error)) from error
    if not isinstance(content, dict):
        raise RecordError(_damaged(path, f"it holds a {type(content).__name__}"))
    return content


def _damaged(path: Path, reason: object) -> str:
    return (
        f"{path} is not the record of a job that pesloss writes ({reason}). Look what it is; "
        "without it, the job begins anew when the command is given again."
    )


def now() -> str:
    """The time, as records tell it."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
