"""Who is told how far a reading has come, without every layer in between handing it on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Told = Callable[[str, int], object]

EVERY = 100  # structures between two words

_TOLD: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def told(listener: Told) -> Iterator[None]:
    """While this is open, a listener is told which file is read and how many structures it has given."""
    token = _TOLD.set(listener)
    try:
        yield
    finally:
        _TOLD.reset(token)


def counted(structures: Iterable[T], file: str) -> Iterator[T]:
    """The same structures, counted for whoever listens."""
    listener, number = _TOLD.get(), 0
    for number, structure in enumerate(structures, start=1):
        yield structure
        if listener is not None and number % EVERY == 0:
            listener(file, number)
    if listener is not None:
        listener(file, number)
