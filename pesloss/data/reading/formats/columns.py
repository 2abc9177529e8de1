"""Structures whose numbers stand in arrays with one row a structure, as NumPy and HDF5 files keep them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ase.data import atomic_numbers

from pesloss.data.reading.formats.base import DATA, INFO, Frame
from pesloss.names import unknown

GEOMETRY: Mapping[str, tuple[str, ...]] = {
    "positions": ("positions", "coordinates", "coords", "coord", "conformations", "pos", "R", "atXYZ"),
    "numbers": ("numbers", "atomic_numbers", "nuclear_charges", "species", "z", "Z", "atNUM"),
    "cell": ("cell", "cells", "box", "lattice_vectors"),
    "pbc": ("pbc",),
}
"""What the parts of a structure are called where nobody says."""

BLOCK = 256


@runtime_checkable
class Array(Protocol):
    """Numbers in a file, of which some rows are read at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


class Table:
    """Structures of one group of arrays.

    Args:
        arrays: by key: positions ``[structures, atoms, 3]`` (or ``[atoms, 3]`` of a single one), atomic
            numbers ``[atoms]`` or ``[structures, atoms]``, and what else there is.
        keys: where the user says that parts of a structure stand.
        wanted: keys to be read.
        whole: whether all are to be read.
        units: key -> unit that the file states.
        name: of the group.

    Raises:
        ValueError: if there are no positions or atomic numbers, if two arrays could be the same thing, or if
            one that is wanted has not a row for each structure.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        keys: Mapping[str, str],
        wanted: Collection[str],
        *,
        whole: bool = False,
        units: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.arrays = arrays
        self.name = name
        self.geometry = self._geometry(keys)
        shape = tuple(arrays[self.geometry["positions"]].shape)
        self.single = len(shape) < 3
        self.num, self.num_atoms = (1, shape[0] if shape else 0) if self.single else shape[:2]
        for part in self.geometry:
            self._check_shape(part)
        others = [key for key in arrays if key not in self.geometry.values()]
        columns = [key for key in others if self.single or arrays[key].shape[:1] == (self.num,)]
        self.columns = tuple(key for key in columns if whole or key in wanted)
        fixed = [key for key in others if key not in columns]
        self.constants = tuple(key for key in fixed if math.prod(arrays[key].shape) == 1)
        unread = [key for key in others if key not in (*self.columns, *self.constants)]
        self.unread = tuple((key, self._entry(key, varies=key in columns)) for key in unread)
        self._check_rows(fixed, wanted)
        self.units = dict(units or {})
        if (positions := self.geometry["positions"]) in self.units:
            self.units["positions"] = self.units[positions]

    def __len__(self) -> int:
        return self.num

    def frames(self, rows: range) -> Iterator[tuple[int, Frame]]:
        """Some of the structures, each with its row in the group."""
        constants = {key: _only(self.arrays[key]) for key in self.constants}
        fixed = {part: self.arrays[key][()] for part, key in self.geometry.items() if not self._varies(part)}
        varying = {key for part, key in self.geometry.items() if part not in fixed} | {*self.columns}
        if "numbers" in fixed:
            fixed["numbers"] = as_atomic_numbers(fixed["numbers"])
        for first in range(0, self.num, BLOCK):
            inside = _within(rows, first, min(first + BLOCK, self.num))
            if not inside:
                continue
            block = {key: self._rows(key, first, inside.stop) for key in varying}
            for row in inside:
                values = {key: block[key][row - first] for key in varying}
                yield row, self._frame(row, values, fixed, constants)

    def _frame(
        self, row: int, values: Mapping[str, Any], fixed: Mapping[str, Any], constants: Mapping[str, Any]
    ) -> Frame:
        geometry = {part: values[key] for part, key in self.geometry.items() if part not in fixed}
        numbers = fixed["numbers"] if "numbers" in fixed else as_atomic_numbers(geometry["numbers"])
        geometry |= fixed
        cell = np.asarray(geometry.get("cell", np.zeros((3, 3))), dtype=np.float64).reshape(3, 3)
        data = {key: _plain(values[key]) for key in self.columns}
        return Frame(
            numbers=numbers,
            positions=geometry["positions"],
            cell=cell,
            pbc=np.asarray(geometry.get("pbc", cell.any(axis=1)), dtype=bool),
            content={INFO: constants, DATA: data},
            info={**constants, **data},
            unread=self.unread,
            units=self.units,
            name=self.name and self.name + f", conformation {row}" * (not self.single),
        )

    def _geometry(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Keys of the parts of a structure that there are."""
        found = {part: geometry_key(part, self.arrays, keys) for part in GEOMETRY}
        for part in ("positions", "numbers"):
            if found[part] is None:
                raise ValueError(
                    f"no {part} among {', '.join(sorted(self.arrays))}; "
                    f"say where they stand: keys={{'{part}': ...}}."
                )
        return {part: key for part, key in found.items() if key is not None}

    def _entry(self, key: str, *, varies: bool) -> tuple[int, ...]:
        """Shape of what one structure has of an array."""
        return tuple(self.arrays[key].shape)[1 if varies and not self.single else 0 :]

    def _varies(self, part: str) -> bool:
        """Whether a part of a structure has a row for each, or is the same for all."""
        return not self.single and tuple(self.arrays[self.geometry[part]].shape) not in self._shapes(part)

    def _shapes(self, part: str) -> list[tuple[int, ...]]:
        """What a part of one structure looks like."""
        num = self.num_atoms
        shapes = {
            "numbers": [(num,), (num, 1)],
            "cell": [(3, 3), (9,)],
            "pbc": [(3,)],
            "positions": [(num, 3)],
        }
        return shapes[part]

    def _check_shape(self, part: str) -> None:
        key = self.geometry[part]
        shape, one = tuple(self.arrays[key].shape), self._shapes(part)
        many = [] if self.single else [(self.num, *each) for each in one]
        if shape not in (*one, *many):
            expected = " or ".join(map(str, (one[0], *many[:1])))
            raise ValueError(f"{part} '{key}' have shape {shape}, expected {expected}.")

    def _rows(self, key: str, first: int, last: int) -> Any:
        return [self.arrays[key][()]] if self.single else self.arrays[key][first:last]

    def _check_rows(self, others: Collection[str], wanted: Collection[str]) -> None:
        for key in sorted({*others} & {*wanted}):
            array = self.arrays[key]
            if key not in self.constants or (self.num > 1 and not isinstance(_only(array), str)):
                shape = tuple(array.shape)
                raise ValueError(
                    f"'{key}' has shape {shape}, expected a row for each of the {self.num} structures."
                )


