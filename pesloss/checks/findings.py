"""What a check says: findings in sentences, tables of numbers, and both together as a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Level: TypeAlias = Literal["error", "warning", "note"]
"""``error``: a training would be wrong; ``warning``: it may be, look; ``note``: worth knowing."""

LEVELS: tuple[Level, ...] = ("error", "warning", "note")
Value: TypeAlias = "str | int | float | None"


@dataclass(frozen=True)
class Finding:
    """One thing a check has to say.

    Args:
        level: how bad it is.
        check: name of the check.
        message: a sentence: what was found, where, and what would mend it.
        structures: those it is about, the worst first, as ``file, structure 3 (C2H6O)``; perhaps not all.
        count: how many structures it is about, if it is about structures.
    """

    level: Level
    check: str
    message: str
    structures: tuple[str, ...] = ()
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


@dataclass(frozen=True)
class Table:
    """Numbers that a check has found.

    Args:
        title: what they are.
        columns: names of the columns, with units in brackets.
        rows: one value a column; ``None`` where there is none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"Table '{self.title}' has columns {self.columns}, but a row {row}.")

    def without(self, column: str) -> Table:
        """The same without one of its columns."""
        place = self.columns.index(column)
        names = (*self.columns[:place], *self.columns[place + 1 :])
        return Table(self.title, names, tuple((*row[:place], *row[place + 1 :]) for row in self.rows))


Said: TypeAlias = "Finding | Table"


@dataclass(frozen=True)
class Report:
    """All that was found.

    Args:
        findings: the worst first.
        tables: in the order of the checks.
        about: what was checked, in words by name.
    """

    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    about: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, said: Iterable[Said], about: dict[str, str] | None = None) -> Report:
        """From what the checks say, one after another."""
        said = list(said)
        findings = sorted((one for one in said if isinstance(one, Finding)), key=_rank)
        return cls(tuple(findings), tuple(one for one in said if isinstance(one, Table)), about or {})

    def of_level(self, level: Level) -> tuple[Finding, ...]:
        """Findings of one level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes a training wrong."""
        return self.of_level("error")

    def verdict(self) -> str:
        """How many findings of each level there are, in words."""
        counts = [(len(self.of_level(level)), level) for level in LEVELS]
        return (
            ", ".join(counted(count, level) for count, level in counts if count) or "nothing to complain of"
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"verdict": self.verdict(), **asdict(self)}


def named(names: Sequence[str], most: int = 5) -> str:
    """Some names in a row, and how many more there are.

    Example:
        >>> named(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def counted(num: int, noun: str) -> str:
    """So many of something.

    Example:
        >>> counted(1, "structure"), counted(2, "structure")
        ('1 structure', '2 structures')
    """
    return f"{num} {noun}{'' if num == 1 else 's'}"


def _rank(finding: Finding) -> int:
    return LEVELS.index(finding.level)
