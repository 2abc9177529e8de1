"""Why a training stops before its end: its time is over, or somebody asks for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)

SAME_SIGNAL = 1.0  # seconds


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop, and its state is saved; ``status`` is the exit status of the program.

    Not an ``Exception``: the other jobs of a sweep do not start either.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)
        self.number, self.status = number, 128 + number

    def __str__(self) -> str:
        return str(self.args[0])


class Signals:
    """While it is open, a signal to stop is remembered, so that a step can end; a later one is obeyed.

    Schedulers of clusters send SIGTERM or SIGUSR1 before they take the machine away, Ctrl-C sends SIGINT.
    Some reach a process twice, from its terminal and from the process that started it.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() - self._since > SAME_SIGNAL:
            raise Interrupted(f"Stopped at once by a second {signal.Signals(number).name}.", number)
        if not self.number:
            self.number, self._since = number, time.monotonic()


@contextmanager
def forwarded() -> Iterator[None]:
    """Signals to stop go on to the processes that this one has started and waits for."""

    def forward(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
