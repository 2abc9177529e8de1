"""What every file format gives: structures one after another, with all that the file says about each."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.utils import string2index

from pesloss.data.reading.conversions import ASE_UNITS
from pesloss.data.reading.files import Index

T = TypeVar("T")

RESULTS, INFO, ARRAYS, DATA = "calculator results", "info", "arrays", "data"
WHERE = (RESULTS, INFO, ARRAYS, DATA)


class Place(NamedTuple):
    """A key and where it stands: in the calculator's results, in ``info``, ``arrays`` or ``data``."""

    where: str
    key: str

    def __str__(self) -> str:
        return f"{self.where} '{self.key}'"


@dataclass
class Frame:
    """A structure as the file has it, in the units and signs of the file.

    Args:
        numbers: atomic numbers.
        positions: of the atoms.
        cell: lattice vectors as rows.
        pbc: whether it repeats along each.
        content: where -> key -> value: everything else.
        info: what may be asked for by name.
        fixed: atoms that ASE's ``FixAtoms`` holds.
        ignored: what pesloss has no use for.
        unread: keys whose values nobody wants, each with the shape of its entry of this structure.
        units: key (or ``positions``) -> unit that the file states for it.
        name: what the file calls the structure, if anything.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    content: Mapping[str, Mapping[str, Any]]
    info: Mapping[str, Any]
    fixed: np.ndarray | None = None
    ignored: tuple[str, ...] = ()
    unread: tuple[tuple[str, tuple[int, ...]], ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    name: str = ""


class Content(ABC):
    """An open file of some format.

    Args:
        path: of the file.
        format: its name.
        keys: where the user says that things stand.
        wanted: keys that a label, a weight or what is asked for by name may stand under.
        whole: whether everything else is wanted too.
    """

    defined: ClassVar[Mapping[str, str]] = ASE_UNITS
    """Base units of every file of this format; none where only the user can know."""

    geometry: ClassVar[Collection[str]] = ()
    """Parts of a structure that the user may name a key for."""

    def __init__(
        self, path: Path, format: str, keys: Mapping[str, str], wanted: Collection[str], whole: bool = False
    ) -> None:
        self.path = path
        self.format = format
        self.keys = keys
        self.wanted = wanted
        self.whole = whole

    def stated(self) -> Mapping[str, str]:
        """Base units that the file states for all it holds.

        Raises:
            ValueError: if the file cannot be read, as all of these methods do.
        """
        with self._reading():
            return self._stated()

    def count(self) -> int:
        """Number of structures."""
        with self._reading():
            return self._count()

    def frames(self, rows: range) -> Iterator[tuple[int, Frame]]:
        """Some of the structures, each with its row."""
        done = [0]
        with self._reading(done):
            for row, frame in self._frames(rows):
                done[0] = row + 1
                yield row, frame

    def rows(self, index: Index) -> range:
        """The rows that an index selects; only one that counts from the end needs to know their number.

        Raises:
            ValueError: if it is no index.
        """
        chosen = string2index(index) if isinstance(index, str) else index
        if isinstance(chosen, int):
            first = chosen if chosen >= 0 else self.count() + chosen
            return range(first, first + 1) if first >= 0 else range(0)
        if not isinstance(chosen, slice) or (chosen.step or 1) < 1:
            raise ValueError(
                f"{self.path}: index must be a number or a slice such as ':', '::2' or '-10:', got {index!r}."
            )
        start, stop, step = chosen.start or 0, chosen.stop, chosen.step or 1
        if start < 0 or (stop is not None and stop < 0):
            return range(*chosen.indices(self.count()))
        return range(start, sys.maxsize if stop is None else stop, step)

    def _stated(self) -> Mapping[str, str]:
        return {}

    @abstractmethod
    def _count(self) -> int: ...

    @abstractmethod
    def _frames(self, rows: range) -> Iterator[tuple[int, Frame]]: ...

    @contextmanager
    def _reading(self, done: Sequence[int] = (0,)) -> Iterator[None]:
        """What goes wrong is told by file and by how many structures were read."""
        try:
            yield
        except (ImportError, FileNotFoundError):
            raise
        except Exception as error:
            reason = f"{error}" if isinstance(error, ValueError) else f"{error} ({type(error).__name__})"
            raise ValueError(
                f"{self.path} cannot be read as '{self.format}', {done[0]} structures into the file: "
                f"{reason.rstrip('.')}."
            ) from error


def numbered(items: Iterator[T], rows: range) -> Iterator[tuple[int, T]]:
    """Some of the items, each with its number."""
    return islice(enumerate(items), rows.start, rows.stop, rows.step)


def frame(atoms: Atoms) -> Frame:
    """A structure of ASE's, which carries its labels in a calculator, in ``info`` and in ``arrays``."""
    results = atoms.calc.results if atoms.calc is not None else {}
    arrays = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    fixed, ignored = constraints(atoms.constraints, len(atoms))
    return Frame(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        content={RESULTS: results, INFO: atoms.info, ARRAYS: arrays},
        info=atoms.info,
        fixed=fixed,
        ignored=ignored,
    )


def constraints(held: list[Any], num_atoms: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Atoms that ``FixAtoms`` holds, and what other constraints there are."""
    if not held:
        return None, ()
    fixed = np.zeros(num_atoms, dtype=bool)
    for constraint in held:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.get_indices()] = True
    others = {type(constraint).__name__ for constraint in held if not isinstance(constraint, FixAtoms)}
    return fixed, tuple(f"constraint {name}" for name in sorted(others))