def frames_of(tables: Iterable[Table], rows: range) -> Iterator[tuple[int, Frame]]:
    """Some of the structures of several tables, each with its row counted over all of them."""
    first = 0
    for table in tables:
        inside = _within(rows, first, first + len(table))
        shifted = range(inside.start - first, inside.stop - first, inside.step)
        yield from ((first + row, frame) for row, frame in table.frames(shifted))
        first += len(table)
        if first >= rows.stop:
            return


def geometry_key(part: str, arrays: Collection[str], keys: Mapping[str, str]) -> str | None:
    """Where positions, numbers, cell or pbc stand.

    Raises:
        ValueError: if there are two places.
    """
    if part in keys:
        return keys[part] if keys[part] in arrays else None
    found = [name for name in GEOMETRY[part] if name in arrays]
    if len(found) > 1:
        raise ValueError(f"{part} may be {' or '.join(found)}; say which: keys={{'{part}': '{found[0]}'}}.")
    return found[0] if found else None


def as_atomic_numbers(values: Any) -> np.ndarray:
    """Atomic numbers of numbers or symbols.

    Raises:
        ValueError: if one is no element.
    """
    values = np.atleast_1d(np.asarray(values))
    values = values[:, 0] if values.ndim == 2 else values
    if values.dtype.kind in "SUO":
        return np.array([_element(_plain(symbol)) for symbol in values], dtype=np.int64)
    numbers = values.astype(np.int64)
    if (numbers != values).any():
        raise ValueError(f"atomic numbers must be whole, got {values[numbers != values][0]}.")
    return numbers


def _element(symbol: str) -> int:
    if symbol not in atomic_numbers:
        raise ValueError(unknown("element", symbol, [name for name in atomic_numbers if name != "X"]))
    return atomic_numbers[symbol]


def _only(array: Array) -> Any:
    """The one entry of an array."""
    return _plain(np.asarray(array[()]).reshape(-1)[0])


def _within(rows: range, first: int, last: int) -> range:
    """The rows of a block that are asked for."""
    start = max(rows.start, first + (rows.start - first) % rows.step)
    return range(start, min(rows.stop, last), rows.step)


def _plain(value: Any) -> Any:
    """Text as text and a number as a number, whatever a file makes of them."""
    if isinstance(value, np.ndarray | np.generic) and (value.ndim == 0 or value.dtype.kind in "SUO"):
        value = value.item() if value.size == 1 else value
    return value.decode() if isinstance(value, bytes) else value
