"""Folders in DeePMD-kit's format: one system of fixed atoms, its frames in ``set.*`` folders of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pesloss.data.reading.formats.base import Content, Frame
from pesloss.data.reading.formats.columns import GEOMETRY, Table, as_atomic_numbers, frames_of

OF_ATOMS = ("coord", "force", "atom_", "atomic_")


class DeepMd(Content):
    """Frames of a system in eV and Å, counted over its sets; the virial has pesloss's sign."""

    geometry = tuple(GEOMETRY)

    def _count(self) -> int:
        return sum(map(len, self._tables()))

    def _frames(self, rows: range) -> Iterator[tuple[int, Frame]]:
        yield from frames_of(self._tables(), rows)

    def _tables(self) -> Iterator[Table]:
        numbers = self._numbers()
        for folder in sorted(self.path.glob("set.*")):
            arrays = {file.stem: _array(file, len(numbers)) for file in sorted(folder.glob("*.npy"))}
            arrays["numbers"] = numbers
            if (self.path / "nopbc").exists():
                arrays["pbc"] = np.zeros(3, dtype=bool)
            yield Table(arrays, self.keys, self.wanted, whole=self.whole, name=folder.name)

    def _numbers(self) -> np.ndarray:
        """Atomic numbers of the types of the atoms, by the names that the map gives them."""
        names = self.path / "type_map.raw"
        if not names.exists():
            raise FileNotFoundError(f"There is no {names}, which says what element each type of atom is.")
        elements = as_atomic_numbers(np.array(names.read_text().split()))
        types = np.array((self.path / "type.raw").read_text().split(), dtype=np.int64)
        if not ((types >= 0) & (types < len(elements))).all():
            raise ValueError(
                f"{self.path / 'type.raw'}: type {types.max()}, but {names} names {len(elements)}."
            )
        return elements[types]


def _array(file: Path, num_atoms: int) -> Any:
    """An array that stays on disk; entries of atoms, which stand in a row, one atom below the other."""
    array = np.load(file, mmap_mode="r")
    if file.stem.startswith(OF_ATOMS) and array.ndim == 2 and array.shape[1] % num_atoms == 0:
        return array.reshape(len(array), num_atoms, -1)
    return array
