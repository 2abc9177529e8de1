"""What a config names as its data: files or the bundled set, read, packed, split and referenced."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pesloss.data.bundled import FILES
from pesloss.data.reading.files import File, Paths, as_files
from pesloss.data.reading.formats.base import INFO
from pesloss.data.reading.geometry import MIN_DISTANCE
from pesloss.data.reading.report import Report
from pesloss.data.references import References, Spec, references
from pesloss.data.splits import split
from pesloss.data.storage.cache import cache_folder, open_or_write
from pesloss.data.storage.packed import Packed
from pesloss.data.storage.packing import Packing
from pesloss.data.storage.store import NO_GROUP, Store
from pesloss.losses.batch import group_code
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.names import unknown

GroupBy: TypeAlias = str | Mapping[str, str] | None
Parts: TypeAlias = Mapping[str, Int64[np.ndarray, "_"]]

ISOLATED = "isolated_atoms"


class Dataset(NamedTuple):
    """The training structures that go by one name.

    Args:
        structures: their number.
        weight: of each in the loss, as its file says; the mean, if its files say different things.
        sampling: how often an epoch takes each, likewise.
    """

    structures: int
    weight: float
    sampling: float


@dataclass(frozen=True)
class LoadedData:
    """Structures ready for training, and what to know about them.

    Args:
        train: what the model learns from; of no structure if there is nothing to learn.
        val: what selects the model; ``None`` if there is none.
        test: what is only reported; ``None`` if there is none.
        references: what the energies have lost.
        trained: datasets of the training structures, by name; their weights are in those of the structures.
        store: all the structures, with total energies.
        storage: where they are kept and how much room they take, in words.
        fingerprint: the same for two loads of the same structures, labels, edges and parts, from wherever.
    """

    train: Packed
    val: Packed | None
    test: Packed | None
    references: References
    trained: Mapping[str, Dataset]
    store: Store
    storage: str
    fingerprint: str

    @property
    def parts(self) -> dict[str, Packed]:
        """Those of the three that there are, by name; ``train`` may be of no structure."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def report(self) -> Report:
        """Where the labels came from."""
        return self.store.report

    @property
    def config_types(self) -> tuple[str, ...]:
        """Names of the config types, sorted."""
        return tuple(self.store.about["config_types"])

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets, sorted."""
        return tuple(self.store.about["datasets"])

    def source(self, index: int) -> str:
        """File of a structure and its place there, by its ``index`` in a batch."""
        return self.store.source(index)


@dataclass(frozen=True)
class Files:
    """Training, validation and test structures from files of the user's own.

    What has no file of its own is split off the training files at random. What was read is kept on disk,
    packed, and opened instead of the files as long as these, the options and the code are the same.

    Args:
        train: a file, several, or files by the name of their dataset; a file is a path or what ``File``
            takes. ``None`` where nothing is learned.
        val: the same for validation.
        test: the same for the test.
        val_fraction: share of the training files that validates if there is no ``val``; 0 for none.
        test_fraction: share of the training files that tests if there is no ``test``; 0 for none.
        seed: of the random split.
        keys: property -> key of its label in the files, where the usual names do not do.
        units: ``energy``, ``length``, ``charge`` or a property -> its unit in the files.
        signs: property -> −1 where the files have the other sign.
        voigt: order of the six numbers of a symmetric stress or virial in the files.
        references: ``fit`` (least squares over the training set), ``isolated_atoms``, ``none`` or energies
            by element.
        isolated_atoms: file with the isolated atoms, if they are not among the training structures.
        group_by: ``info`` key; structures that share its value stay in one part of the random split. By the
            name of a dataset, keys for some of them: ``{molecules: name}``.
        min_distance: in Å; atoms that are closer are a mistake.
        cache: folder for packed structures; ``auto`` for the user's own, ``None`` to have them in memory.

    Raises:
        ValueError: if a fraction is out of range, a file is given twice or none at all, or
            ``isolated_atoms`` is given although the references come from elsewhere.
    """

    train: Paths | None
    val: Paths | None = None
    test: Paths | None = None
    _: KW_ONLY
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    keys: Mapping[str, str] | None = None
    units: Mapping[str, str] | None = None
    signs: Mapping[str, int] | None = None
    voigt: str | None = None
    references: Spec = "fit"
    isolated_atoms: Paths | None = None
    group_by: GroupBy = None
    min_distance: float = MIN_DISTANCE
    cache: str | Path | None = "auto"

    def __post_init__(self) -> None:
        _check_fractions(self.val_fraction, self.test_fraction)
        _check_files([file for part in self._files().values() for file in part])
        if self.isolated_atoms is not None and self.references != ISOLATED:
            raise ValueError(
                f"isolated_atoms = {self.isolated_atoms} is not used with references = {self.references!r}; "
                "choose references = 'isolated_atoms' or leave the file out."
            )

    def load(
        self,
        properties: Mapping[str, Property],
        cutoff: float,
        dtype: torch.dtype,
        references: References | None = None,
    ) -> LoadedData:
        """Read, packed, split and referenced structures; errors name file, structure and field.

        Args:
            properties: labels to read, by name.
            cutoff: of the neighbour lists, in Å.
            dtype: of every floating tensor of a batch.
            references: to be used instead of what the option of that name says.
        """
        files = self._files()
        packing = self._packing(files, properties, cutoff)
        store, storage = _stored(packing, self.cache)
        _check_once(packing.files, store)
        rows = self._parts(store, files, packing.group_by)
        if references is None:
            references = self._references(properties, cutoff, Packed(store, rows["train"]))
        lost = references.of(store) if "energy" in store.structures else None
        counts = _counts(store)
        weight, sampling = (
            np.repeat([float(getattr(file, rate)) for file in packing.files], counts)
            for rate in ("weight", "sampling")
        )
        train = Packed(store, rows["train"], dtype=dtype, reference=lost, sampling=sampling[rows["train"]])
        val, test = (
            Packed(store, rows[part], dtype=dtype, reference=lost) if part in rows else None
            for part in ("val", "test")
        )
        fingerprint = _fingerprint(store, rows, train.sampling, dtype, self.references)
        trained = _datasets(store, rows["train"], weight, sampling)
        return LoadedData(train, val, test, references, trained, store, storage, fingerprint)

    def _files(self) -> dict[str, list[File]]:
        paths = {"train": self.train, "val": self.val, "test": self.test}
        common = {"keys": self.keys, "units": self.units, "signs": self.signs, "voigt": self.voigt}
        return {part: as_files(files, **common) for part, files in paths.items() if files is not None}

    def _packing(
        self, files: Mapping[str, Sequence[File]], properties: Mapping[str, Property], cutoff: float
    ) -> Packing:
        every = tuple(file for part in files.values() for file in part)
        group_by = self._group_keys(files["train"]) if "train" in files else {}
        return Packing(every, properties, cutoff, self.min_distance, group_by)

    def _group_keys(self, training: Sequence[File]) -> Mapping[str, str]:
        """Dataset -> ``info`` key."""
        datasets = {str(file.dataset) for file in training}
        if self.group_by is None or isinstance(self.group_by, str):
            return {} if self.group_by is None else dict.fromkeys(datasets, self.group_by)
        for dataset in self.group_by:
            if dataset not in datasets:
                raise KeyError(f"group_by: {unknown('dataset', dataset, datasets)}")
        return self.group_by

    def _parts(self, store: Store, files: Mapping[str, Sequence[File]], group_by: Mapping[str, str]) -> Parts:
        """Rows of each part: those of its files, or a random share of the training files."""
        ends = np.cumsum([0, *_counts(store)])
        rows, begin = {"train": np.arange(0)}, 0
        for part, own in files.items():
            rows[part] = np.arange(ends[begin], ends[begin + len(own)])
            begin += len(own)
        fractions = {"val": float(self.val_fraction), "test": float(self.test_fraction)}
        fractions = {part: size for part, size in fractions.items() if part not in files and size}
        if "train" not in files or not fractions:
            return rows
        groups = _groups(store, rows["train"], group_by) if group_by else None
        shares = split(len(rows["train"]), {"train": None, **fractions}, self.seed, groups=groups)
        return rows | {part: rows["train"][chosen.numpy()] for part, chosen in shares.items()}

    def _references(self, properties: Mapping[str, Property], cutoff: float, training: Packed) -> References:
        if "energy" not in properties:
            return References.none("none, because no energy is asked for")
        if self.references == "fit" and not len(training):
            raise ValueError(
                "references = 'fit' needs training structures, and train is null; choose 'none' or give "
                "energies by element."
            )
        if self.references == "fit" and "energy" not in training.labelled:
            # no error here: whoever needs energies says so with the whole report at hand
            return References.none("none, because no training structure has an energy to fit to")
        return references(self.references, training, self._isolated(cutoff))

    def _isolated(self, cutoff: float) -> Packed | None:
        if self.isolated_atoms is None:
            return None
        keys, units = (
            {name: entry for name, entry in (entries or {}).items() if name in ("energy", "length")}
            for entries in (self.keys, self.units)
        )
        files = as_files(self.isolated_atoms, keys=keys, units=units)
        return Packed(Packing(tuple(files), {"energy": PROPERTIES["energy"]}, cutoff).write())


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
        cache: folder for packed structures; ``auto`` for the user's own, ``None`` to have them in memory.

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
    cache: str | Path | None = "auto"

    def __post_init__(self) -> None:
        known = [part for part in FILES if part != ISOLATED]
        for part in self.parts:
            if part not in known:
                raise ValueError(unknown("part of the bundled data", part, known))
        self._files()

    def load(
        self,
        properties: Mapping[str, Property],
        cutoff: float,
        dtype: torch.dtype,
        references: References | None = None,
    ) -> LoadedData:
        return self._files().load(properties, cutoff, dtype, references)

    def _files(self) -> Files:
        return Files(
            {part: FILES[part] for part in self.parts},
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
            references=self.references,
            isolated_atoms=FILES[ISOLATED] if self.references == ISOLATED else None,
            group_by=self._group_by(),
            cache=self.cache,
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


def _check_files(files: Sequence[File]) -> None:
    if not files:
        raise ValueError("No file is given: train, val and test are all null.")
    given = Counter((str(file.path), Path(file.path).resolve(), str(file.index)) for file in files)
    for (path, *_), times in given.items():
        if times > 1:
            raise ValueError(f"{path} is given {times} times; a structure may train, validate or test, once.")


def _check_once(files: Sequence[File], store: Store) -> None:
    """Parts of one file have no structure in common."""
    paths = [Path(file.path).resolve() for file in files]
    if len(set(paths)) == len(paths):
        return
    number = np.repeat([paths.index(path) for path in paths], _counts(store))
    rows = np.stack([number, store.structures["row"]])
    _, first, times = np.unique(rows, axis=1, return_index=True, return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"{store.source(int(first[times.argmax()]))} is given {times.max()} times; "
            "a structure may train, validate or test, once."
        )


def _counts(store: Store) -> list[int]:
    """Number of structures of each file."""
    return [file.num_structures for file in store.report.files]


def _datasets(
    store: Store,
    rows: Int64[np.ndarray, "training"],
    weight: Float64[np.ndarray, "stored"],
    sampling: Float64[np.ndarray, "stored"],
) -> dict[str, Dataset]:
    """Datasets that some of the structures belong to."""
    codes = store.structures["dataset"][rows]
    members = {name: rows[codes == group_code(name)] for name in store.about["datasets"]}
    return {
        name: Dataset(len(own), float(weight[own].mean()), float(sampling[own].mean()))
        for name, own in members.items()
        if len(own)
    }


def _stored(packing: Packing, cache: str | Path | None) -> tuple[Store, str]:
    """The packed structures, from the cache if it can be used; and where they are, in words."""
    if cache is None:
        return _in_memory(packing, "")
    folder = cache_folder() if cache == "auto" else Path(cache).expanduser()
    try:
        store = open_or_write(folder, packing.key(), packing.write_unchanged)
    except (OSError, NotImplementedError) as error:  # the latter where files cannot be locked
        # if it was a file of the data that could not be read, reading it again says so
        return _in_memory(packing, f", because the cache {folder} cannot be written ({error})")
    return store, f"{_size(store)} in {store.folder}"


def _in_memory(packing: Packing, reason: str) -> tuple[Store, str]:
    store = packing.write()
    return store, f"{_size(store)} in memory{reason}"


def _size(store: Store) -> str:
    return f"{store.num_bytes / 1e6:.1f} MB"


def _groups(store: Store, rows: Int64[np.ndarray, "training"], keys: Mapping[str, str]) -> list[int]:
    """Code of what each structure belongs with; one without a key belongs with no other.

    Raises:
        KeyError: if no structure of a dataset has its key.
    """
    codes, datasets = store.structures["group"][rows], store.structures["dataset"][rows]
    for key in set(keys.values()):
        named = {dataset for dataset, own in keys.items() if own == key}
        if (codes[np.isin(datasets, [group_code(name) for name in named])] == NO_GROUP).all():
            raise KeyError(f"group_by: {unknown('info key', key, _info_keys(store.report, named))}")
    return np.where(codes == NO_GROUP, -2 - np.arange(len(codes)), codes).tolist()


def _info_keys(report: Report, datasets: Collection[str]) -> set[str]:
    unread = [one for file in report.files if file.dataset in datasets for one in file.unused]
    return {one.key for one in unread if one.where == INFO}


def _fingerprint(
    store: Store, rows: Parts, sampling: Float64[Tensor, "training"], dtype: torch.dtype, spec: Spec
) -> str:
    spec = spec.as_dict() if isinstance(spec, References) else spec
    digest = hashlib.blake2b(f"{store.digest} {dtype} {spec}".encode(), digest_size=16)
    for part in ("train", "val", "test"):
        digest.update(f" {part} ".encode() + rows.get(part, np.arange(0)).tobytes())
    digest.update(sampling.numpy().tobytes())
    return digest.hexdigest()
