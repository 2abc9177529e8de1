"""The account of a reading: which label came from where, how many there are, what lay unused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Found:
    """How much of one property a file labels, and where the labels stood.

    Args:
        property: name of the property.
        rows: what a row of it is, ``structure`` or ``atom``.
        labelled: number of rows with a label.
        total: number of rows.
        sources: place in the file -> number of structures read from there.
    """

    property: str
    rows: str
    labelled: int
    total: int
    sources: Mapping[str, int]

    def __str__(self) -> str:
        places = [f"{place} ({count} structures)" for place, count in self.sources.items()]
        where = ", ".join(self.sources if len(self.sources) == 1 else places)
        return f"{self.property}: {self.labelled} / {self.total} {self.rows}s, {where or 'no label found'}"


@dataclass(frozen=True)
class Unused:
    """A place in a file that nothing was read from; a misnamed label shows here.

    Args:
        where: ``calculator results``, ``info``, ``arrays`` or ``data``.
        key: what it is called there.
        structures: number of structures that have it.
        shape: what stands there, in words; empty if the file was not asked.
    """

    where: str
    key: str
    structures: int
    shape: str = ""

    @property
    def place(self) -> str:
        """Where it stands, in words.

        Example:
            >>> Unused("arrays", "F", 214, "3 numbers an atom").place
            "arrays 'F'"
        """
        return f"{self.where} '{self.key}'"

    def __str__(self) -> str:
        about = f"{self.structures} structure{'s' if self.structures != 1 else ''}"
        return f"{self.place} ({self.shape + ', ' if self.shape else ''}{about})"


@dataclass(frozen=True)
class FileReport:
    """What was found in one file.

    Args:
        file: its path.
        dataset: name its structures go by.
        num_structures: number of structures.
        num_atoms: number of atoms of all of them.
        properties: one entry for each property asked for.
        weights: kind of weight -> place in the file -> number of structures.
        unused: what lay there and was not read.
        ignored: what the file holds and pesloss has no use for -> number of structures.
        changes: quantity -> what was done to its numbers: unit, sign, order.
    """

    file: str
    dataset: str
    num_structures: int
    num_atoms: int
    properties: tuple[Found, ...]
    weights: Mapping[str, Mapping[str, int]]
    unused: tuple[Unused, ...]
    ignored: Mapping[str, int]
    changes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{self.file} (dataset '{self.dataset}'): "
            f"{self.num_structures} structures, {self.num_atoms} atoms",
            *(f"  {found}" for found in self.properties),
            *(f"  {name}: {', '.join(places)}" for name, places in self.weights.items()),
        ]
        lines += [f"  {name}: {words}" for name, words in self.changes.items()]
        lines += [f"  unused: {', '.join(map(str, self.unused))}"] if self.unused else []
        lines += [f"  ignored: {what} ({count} structures)" for what, count in self.ignored.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What was found in each file; prints as text, ``as_dict`` for a log."""

    files: tuple[FileReport, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.files))

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts, lists, strings and numbers."""
        return {"files": [asdict(file) for file in self.files]}
