"""Packed structures on disk: packed once, by one process, and opened by all that come later."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pesloss.data.storage.store import DamagedError, Store

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where packed structures are kept by default: ``$PESLOSS_CACHE``, else below ``$XDG_CACHE_HOME``."""
    if own := os.environ.get("PESLOSS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pesloss"


def open_or_write(folder: Path, key: str, write: Callable[[Path], Store]) -> Store:
    """The store of a key, written if there is none.

    One process writes and the others wait. A folder has its final name only when it is complete, so that a
    process that dies leaves nothing that could be taken for a store.

    Args:
        folder: where stores are kept.
        key: names everything the store depends on.
        write: fills an empty folder.

    Raises:
        OSError: if the folder cannot be written.
    """
    if (store := _opened(folder / key)) is not None:
        return store
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, key):
        # the process that was waited for has written it
        if (store := _opened(folder / key)) is None:
            _remove_left_over(folder)
            _write(folder, key, write)
            store = Store.open(folder / key)
    return store


def _opened(folder: Path) -> Store | None:
    try:
        return Store.open(folder)
    except DamagedError:
        return None


@contextmanager
def _locked(folder: Path, key: str) -> Iterator[None]:
    # the operating system lets go of it when a process dies
    lock = FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Waiting for another process that packs the same structures into %s", folder / key)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(folder: Path, key: str, write: Callable[[Path], Store]) -> None:
    part = folder / f"{key}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    log.info("Packing structures into %s", folder / key)
    try:
        write(part)
        shutil.rmtree(folder / key, ignore_errors=True)  # whatever is there is damaged
        part.rename(folder / key)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_left_over(folder: Path) -> None:
    """What processes have left that died while they were writing: nobody holds the lock of it."""
    for part in folder.glob("*.part"):
        with suppress(Timeout), FileLock(part.with_suffix(".lock"), timeout=0):
            shutil.rmtree(part, ignore_errors=True)
