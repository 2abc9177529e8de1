"""Why a training stops before its end: its time is over, or somebody asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop, and its state is saved; ``status`` is the exit status of the program.

    Not an ``Exception``: the other jobs of a sweep do not start either.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class Signals:
    """While it is open, a signal to stop is remembered, so that a step can end; the second one is obeyed.

    Schedulers of clusters send SIGTERM or SIGUSR1 before they take the machine away, Ctrl-C sends SIGINT.
    """

    def __init__(self) -> None:
        self.number = 0
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
        if self.number:
            raise Interrupted(f"Stopped at once by a second {signal.Signals(number).name}.", number)
        self.number = number
