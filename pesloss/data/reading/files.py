"""Which files make up a dataset, and how each of them is to be read."""

from __future__ import annotations

import difflib
import glob
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from pesloss.losses.voigt import VOIGT_ASE, voigt_order
from pesloss.names import unknown

FilePath: TypeAlias = str | Path
Index: TypeAlias = str | int | slice


@dataclass(frozen=True)
class File:
    """One file, and what its numbers mean.

    Args:
        path: of the file; with a wildcard it stands for several that are read alike. A folder in DeePMD's
            format counts as a file.
        dataset: name its structures go by; the file's own without suffixes if not given, the folder's for
            several files.
        format: ASE's name of the format, or ``npz``, ``hdf5``, ``aselmdb``, ``db``, ``deepmd``; by default
            the file's name tells.
        index: which structures, as ASE writes it: ``":"``, ``"-10:"``, ``0``.
        keys: property (or ``weight``, ``atom_weight``, ``<property>_weight``, ``config_type``; in files that
            are not ASE's also ``positions``, ``numbers``, ``cell``, ``pbc``) -> key it stands under.
        units: ``energy``, ``length``, ``charge`` or a property -> its unit in words: ``kcal/mol``.
        signs: property -> −1 where the file has the other sign, as gradients have for forces, and as a
            stress has that is positive in compression.
        voigt: order of the six numbers of a symmetric stress or virial, or ``ase`` or ``vasp``.
        weight: of each of its structures in the loss, times the structure's own.
        sampling: how often an epoch takes each of its structures, on average.

    Raises:
        ValueError: if weight or sampling is negative or not finite, a sign not ±1, or ``voigt`` no order.
    """

    path: FilePath
    dataset: str | None = None
    format: str | None = None
    index: Index | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    signs: Mapping[str, int] = field(default_factory=dict)
    voigt: str | None = None
    weight: float = 1.0
    sampling: float = 1.0

    def __post_init__(self) -> None:
        for name in ("weight", "sampling"):
            value = getattr(self, name)
            if not _is_number(value) or not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{self.path}: {name} must be a number that is not negative, got {value!r}.")
        for name, sign in self.signs.items():
            if isinstance(sign, bool) or sign not in (1, -1):
                raise ValueError(f"{self.path}: the sign of '{name}' must be 1 or -1, got {sign!r}.")
        for name, unit in self.units.items():
            if not isinstance(unit, str):
                raise ValueError(f"{self.path}: the unit of '{name}' must be words, got {unit!r}.")
        try:
            voigt_order(self.voigt or VOIGT_ASE)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def __str__(self) -> str:
        return str(self.path)


Paths: TypeAlias = "FilePath | File | Sequence[Any] | Mapping[str, Any]"
"""A path or a file (also as a mapping with the key ``path``), several, or these by the name of a dataset."""


def as_files(
    paths: Paths,
    *,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    signs: Mapping[str, int] | None = None,
    voigt: str | None = None,
    index: Index | None = None,
) -> list[File]:
    """Every file with all that is to be known about it; its own entries go before the common ones.

    Args:
        paths: a path, a ``File``, a mapping with the key ``path``, a list of these, or these by dataset.
        keys: entries for all files, as those of a ``File``.
        units: the same.
        signs: the same.
        voigt: the same.
        index: the same.

    Raises:
        FileNotFoundError: if no file fits a path with a wildcard.
        TypeError: if a file is described by something else, or has an unknown entry.
        ValueError: if there is none, or two go by one name that nobody gave them.

    Example:
        >>> [file.dataset for file in as_files(["Si_train.xyz.gz", {"path": "Li.npz", "dataset": "lithium"}])]
        ['Si_train', 'lithium']
    """
    given = [one for file in _listed(paths, None) for one in _expanded(file)]
    if not given:
        raise ValueError(f"No file is given: {paths!r}.")
    complete = [
        replace(
            file,
            path=Path(file.path).expanduser(),
            dataset=file.dataset or _stem(Path(file.path)),
            keys={**(keys or {}), **file.keys},
            units={**(units or {}), **file.units},
            signs={**(signs or {}), **file.signs},
            voigt=voigt_order(file.voigt or voigt or VOIGT_ASE),
            index=_first(file.index, index, ":"),
        )
        for file in given
    ]
    _check_names(given, complete)
    return complete


def missing(path: Path) -> str:
    """Sentence about a file that is not there, with the nearest that is."""
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
    return f"There is no file {path}" + (f"; did you mean '{path.with_name(near[0])}'?" if near else ".")


def _listed(paths: Paths, dataset: str | None) -> list[File]:
    if isinstance(paths, File):
        return [replace(paths, dataset=paths.dataset or dataset)]
    if isinstance(paths, str | Path) and str(paths):
        return [File(paths, dataset)]
    if isinstance(paths, Mapping):
        if "path" in paths:
            return [_described({"dataset": dataset, **paths})]
        return [file for name, inner in paths.items() for file in _listed(inner, str(name))]
    if isinstance(paths, Sequence):
        return [file for inner in paths for file in _listed(inner, dataset)]
    raise TypeError(
        f"A file is a path, a mapping with the key 'path', or a list or mapping of these, got {paths!r}."
    )


def _described(entries: Mapping[str, Any]) -> File:
    known = [entry.name for entry in fields(File)]
    for entry in entries:
        if entry not in known:
            raise TypeError(f"{entries['path']}: {unknown('entry of a file', entry, known)}")
    if not isinstance(entries["path"], str | Path):
        raise TypeError(f"The path of a file must be a string, got {entries['path']!r}.")
    # an entry that a config sets to null is one that is not given
    return File(**{name: value for name, value in entries.items() if value is not None})


def _expanded(file: File) -> list[File]:
    """The files a wildcard stands for, in alphabetical order, as one dataset."""
    pattern = Path(file.path).expanduser()
    if pattern.exists() or not glob.has_magic(str(pattern)):
        return [file]
    found = sorted(glob.glob(str(pattern), recursive=True))
    if not found:
        raise FileNotFoundError(f"No file fits {pattern}.")
    return [
        replace(file, path=path, dataset=file.dataset or pattern.parent.name or "default") for path in found
    ]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0] or path.name


def _check_names(given: Sequence[File], complete: Sequence[File]) -> None:
    """Two files make up one dataset only if somebody says so; a common file name is a coincidence."""
    unnamed = [full for short, full in zip(given, complete, strict=True) if short.dataset is None]
    names = Counter(name for name, _ in {(file.dataset, Path(file.path).resolve()) for file in complete})
    for file in unnamed:
        if names[file.dataset] > 1:
            same = ", ".join(str(other) for other in complete if other.dataset == file.dataset)
            raise ValueError(
                f"{same} all go by the name '{file.dataset}'; name the dataset of each, "
                f"or say that they are one: {{{file.dataset}: [...]}}."
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
