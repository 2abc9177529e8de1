"""What is wrong, how often it happens to people, and what they are to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["raised", "error", "warning", "note"]
Said: TypeAlias = Iterable[tuple[Level, str]]
"""Everything that a user reads: errors that were raised, findings of the checks."""


@dataclass(frozen=True)
class Case:
    """A broken input.

    Args:
        rank: of the pain that it stands for, as in the ranking of what users ask for.
        thread: where somebody had it, ``repository#number``.
        make: makes it in a folder, hands it in, and says what came back.
        level: of the sentence.
        sentence: what it must match.
    """

    rank: int
    thread: str
    make: Callable[[Path], Said]
    level: Level
    sentence: str

    @property
    def name(self) -> str:
        return self.make.__name__


CASES: list[Case] = []


def broken(
    rank: int, thread: str, level: Level, sentence: str
) -> Callable[[Callable[[Path], Said]], Callable[[Path], Said]]:
    """Enter a function into the corpus."""

    def entered(make: Callable[[Path], Said]) -> Callable[[Path], Said]:
        CASES.append(Case(rank, thread, make, level, sentence))
        return make

    return entered
