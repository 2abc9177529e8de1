"""NumPy's ``.npz`` archives, as MD17, rMD17 and sGDML distribute them; read a block of rows at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.lib import format as npy

from pesloss.data.reading.formats.base import Content, Frame
from pesloss.data.reading.formats.columns import GEOMETRY, Table, frames_of

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Npz(Content):
    """Arrays with one row a structure; sGDML's state their units."""

    defined: ClassVar[Mapping[str, str]] = {}
    geometry = tuple(GEOMETRY)

    def _stated(self) -> Mapping[str, str]:
        units = {"energy": "e_unit", "length": "r_unit"}
        with self._arrays() as arrays:
            return {base: str(arrays[key][()]) for base, key in units.items() if key in arrays}

    def _count(self) -> int:
        with self._table() as table:
            return len(table)

    def _frames(self, rows: range) -> Iterator[tuple[int, Frame]]:
        with self._table() as table:
            yield from frames_of([table], rows)

    @contextmanager
    def _table(self) -> Iterator[Table]:
        with self._arrays() as arrays:
            yield Table(arrays, self.keys, self.wanted, whole=self.whole)

    @contextmanager
    def _arrays(self) -> Iterator[dict[str, _Array]]:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            yield {name[:-4]: _Array(stack.enter_context(archive.open(name)), name[:-4]) for name in names}


class _Array:
    """An array in an archive, of which some rows are read; going forward costs least."""

    def __init__(self, stream: Any, name: str) -> None:
        self.stream = stream
        self.name = name
        version = npy.read_magic(stream)
        if version not in HEADERS:
            raise ValueError(f"'{name}' is of version {version} of NumPy's format, expected 1.0 or 2.0.")
        self.shape, self.by_columns, self.dtype = HEADERS[version](stream)
        if self.dtype.hasobject:
            raise ValueError(f"'{name}' holds Python objects, not numbers.")
        self.start = stream.tell()

    def __getitem__(self, rows: Any) -> np.ndarray:
        if rows == ():
            return self._all()
        if self.by_columns:
            return self._all()[rows]
        size = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self.stream.seek(self.start + rows.start * size)
        return self._read(rows.stop - rows.start, size).reshape(-1, *self.shape[1:])

    def _all(self) -> np.ndarray:
        self.stream.seek(self.start)
        numbers = self._read(int(np.prod(self.shape, dtype=np.int64)), self.dtype.itemsize)
        return numbers.reshape(self.shape, order="F" if self.by_columns else "C")

    def _read(self, num: int, size: int) -> np.ndarray:
        content = self.stream.read(num * size)
        if len(content) != num * size:
            raise ValueError(f"'{self.name}' ends after {len(content)} of {num * size} bytes; it is cut off.")
        return np.frombuffer(content, dtype=self.dtype)
