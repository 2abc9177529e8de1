"""ASE's databases, one row at a time: SQLite, JSON and the LMDB files of the large public sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import all_properties
from ase.db import connect

from pesloss.data.reading.formats.base import (
    ARRAYS,
    DATA,
    INFO,
    RESULTS,
    Content,
    Frame,
    constraints,
    numbered,
)

PAGE = 256
PER_ATOM = ("initial_charges", "initial_magmoms", "tags", "masses", "momenta")


class Database(Content):
    """Rows of an ASE database; SchNetPack's state their units.

    A label stands among the results of the row, in its key-value pairs or in its data.
    """

    def _stated(self) -> Mapping[str, str]:
        return _words({"length": self._metadata.get("_distance_unit")})

    @cached_property
    def _metadata(self) -> Mapping[str, Any]:
        with self._opened() as database:
            return database.metadata or {}

    @cached_property
    def _units(self) -> Mapping[str, str]:
        return _words(self._metadata.get("_property_unit_dict") or {})

    def _count(self) -> int:
        with self._opened() as database:
            return database.count()

    def _frames(self, rows: range) -> Iterator[tuple[int, Frame]]:
        with self._opened() as database:
            for place, row in self._rows(database, rows):
                yield place, self._frame(row)

    def _rows(self, database: Any, rows: range) -> Iterator[tuple[int, Any]]:
        return numbered(_pages(database), rows)

    def _frame(self, row: Any) -> Frame:
        fixed, ignored = constraints(row.constraints, row.natoms)
        results = {name: row[name] for name in all_properties if name in row}
        arrays = {name: row[name] for name in PER_ATOM if name in row}
        data = dict(row.data)
        return Frame(
            numbers=row.numbers,
            positions=row.positions,
            cell=np.asarray(row.cell, dtype=np.float64),
            pbc=row.pbc,
            content={RESULTS: results, INFO: row.key_value_pairs, ARRAYS: arrays, DATA: data},
            info={**data, **row.key_value_pairs},
            fixed=fixed,
            ignored=ignored,
            units=self._units,
        )

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        database: Any = connect(self.path, type=self.format, use_lock_file=False)
        with database:
            yield database


class Lmdb(Database):
    """Rows of an LMDB database, read in place: the file may be larger than memory."""

    def _rows(self, database: Any, rows: range) -> Iterator[tuple[int, Any]]:
        for place, row in numbered(iter(database.ids), rows):
            yield place, database.get(id=row)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            from ase_db_backends.aselmdb import LMDBDatabase
        except ImportError as error:
            raise ImportError(
                f"{self.path} needs the package ase-db-backends: pip install 'pesloss[aselmdb]'."
            ) from error
        _check_whole(self.path)
        with LMDBDatabase(self.path, readonly=True) as database:
            yield database


def _check_whole(path: Path) -> None:
    """A file that ends too early is refused before it is mapped, where the operating system would end us."""
    import lmdb

    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment:
        size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if path.stat().st_size < size:
        raise ValueError(f"it ends after {path.stat().st_size} of {size} bytes; it is cut off")


def _pages(database: Any) -> Iterator[Any]:
    """All rows by their numbers, some at a time, because ASE fetches a whole selection at once."""
    last = 0
    while page := list(database.select(f"id>{last}", sort="id", limit=PAGE)):
        yield from page
        last = page[-1].id


def _words(units: Mapping[str, Any]) -> dict[str, str]:
    """Units that are stated in words; the number 1 is ASE's own unit."""
    return {name: unit for name, unit in units.items() if unit is not None and unit != 1}
