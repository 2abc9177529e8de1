"""Who trains a job: one process, which holds a lock of its folder until it ends or dies.

Whoever trains a job, in whatever process, calls::

    job = Job.begin(folder, overrides=..., swept=..., config=hash, session=...)   # None: not ours to train
    with job:                       # an error is recorded as a failure, Ctrl-C as an interruption
        job.progress(3, 60)         # after an epoch
        job.finish(result)          # or job.drop(result), job.fail(error), job.interrupt()

A record that says ``running`` in a folder that nobody has locked is one of a job that was killed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from pesloss.sweeps.locks import locked, release
from pesloss.sweeps.records import (
    DROPPED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RECORD,
    RUNNING,
    Record,
    RecordError,
    described,
    note_epochs,
    now,
    of_config,
    read,
    write,
)

LOCK = ".lock"
SHORTLY, LONGER = 0.5, 10.0
"""Seconds until a lock is given up: somebody may be looking at it, or a dead process have left children."""


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
            lock = locked(folder / LOCK, LONGER if _is_alive(folder) is False else SHORTLY)
        except Timeout:
            return None
        try:
            before = of_config(folder, config)
            if before is not None and before.has_ended:
                release(lock)
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
                started=now(),
                process={"host": socket.gethostname(), "pid": os.getpid()},
                version=_version(),
                epochs=None if before is None else before.epochs,
            )
            write(folder / RECORD, asdict(record))
        except BaseException:
            release(lock)
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
        self.record = replace(self.record, state=state, ended=now(), epochs=epochs, **more)
        write(self.folder / RECORD, asdict(self.record))
        release(self._lock)


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
