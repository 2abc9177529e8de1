"""Sees what a program does to the machine: commands, sockets, and files that are written or removed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMANDS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.Request",
    "pickle.find_class",
    "ctypes.dlopen",
)
CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_watching: list[tuple[list[str], tuple[Path, ...]]] = []


@contextmanager
def watched(*allowed: Path) -> Iterator[list[str]]:
    """What happens within it that nobody asked for; files may change below ``allowed`` only."""
    seen: list[str] = []
    _watching.append((seen, tuple(path.resolve() for path in allowed)))
    try:
        yield seen
    finally:
        _watching.pop()


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    seen, allowed = _watching[-1]
    written = event in CHANGES or (event == "open" and _writes(args))
    if event in COMMANDS or (written and not _is_below(args[0], allowed)):
        seen.append(f"{event}{args}")


def _writes(args: tuple[Any, ...]) -> bool:
    flags = args[2] if isinstance(args[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC))


def _is_below(path: Any, folders: tuple[Path, ...]) -> bool:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return True  # a descriptor, of a file that was opened before
    place = Path(os.fsdecode(path)).absolute()
    compiled = "__pycache__" in place.parts or place == Path(os.devnull)
    return compiled or any(place.resolve().is_relative_to(folder) for folder in folders)


sys.addaudithook(_hook)
