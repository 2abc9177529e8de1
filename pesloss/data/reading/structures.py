"""A labelled structure, as it comes out of a file: float64, eV, Å, ASE's signs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from pesloss.data.reading.report import Report


def source(file: str, row: int, name: str = "") -> str:
    """Where a structure comes from, in words.

    Example:
        >>> source("spice.hdf5", 12, "103147721, conformation 3")
        'spice.hdf5, structure 12 (103147721, conformation 3)'
    """
    return f"{file}, structure {row}" + (f" ({name})" if name else "")


@dataclass(frozen=True)
class Structure:
    """Atoms, the cell they repeat in, and what a reference method says about them.

    Args:
        numbers: atomic numbers.
        positions: in Å.
        cell: lattice vectors as rows, in Å; zeros for a molecule.
        pbc: whether the structure repeats along each lattice vector.
        labels: property name -> ``[*shape]`` or ``[atoms, *shape]``; a missing label is absent.
        weights: ``weight``, ``atom_weight`` or ``<property>_weight`` -> weights, none negative.
        fixed: atoms that ASE's ``FixAtoms`` holds.
        config_type: name of the group of structures it belongs to.
        dataset: name of the dataset it belongs to.
        file: where it comes from.
        row: its row there, counted from 0.
        name: what the file calls it, if anything.
        info: what else the file said about the structure.
    """

    numbers: Int64[np.ndarray, "atoms"]
    positions: Float64[np.ndarray, "atoms 3"]
    cell: Float64[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, "3"]
    labels: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    fixed: Bool[np.ndarray, "atoms"]
    config_type: str = "default"
    dataset: str = "default"
    file: str = "memory"
    row: int = 0
    name: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    @property
    def source(self) -> str:
        """File and row, for messages."""
        return source(self.file, self.row, self.name)


@dataclass(frozen=True)
class Structures(Sequence[Structure]):
    """Structures in the order of their files, and the account of how they were read.

    Args:
        frames: the structures.
        report: what was found where in each file.
    """

    frames: tuple[Structure, ...]
    report: Report

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Structure]:
        return iter(self.frames)

    def __getitem__(self, index: Any) -> Any:
        return self.frames[index]
