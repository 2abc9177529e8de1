"""What is known of the jobs of a sweep: ``job.json`` in each job's folder, ``sweep.json`` beside the folders.

Whoever trains a job, in whatever process, calls::

    job = Job.begin(folder, overrides=..., swept=..., config=hash, session=...)   # None: not ours to train
    with job:                       # an error is recorded as a failure, Ctrl-C as an interruption
        job.progress(3, 60)         # after an epoch
        job.finish(result)          # or job.drop(result), job.fail(error), job.interrupt()

A job holds a lock while it runs. The kernel releases it when its process dies, so that a record that says
``running`` in a folder that nobody has locked is one of a job that was killed. Records are replaced whole.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from pesloss.mistakes import explain
from pesloss.names import visible

RECORD, LOCK, SWEEP = "job.json", ".lock", "sweep.json"
RUNNING, FINISHED, FAILED, INTERRUPTED, DROPPED = "running", "finished", "failed", "interrupted", "dropped"
STATES = (RUNNING, FINISHED, FAILED, INTERRUPTED, DROPPED)
ENDED = (FINISHED, DROPPED)
"""States that have a result; nothing is trained in such a folder again."""
SHORTLY, LONGER = 0.5, 10.0
"""Seconds until a lock is given up: somebody may be looking at it, or a dead process have left children."""


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


def is_running(folder: Path) -> bool:
    """Whether a process trains in a folder now, as far as this machine can know."""
    if not (folder / LOCK).exists():
        return False
    alive = _is_alive(folder)
    try:
        with FileLock(folder / LOCK, timeout=0, thread_local=False):
            return False
    except Timeout:
        return alive is not False
    except (OSError, NotImplementedError):  # files cannot be locked here
        return alive is True


def is_killed(folder: Path, record: object) -> bool:
    """Whether the process of a job is gone without a word, by what its record says."""
    return isinstance(record, Record) and record.state == RUNNING and not is_running(folder)


class Job:
    """A job that this process trains; it holds the lock of its folder. See :meth:`begin`.

    Args:
        folder: of the job.
        record: what is known of it.
        lock: of the folder; ``None`` where files cannot be locked.
    """

    def __init__(self, folder: Path, record: Record, lock: FileLock | None = None) -> None:
        self.folder, self.record, self._lock = folder, record, lock

    @classmethod
    def begin(
        cls,
        folder: Path,
        *,
        overrides: Sequence[str],
        swept: Mapping[str, Any],
        config: str,
        session: str = "",
    ) -> Job | None:
        """Take a job, unless another process has it or it has ended: then the answer is ``None``.

        Raises:
            RecordError: if the folder holds something else.
        """
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = _locked(folder / LOCK, LONGER if _is_alive(folder) is False else SHORTLY)
        except Timeout:
            return None
        try:
            before = of_config(folder, config)
            if before is not None and before.has_ended:
                _release(lock)
                return None
            for path in folder.glob(f".{RECORD}.*.tmp"):
                path.unlink(missing_ok=True)
            record = Record(
                RUNNING,
                list(overrides),
                dict(swept),
                config,
                session,
                attempts=1 if before is None else before.attempts + 1,
                started=_now(),
                process={"host": socket.gethostname(), "pid": os.getpid()},
                version=_version(),
                epochs=None if before is None else before.epochs,
            )
            write(folder / RECORD, asdict(record))
        except BaseException:
            _release(lock)
            raise
        return cls(folder, record, lock)

    def progress(self, done: int, total: int) -> None:
        """So many epochs are done."""
        note_epochs(self.folder, done, total)

    def finish(self, result: Mapping[str, Any]) -> None:
        """It has been trained to its end, or to that of its time; ``files`` are those of its data."""
        if not result.get("complete", True):
            self.interrupt()
            return
        self._end(FINISHED, result=_of_record(result), files=list(result.get("files", ())))

    def drop(self, result: Mapping[str, Any]) -> None:
        """It was stopped because others are better; the result is that of where it stopped."""
        self._end(DROPPED, result=_of_record(result), files=list(result.get("files", ())))

    def fail(self, error: BaseException) -> None:
        """It cannot go on."""
        self._end(FAILED, error=described(error))

    def interrupt(self) -> None:
        """Somebody has stopped it; it can go on later."""
        self._end(INTERRUPTED)

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.record.state != RUNNING:
            return
        if isinstance(error, KeyboardInterrupt):
            self.interrupt()
        elif error is not None:
            self.fail(error)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process; the lock stays."""
        return {**self.__dict__, "_lock": None}

    def _end(self, state: str, **more: Any) -> None:
        told = read(self.folder)  # its epochs may have been told by another process
        epochs = self.record.epochs if told is None else told.epochs
        self.record = replace(self.record, state=state, ended=_now(), epochs=epochs, **more)
        write(self.folder / RECORD, asdict(self.record))
        _release(self._lock)


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
        with _alone(self.folder / f".{SWEEP}.lock"):
            known = {job.folder: job for job in (*self.jobs(), *jobs)}
            content = {
                "command": list(command),
                "started": self.about.get("started") if self.session == session else _now(),
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
    now = file_stamps(before)
    return [str(one.get("file")) for one in record.files if dict(one) not in now]


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


def _locked(path: Path, seconds: float) -> FileLock | None:
    """The lock of a folder, held; ``None`` where files cannot be locked."""
    lock = FileLock(path, timeout=seconds, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):
        return None
    return lock


def _release(lock: FileLock | None) -> None:
    if lock is not None:
        lock.release()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process does the same meanwhile, where files can be locked."""
    lock = _locked(path, LONGER)
    try:
        yield
    finally:
        _release(lock)


def _is_alive(folder: Path) -> bool | None:
    """Whether the process of a record lives; ``None`` if that cannot be known on this machine."""
    try:
        record = read(folder)
    except RecordError:
        return None
    process: Mapping[str, Any] = {} if record is None else record.process
    if process.get("host") != socket.gethostname() or not isinstance(process.get("pid"), int):
        return None
    try:
        os.kill(process["pid"], 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _of_record(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the record says of a result elsewhere is left out."""
    return {name: value for name, value in result.items() if name not in ("files", "complete")}


def _version() -> str:
    try:
        return version("pesloss")
    except PackageNotFoundError:
        return "a checkout"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
