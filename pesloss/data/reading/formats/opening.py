"""From the name of a file, or of its format, to its structures."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ase.io.formats import filetype, ioformats

from pesloss.data.reading.files import File, missing
from pesloss.data.reading.formats.ase import AseFile, ExtendedXyz
from pesloss.data.reading.formats.base import Content
from pesloss.data.reading.formats.db import Database, Lmdb
from pesloss.data.reading.formats.deepmd import DeepMd
from pesloss.data.reading.formats.hdf5 import Hdf5
from pesloss.data.reading.formats.npz import Npz
from pesloss.names import unknown

FORMATS: dict[str, type[Content]] = {
    "extxyz": ExtendedXyz,
    "db": Database,
    "json": Database,
    "aselmdb": Lmdb,
    "npz": Npz,
    "hdf5": Hdf5,
    "deepmd": DeepMd,
}
SUFFIXES = {
    ".npz": "npz",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".aselmdb": "aselmdb",
    ".db": "db",
}


def opened(file: File, wanted: Collection[str] = (), *, whole: bool = False) -> Content:
    """The content of a file, by the format it says or its name tells.

    Args:
        file: complete, as ``as_files`` gives it.
        wanted: keys that something may stand under.
        whole: whether what else there is is wanted too.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, a folder, or of no known format.
    """
    path = Path(file.path)
    format = file.format or _format(path)
    kind = FORMATS.get(format, AseFile)
    if kind is AseFile and format not in ioformats:
        raise ValueError(f"{path}: {unknown('format', format, {*FORMATS, *ioformats})}")
    _check(path, folder=kind is DeepMd)
    return kind(path, format, file.keys, wanted, whole)


def _check(path: Path, *, folder: bool) -> None:
    if not path.exists():
        raise FileNotFoundError(missing(path))
    if path.is_dir() and not folder:
        raise ValueError(f"{path} is a folder; give the file, a list of files, or a path with a wildcard.")
    if not path.is_dir() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty.")


def _format(path: Path) -> str:
    _check(path, folder=(path / "type.raw").exists())
    if path.is_dir():
        return "deepmd"
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    try:
        return ioformats[filetype(str(path))].name
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is of no format that ASE recognises ({reason}).") from error
