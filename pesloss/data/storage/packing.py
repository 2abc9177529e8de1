"""From structures, or from files, to a store of packed structures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pesloss.data.neighbors import Neighbors
from pesloss.data.progress import counted
from pesloss.data.reading.files import File
from pesloss.data.reading.geometry import MIN_DISTANCE
from pesloss.data.reading.reader import Reader, check_keys
from pesloss.data.reading.report import Report
from pesloss.data.reading.structures import Structure
from pesloss.data.references import References
from pesloss.data.storage.packed import Packed
from pesloss.data.storage.store import NO_GROUP, Store, Writer
from pesloss.losses.batch import group_code
from pesloss.losses.properties import Property


def pack(
    structures: Iterable[Structure],
    properties: Mapping[str, Property],
    cutoff: float,
    *,
    references: References | None = None,
    dtype: torch.dtype = torch.float64,
    min_distance: float = MIN_DISTANCE,
) -> Packed:
    """Labelled structures and their neighbour lists, packed in memory.

    Args:
        structures: what to pack; may be none.
        properties: labels to keep, by name; one that no structure has is left out.
        cutoff: of the neighbour lists, in Å.
        references: reference energies of the elements; none by default.
        dtype: of every floating tensor of a batch.
        min_distance: in Å; atoms that are closer are a mistake.

    Raises:
        ValueError: if an element has no reference, atoms are too close, the cutoff is not positive, or a
            property's name means something else in a batch.
        TypeError: if ``dtype`` is not floating.
    """
    with closing(Writer(properties, Neighbors(cutoff), min_distance=min_distance)) as writer:
        for structure in structures:
            writer.append(structure)
        store = writer.finish(Report(()))
    lost = None if references is None or "energy" not in store.structures else references.of(store)
    return Packed(store, dtype=dtype, reference=lost)


@dataclass(frozen=True)
class Packing:
    """What is to be packed: which files, how they are read, and what their structures get.

    Args:
        files: in the order of their structures.
        properties: labels to read, by name.
        cutoff: of the neighbour lists, in Å.
        min_distance: in Å; atoms that are closer are a mistake.
        group_by: dataset -> ``info`` key; a split keeps structures together that share its value.
    """

    files: tuple[File, ...]
    properties: Mapping[str, Property]
    cutoff: float
    min_distance: float = MIN_DISTANCE
    group_by: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path | None = None) -> Store:
        """Read the files one structure at a time and pack them, into a folder or into memory.

        Raises:
            ValueError: naming file, structure and field of what makes no sense.
        """
        readers = [Reader(file, self.properties, info=self._info(file)) for file in self.files]
        neighbors = Neighbors(self.cutoff)
        with closing(Writer(self.properties, neighbors, folder, min_distance=self.min_distance)) as writer:
            for file, reader in zip(self.files, readers, strict=True):
                for structure in counted(reader, str(file)):
                    writer.append(structure, self._group(file, structure))
            check_keys(readers)
            return writer.finish(Report(tuple(reader.report for reader in readers)))

    def write_unchanged(self, folder: Path) -> Store:
        """The same for a folder that goes by ``key``.

        Raises:
            ValueError: if a file was changed while it was read.
        """
        key, store = self.key(), self.write(folder)
        if self.key() != key:
            raise ValueError(f"{', '.join(map(str, self.files))}: changed while they were read; start again.")
        return store

    def key(self) -> str:
        """A name that any change of the files, of an option or of the code that packs would change."""
        content = {
            "files": [{**asdict(file), "sampling": None} for file in self.files],
            "contents": [_stamps(Path(file.path)) for file in self.files],
            "properties": {name: asdict(prop) for name, prop in self.properties.items()},
            "cutoff": self.cutoff,
            "min_distance": self.min_distance,
            "group_by": dict(self.group_by),
            "versions": {name: version(name) for name in ("ase", "numpy", "vesin")},
            "code": _code(),
        }
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _info(self, file: File) -> list[str]:
        return [key for dataset, key in self.group_by.items() if dataset == file.dataset]

    def _group(self, file: File, structure: Structure) -> int:
        values = [structure.info[key] for key in self._info(file) if key in structure.info]
        return group_code(str(values[0])) if values else NO_GROUP


def _stamps(path: Path) -> list[Any]:
    """Where a file lies, its size and the time of its last change; of all files, if it is a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


@cache
def _code() -> str:
    """Digest of the source files that decide what a store holds, as they were when this process began."""
    package = Path(__file__).parents[2]
    files = [file for file in package.glob("data/**/*.py") if "bundled" not in file.parts]
    files += [package / "losses" / "properties.py"]
    return hashlib.blake2b(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()
