"""HDF5 files with a group of arrays a molecule, as SPICE, ANI and QM7-X distribute them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from pesloss.data.reading.formats.base import Content, Frame
from pesloss.data.reading.formats.columns import GEOMETRY, Table, frames_of, geometry_key

UNIT_ATTRIBUTES = ("units", "unit", "u")


class Hdf5(Content):
    """Structures counted over all groups in the order of the file; arrays may state their units."""

    defined: ClassVar[Mapping[str, str]] = {}
    geometry = tuple(GEOMETRY)

    def _count(self) -> int:
        with self._tables() as tables:
            return sum(map(len, tables))

    def _frames(self, rows: range) -> Iterator[tuple[int, Frame]]:
        with self._tables() as tables:
            yield from frames_of(tables, rows)

    @contextmanager
    def _tables(self) -> Iterator[Iterator[Table]]:
        try:
            import h5py
        except ImportError as error:
            raise ImportError(f"{self.path} needs the package h5py: pip install 'pesloss[hdf5]'.") from error
        with h5py.File(self.path, "r") as file:
            yield self._walk(file, h5py.Dataset)

    def _walk(self, group: Any, dataset: type) -> Iterator[Table]:
        """A table of each group with positions or atomic numbers, in the order of the file."""
        arrays = {key: entry for key, entry in group.items() if isinstance(entry, dataset)}
        if any(geometry_key(part, arrays, self.keys) for part in ("positions", "numbers")):
            yield self._table(arrays, group.name.strip("/"))
        for entry in group.values():
            if not isinstance(entry, dataset):
                yield from self._walk(entry, dataset)

    def _table(self, arrays: dict[str, Any], name: str) -> Table:
        units = {key: unit for key, array in arrays.items() if (unit := _unit(array))}
        try:
            return Table(arrays, self.keys, self.wanted, whole=self.whole, units=units, name=name)
        except ValueError as error:
            raise ValueError(f"group '{name}': {error}") from None


def _unit(array: Any) -> str | None:
    found = [array.attrs[name] for name in UNIT_ATTRIBUTES if name in array.attrs]
    return (found[0].decode() if isinstance(found[0], bytes) else str(found[0])) if found else None
