"""CPU time, wall time and memory of a command and of all processes that it starts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

PR_SET_CHILD_SUBREAPER = 36


class Cost(NamedTuple):
    """What a command took.

    Args:
        cpu_s: user and system time of its processes.
        wall_s: from its start to its end.
        memory_mib: peak of the largest of its processes.
    """

    cpu_s: float
    wall_s: float
    memory_mib: float


def adopt_orphans() -> None:
    """Have processes whose parent has died become our children, where there are such means (Linux).

    A compiler that works in processes of its own may outlive the command that asked for it, and would not be
    counted.
    """
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def clocked(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end; what it says goes to a file.

    Raises:
        SystemExit: if it fails, with the end of what it has said.
    """
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT
        )
        _, status, own = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - started
    used = [own, *_rest()]
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(command)} failed, see {log}:\n{said}")
    cpu_s = sum(one.ru_utime + one.ru_stime for one in used)
    return Cost(cpu_s, wall_s, max(one.ru_maxrss for one in used) / 1024)


def _rest() -> list[Any]:
    """What the processes took that have outlived the command."""
    found = []
    with suppress(ChildProcessError):  # there are no more
        while True:
            found.append(os.wait4(-1, 0)[2])
    return found
