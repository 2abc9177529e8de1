"""Columns of numbers that grow at their end, in a file or in memory, and come back as arrays."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Shaped

BLOCK = 1 << 14  # rows that are in memory at once


class Column:
    """A column that grows; rows that were skipped hold its filler.

    Args:
        name: of the column, and of its file.
        dtype: as NumPy writes it.
        entry: shape of a row.
        fill: what skipped rows hold.
        folder: where its file goes; ``None`` for memory.
    """

    def __init__(
        self,
        name: str,
        dtype: str,
        entry: Sequence[int] = (),
        *,
        fill: float = 0,
        folder: Path | None = None,
    ) -> None:
        self.name, self.dtype, self.entry, self.fill = name, np.dtype(dtype), tuple(entry), fill
        self.rows = 0
        self._folder = folder
        self._file = quote("-".join([name, *map(str, entry)]), safe="") + ".bin"
        self._sink: IO[bytes] = io.BytesIO() if folder is None else (folder / self._file).open("w+b")
        self._digest = hashlib.blake2b(digest_size=16)

    def write(self, row: int, values: Shaped[np.ndarray, "..."]) -> None:
        """Values of the rows from ``row`` on, which is at or behind the end."""
        self.pad(row)
        self._append(values.astype(self.dtype, copy=False).reshape(-1, *self.entry))

    def pad(self, rows: int) -> None:
        """Fill up to a number of rows."""
        while self.rows < rows:
            size = min(rows - self.rows, BLOCK)
            self._append(np.full((size, *self.entry), self.fill, self.dtype))

    def spread(self, entry: Sequence[int]) -> Column:
        """The same numbers, each repeated over an entry of a shape."""
        wide = Column(self.name, self.dtype.str, entry, fill=self.fill, folder=self._folder)
        self._sink.seek(0)
        while content := self._sink.read(BLOCK * self.dtype.itemsize):
            values = np.frombuffer(content, self.dtype)
            wide._append(values.repeat(wide.size).reshape(-1, *entry))
        self.close()
        return wide

    @property
    def size(self) -> int:
        """Number of numbers in a row."""
        return int(np.prod(self.entry, dtype=int))

    def about(self) -> dict[str, Any]:
        """What ``mapped`` needs to know, and a digest of the content."""
        shape = [self.rows, *self.entry]
        return {
            "file": self._file,
            "dtype": self.dtype.str,
            "shape": shape,
            "digest": self._digest.hexdigest(),
        }

    def array(self) -> Shaped[np.ndarray, "..."]:
        """The column as it is in memory, not copied."""
        assert isinstance(self._sink, io.BytesIO)
        return np.frombuffer(self._sink.getbuffer(), self.dtype).reshape(-1, *self.entry)

    def sync(self) -> None:
        """Wait until the file is on its disk."""
        self._sink.flush()
        os.fsync(self._sink.fileno())

    def close(self) -> None:
        """Close the file; what is in memory stays."""
        if self._folder is not None:
            self._sink.close()

    def _append(self, values: Shaped[np.ndarray, "..."]) -> None:
        content = values.tobytes()
        self._sink.write(content)
        self._digest.update(content)
        self.rows += len(values)


def mapped(folder: Path, about: Mapping[str, Any]) -> Shaped[np.ndarray, "..."]:
    """A column that stays in its file until it is used.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its size is not that of the column.
    """
    path, dtype, shape = folder / about["file"], np.dtype(about["dtype"]), tuple(about["shape"])
    expected, found = dtype.itemsize * int(np.prod(shape, dtype=int)), path.stat().st_size
    if found != expected:
        raise ValueError(f"{path} has {found} bytes, expected {expected}")
    # an empty file cannot be mapped; as a plain array, because a memmap is slower in every operation
    return (
        np.empty(shape, dtype) if expected == 0 else np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)
    )
