"""What a config names as its data: files or the bundled set, read, split, referenced and packed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import torch

from pesloss.data.bundled import FILES
from pesloss.data.files import FilePath, Paths, named_files
from pesloss.data.pack import Packed, pack
from pesloss.data.read import read, read_files
from pesloss.data.references import References, Spec, references
from pesloss.data.report import Report
from pesloss.data.splits import split
from pesloss.data.structures import Structure, Structures
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.names import unknown

NamedFiles: TypeAlias = Sequence[tuple[str, Path]]
GroupBy: TypeAlias = str | Mapping[str, str] | None

ISOLATED = "isolated_atoms"


@dataclass(frozen=True)
class LoadedData:
    """Structures ready for training, and what to know about them.

    Args:
        train: what the model learns from.
        val: what selects the model; ``None`` if there is none.
        test: what is only reported; ``None`` if there is none.
        references: what the energies have lost.
        report: where the labels came from.
        config_types: names of the config types, sorted.
        datasets: names of the datasets, sorted.
        sources: file and row of each structure, by its ``index``.
    """

    train: Packed
    val: Packed | None
    test: Packed | None
    references: References
    report: Report
    config_types: tuple[str, ...]
    datasets: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """Training, validation and test structures from files of the user's own.

    What has no file of its own is split off the training files at random.

    Args:
        train: a file, several, or files by the name of their dataset.
        val: the same for validation.
        test: the same for the test.
        val_fraction: share of the training files that validates if there is no ``val``; 0 for none.
        test_fraction: share of the training files that tests if there is no ``test``; 0 for none.
        seed: of the random split.
        keys: property -> key of its label in the files, where the usual names do not do.
        references: ``fit`` (least squares over the training set), ``isolated_atoms``, ``none`` or energies
            by element.
        isolated_atoms: file with the isolated atoms, if they are not among the training structures.
        group_by: ``info`` key; structures that share its value stay in one part of the random split. By the
            name of a dataset, keys for some of them: ``{molecules: name}``.

    Raises:
        ValueError: if a fraction is out of range, a file is given twice, or ``isolated_atoms`` is given
            although the references come from elsewhere.
    """

    train: Paths
    val: Paths | None = None
    test: Paths | None = None
    _: KW_ONLY
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    keys: Mapping[str, str] | None = None
    references: Spec = "fit"
    isolated_atoms: FilePath | None = None
    group_by: GroupBy = None

    def __post_init__(self) -> None:
        _check_fractions(self.val_fraction, self.test_fraction)
        _check_once([path for files in self._files().values() for _, path in files])
        if self.isolated_atoms is not None and self.references != "isolated_atoms":
            raise ValueError(
                f"isolated_atoms = {self.isolated_atoms} is not used with references = {self.references!r}; "
                "choose references = 'isolated_atoms' or leave the file out."
            )

    def load(self, properties: Mapping[str, Property], cutoff: float, dtype: torch.dtype) -> LoadedData:
        """Read, split, referenced and packed structures; errors name file, structure and field.

        Args:
            properties: labels to read, by name.
            cutoff: of the neighbour lists, in Å.
            dtype: of every floating tensor.
        """
        files = self._files()
        structures = read_files(
            [file for part in files.values() for file in part], properties, keys=self.keys
        )
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        fractions = {part: float(size) for part, size in fractions.items() if part not in files}
        parts = _parts(structures, files, fractions, self.seed, self.group_by)
        isolated = _isolated(self.isolated_atoms, self.keys)
        found = _references(self.references, properties, [structures[i] for i in parts["train"]], isolated)
        return _packed(structures, parts, properties, cutoff, dtype, found=found)

    def _files(self) -> dict[str, NamedFiles]:
        paths = {"train": self.train, "val": self.val, "test": self.test}
        return {part: named_files(files) for part, files in paths.items() if files is not None}


@dataclass(frozen=True)
class Bundled:
    """Molecules and crystals labelled by GFN-xTB that come with pesloss, split at random.

    All frames of one molecule stay in one part, so that the test is of molecules the model has not seen.
    Crystals are too few for that: theirs is of unseen strains and displacements.

    Args:
        parts: which files: ``molecules``, ``crystals``.
        val_fraction: share that validates; 0 for none.
        test_fraction: share that tests; 0 for none.
        seed: of the random split.
        references: ``fit`` (least squares over the training set), ``isolated_atoms``, ``none`` or energies
            by element.
        group_by: ``info`` key whose structures stay in one part, for all or by the name of the file.

    Raises:
        ValueError: if a part is unknown or missing, or a fraction out of range.
    """

    parts: Sequence[str] = ("molecules", "crystals")
    _: KW_ONLY
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    references: Spec = "fit"
    group_by: GroupBy = field(default_factory=lambda: {"molecules": "name"})

    def __post_init__(self) -> None:
        known = [part for part in FILES if part != ISOLATED]
        for part in self.parts:
            if part not in known:
                raise ValueError(unknown("part of the bundled data", part, known))
        self._files()

    def load(self, properties: Mapping[str, Property], cutoff: float, dtype: torch.dtype) -> LoadedData:
        return self._files().load(properties, cutoff, dtype)

    def _files(self) -> Files:
        return Files(
            {part: FILES[part] for part in self.parts},
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
            references=self.references,
            isolated_atoms=FILES[ISOLATED] if self.references == ISOLATED else None,
            group_by=self._group_by(),
        )

    def _group_by(self) -> GroupBy:
        if isinstance(self.group_by, str) or self.group_by is None:
            return self.group_by
        return {part: key for part, key in self.group_by.items() if part in self.parts}


def _check_fractions(val: float, test: float) -> None:
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(
            "val_fraction and test_fraction must be at least 0 and leave something to train on, "
            f"got {val} and {test}."
        )


def _check_once(paths: Sequence[Path]) -> None:
    for path, times in Counter(path.resolve() for path in paths).items():
        if times > 1:
            raise ValueError(f"{path} is given {times} times; a structure may train, validate or test, once.")


def _parts(
    structures: Structures,
    files: Mapping[str, NamedFiles],
    fractions: Mapping[str, float],
    seed: int,
    group_by: GroupBy,
) -> dict[str, list[int]]:
    """Rows of each part in the whole set: those of its files, or a random share of the training files."""
    sizes = iter(file.num_structures for file in structures.report.files)
    counts = {part: sum(next(sizes) for _ in named) for part, named in files.items()}
    rows = iter(range(len(structures)))
    parts = {part: list(islice(rows, count)) for part, count in counts.items()}
    if not any(fractions.values()):
        return parts
    training = parts["train"]
    groups = None if group_by is None else _groups([structures[row] for row in training], group_by)
    shares = split(len(training), {"train": None, **fractions}, seed, groups=groups)
    return parts | {part: [training[i] for i in chosen.tolist()] for part, chosen in shares.items()}


def _groups(structures: Sequence[Structure], group_by: str | Mapping[str, str]) -> list[Hashable]:
    """What each structure belongs with; one without a key belongs with no other."""
    datasets = {structure.dataset for structure in structures}
    keys = dict.fromkeys(datasets, group_by) if isinstance(group_by, str) else group_by
    for dataset in keys:
        if dataset not in datasets:
            raise KeyError(f"group_by: {unknown('dataset', dataset, datasets)}")
    named = [(s, keys[s.dataset]) for s in structures if s.dataset in keys]
    for key in set(keys.values()):
        known = {name for structure, own in named if own == key for name in structure.info}
        if key not in known:
            raise KeyError(f"group_by: {unknown('info key', key, known)}")
    return [_group(structure, keys.get(structure.dataset), row) for row, structure in enumerate(structures)]


def _group(structure: Structure, key: str | None, row: int) -> Hashable:
    return row if key is None or key not in structure.info else str(structure.info[key])


def _isolated(file: FilePath | None, keys: Mapping[str, str] | None) -> Structures | None:
    if file is None:
        return None
    keys = {name: key for name, key in (keys or {}).items() if name == "energy"}
    return read(file, {"energy": PROPERTIES["energy"]}, keys=keys)


def _references(
    spec: Spec, properties: Mapping[str, Property], training: Sequence[Structure], isolated: Structures | None
) -> References:
    if "energy" not in properties:
        return References.none("none, because no energy is asked for")
    if spec == "fit" and not any("energy" in structure.labels for structure in training):
        # no error here: whoever needs energies says so with the whole report at hand
        return References.none("none, because no training structure has an energy to fit to")
    return references(spec, training, isolated)


def _packed(
    structures: Structures,
    parts: Mapping[str, Sequence[int]],
    properties: Mapping[str, Property],
    cutoff: float,
    dtype: torch.dtype,
    *,
    found: References,
) -> LoadedData:
    def part(name: str) -> Packed:
        rows = parts.get(name, ())
        chosen = [structures[row] for row in rows]
        return pack(chosen, properties, cutoff, references=found, dtype=dtype, index=rows)

    val, test = part("val"), part("test")
    return LoadedData(
        train=part("train"),
        val=val if len(val) else None,
        test=test if len(test) else None,
        references=found,
        report=structures.report,
        config_types=tuple(sorted({s.config_type for s in structures})),
        datasets=tuple(sorted({s.dataset for s in structures})),
        sources=tuple(s.source for s in structures),
    )
