"""Files that one process holds at a time; the kernel gives them back when it dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def locked(path: Path, seconds: float) -> FileLock | None:
    """A lock that is held; ``None`` where files cannot be locked.

    Raises:
        Timeout: if another process holds it for so many seconds.
    """
    lock = FileLock(path, timeout=seconds, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):
        return None
    return lock


def release(lock: FileLock | None) -> None:
    """Give a lock back, if it is one."""
    if lock is not None:
        lock.release()


@contextmanager
def holding(path: Path, seconds: float) -> Iterator[None]:
    """No other process is within it, where files can be locked.

    Raises:
        Timeout: if another process is, for so many seconds.
    """
    lock = locked(path, seconds)
    try:
        yield
    finally:
        release(lock)
