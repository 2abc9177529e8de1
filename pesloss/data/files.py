"""From paths to ASE structures; what cannot be read is refused with the name of the file."""

from __future__ import annotations

import difflib
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from ase import Atoms
from ase.io import iread
from ase.io.formats import filetype, ioformats
from ase.utils import string2index

FilePath: TypeAlias = str | Path
FilePaths: TypeAlias = FilePath | Sequence[FilePath]
Paths: TypeAlias = FilePaths | Mapping[str, FilePaths]
"""One file, several, or files by the name of the dataset they make up."""


def named_files(paths: Paths) -> list[tuple[str, Path]]:
    """Dataset name and path of each file; a file without a given name goes by its own, without its suffixes.

    Raises:
        ValueError: if there is none.

    Example:
        >>> [name for name, _ in named_files(["Si_train.xyz.gz", "Li.extxyz"])]
        ['Si_train', 'Li']
    """
    if not paths:
        raise ValueError(f"No file is given: {paths!r}.")
    if isinstance(paths, Mapping):
        return [(name, path) for name, files in paths.items() for _, path in named_files(files)]
    files = [paths] if isinstance(paths, str | Path) else paths
    return [(_stem(Path(file)), Path(file).expanduser()) for file in files]


def read_atoms(path: Path, index: str | int | slice = ":") -> list[tuple[int, Atoms]]:
    """Structures of a file that ASE reads, each with its row (counted from 0).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, of no format ASE knows, broken, or if ``index`` selects nothing.
    """
    fmt = _format(path)
    rows = list(enumerate(_frames(path, fmt)))
    if not rows:
        raise ValueError(f"{path} holds no structure (read as '{fmt}').")
    chosen = _select(rows, index)
    if not chosen:
        raise ValueError(f"Index {index!r} selects none of the {len(rows)} structures of {path}.")
    return chosen


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0] or path.name


def _format(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(_missing(path))
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the file, or a list of files.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty.")
    try:
        return ioformats[filetype(str(path))].name
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is of no format that ASE recognises ({reason}).") from error


def _missing(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
    return f"There is no file {path}" + (f"; did you mean '{path.with_name(near[0])}'?" if near else ".")


def _frames(path: Path, fmt: str) -> Iterator[Atoms]:
    count = 0
    try:
        with _opened(path, fmt) as stream:
            for atoms in iread(stream, ":", format=fmt):
                yield atoms
                count += 1
            if fmt == "extxyz":
                _refuse_rest(stream)
    except Exception as error:
        raise ValueError(
            f"{path}: ASE cannot read it as '{fmt}', {count} structures into the file: {error!s} "
            f"({type(error).__name__})."
        ) from error


@contextmanager
def _opened(path: Path, fmt: str) -> Iterator[Any]:
    """What ASE reads from: a stream if the format allows, so that an error leaves no file open."""
    if not ioformats[fmt].acceptsfd:
        yield path
        return
    with _stream(path, binary=ioformats[fmt].isbinary) as stream:
        yield stream


def _stream(path: Path, *, binary: bool) -> io.IOBase:
    if path.suffix == ".gz":
        # in memory, because ASE jumps about in the file and a compressed one unpacks from its start each time
        content = gzip.decompress(path.read_bytes())
        return io.BytesIO(content) if binary else io.StringIO(content.decode())
    return path.open("rb") if binary else path.open(encoding="utf-8")


def _refuse_rest(stream: io.TextIOBase) -> None:
    """ASE stops at a blank line; what comes after it would be lost without a word."""
    if rest := stream.read().strip():
        raise ValueError(f"a blank line ends the structures, but more text follows it: {rest[:60]!r}")


def _select(rows: list[tuple[int, Atoms]], index: str | int | slice) -> list[tuple[int, Atoms]]:
    chosen = string2index(index) if isinstance(index, str) else index
    if isinstance(chosen, slice):
        return rows[chosen]
    if isinstance(chosen, int):
        return [rows[chosen]] if -len(rows) <= chosen < len(rows) else []
    raise ValueError(f"index must be a number or a slice such as ':' or '-10:', got {index!r}.")
