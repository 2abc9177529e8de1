"""Files that ASE reads: extended XYZ, trajectories and the outputs of many programs."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from ase import Atoms
from ase.io import iread
from ase.io.extxyz import read_xyz
from ase.io.formats import ioformats

from pesloss.data.reading.formats.base import Content, Frame, frame, numbered


class AseFile(Content):
    """Structures of any format of ASE's, in eV and Å."""

    def _count(self) -> int:
        return sum(1 for _ in self._all())

    def _frames(self, rows: range) -> Iterator[tuple[int, Frame]]:
        for row, atoms in numbered(self._all(), rows):
            yield row, frame(atoms)

    def _all(self) -> Iterator[Atoms]:
        with self._opened() as stream:
            yield from iread(stream, ":", format=self.format)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """What ASE reads from: a stream if the format allows, so that an error leaves no file open."""
        if not ioformats[self.format].acceptsfd:
            yield self.path
            return
        with self._stream(binary=ioformats[self.format].isbinary) as stream:
            yield stream

    def _stream(self, *, binary: bool) -> io.IOBase:
        if self.path.suffix == ".gz":
            # in memory: ASE jumps about in the file, and a compressed one unpacks from its start each time
            content = gzip.decompress(self.path.read_bytes())
            return io.BytesIO(content) if binary else io.StringIO(content.decode())
        return self.path.open("rb") if binary else self.path.open(encoding="utf-8")


class ExtendedXyz(Content):
    """Extended XYZ, one structure's lines at a time; ASE itself scans the whole file first."""

    def _count(self) -> int:
        with self._stream() as stream:
            return sum(1 for _ in _chunks(stream))

    def _frames(self, rows: range) -> Iterator[tuple[int, Frame]]:
        with self._stream() as stream:
            for row, lines in numbered(_chunks(stream), rows):
                yield row, frame(next(read_xyz(io.StringIO("".join(lines)), 0)))

    def _stream(self) -> io.TextIOWrapper:
        binary = gzip.GzipFile(self.path) if self.path.suffix == ".gz" else self.path.open("rb")
        return io.TextIOWrapper(binary, encoding="utf-8")


def _chunks(stream: io.TextIOWrapper) -> Iterator[list[str]]:
    """Lines of each structure: number of atoms, comment, atoms and what may follow of lattice vectors."""
    line = stream.readline()
    while line.strip():
        lines = [line, stream.readline(), *islice(stream, _num_atoms(line))]
        line = stream.readline()
        while line.lstrip().startswith("VEC"):
            lines.append(line)
            line = stream.readline()
        yield lines
    _refuse_rest(stream)


def _num_atoms(line: str) -> int:
    try:
        return int(line)
    except ValueError:
        raise ValueError(f"expected the number of atoms of a structure, got {line.strip()[:60]!r}") from None


def _refuse_rest(lines: Iterable[str]) -> None:
    """ASE stops at a blank line; what comes after it would be lost without a word."""
    if rest := next((line.strip() for line in lines if line.strip()), ""):
        raise ValueError(f"a blank line ends the structures, but more text follows it: {rest[:60]!r}")
