"""Labelled structures in columns: written one structure at a time, to files or to memory, read as arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int8, Int32, Int64

from pesloss.data.neighbors import Neighbors
from pesloss.data.reading.geometry import MIN_DISTANCE, check_distances
from pesloss.data.reading.report import FileReport, Found, Report, Unused
from pesloss.data.reading.structures import Structure, source
from pesloss.data.storage.columns import Column, mapped
from pesloss.losses.batch import group_code
from pesloss.losses.properties import Property

Arrays: TypeAlias = Mapping[str, np.ndarray]

AXES = ("structures", "atoms", "pairs", "edges")
MANIFEST = "manifest.json"
NO_GROUP = -1

LAYOUT: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "structures": {
        "cell": ("f8", (3, 3)),
        "pbc": ("?", (3,)),
        **dict.fromkeys(("dataset", "config_type", "group", "row", "num_atoms", "num_edges"), ("i8", ())),
        "file": ("i4", ()),
    },
    "atoms": {
        "numbers": ("u1", ()),
        "positions": ("f8", (3,)),
        "fixed": ("?", ()),
        "num_neighbors": ("i4", ()),
    },
    "pairs": {},
    # a fourth, empty number makes a shift one word, which is gathered as fast as a neighbour
    "edges": {"neighbor": ("i4", ()), "shift": ("i1", (4,))},
}
"""Dtype and shape of the columns besides labels and weights, which are float64."""

RESERVED = frozenset(
    {
        *(name for columns in LAYOUT.values() for name in columns),
        *("ptr", "batch", "edge_index", "edge_shift", "weight", "atom_weight", "index"),
    }
)
"""Names that no property can have."""


class DamagedError(ValueError):
    """A folder that does not hold what a store wrote."""


@dataclass(frozen=True)
class Store:
    """Structures one after another along the atom axis and the edge axis, in columns.

    Energies are total energies; a label that a structure does not have is NaN, a weight is 1. The edges of
    an atom follow those of the atom before it, so that ``num_neighbors`` says whose they are.

    Args:
        structures: name -> ``[structures, ...]``.
        atoms: name -> ``[atoms, ...]``.
        pairs: name -> ``[pairs, ...]``, (1,1), (1,2), ... (N,N) of each structure.
        edges: ``neighbor [edges]``, counted within the structure, and ``shift [edges, 4]``, the whole cell
            vectors to its image and an unused number.
        about: names, files and report, as plain data.
        folder: where the columns are mapped from; ``None`` if they are in memory.
    """

    structures: Arrays
    atoms: Arrays
    pairs: Arrays
    edges: Arrays
    about: Mapping[str, Any]
    folder: Path | None = None

    @classmethod
    def open(cls, folder: Path) -> Store:
        """A store that was written to a folder; its columns stay in their files until they are used.

        Raises:
            DamagedError: if something is missing or has the wrong size.
        """
        try:
            about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            structures, atoms, pairs, edges = (
                {name: mapped(folder, column) for name, column in about["columns"][axis].items()}
                for axis in AXES
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{folder} holds no packed structures: {error!r}.") from error
        return cls(structures, atoms, pairs, edges, about, folder)

    def __reduce__(self) -> tuple[Any, ...]:
        # another process maps the files too, instead of receiving what they hold
        if self.folder is not None:
            return Store.open, (self.folder,)
        return Store, (self.structures, self.atoms, self.pairs, self.edges, self.about)

    def __len__(self) -> int:
        return len(self.structures["num_atoms"])

    @cached_property
    def atom_ptr(self) -> Int64[np.ndarray, "offsets"]:
        """First atom of each structure, and the end."""
        return _offsets(self.structures["num_atoms"])

    @cached_property
    def pair_ptr(self) -> Int64[np.ndarray, "offsets"]:
        """First pair of each structure, and the end."""
        return _offsets(self.structures["num_atoms"] ** 2)

    @cached_property
    def edge_ptr(self) -> Int64[np.ndarray, "offsets"]:
        """First edge of each structure, and the end."""
        return _offsets(self.structures["num_edges"])

    @property
    def report(self) -> Report:
        """Where the labels came from."""
        return Report(tuple(_file_report(file) for file in self.about["report"]["files"]))

    @property
    def num_bytes(self) -> int:
        """Size of all columns."""
        return sum(array.nbytes for axis in AXES for array in getattr(self, axis).values())

    @property
    def digest(self) -> str:
        """Text that is the same for the same structures, labels and edges, wherever they are stored."""
        columns = [self.about["columns"][axis] for axis in AXES]
        return json.dumps([{name: column["digest"] for name, column in sorted(c.items())} for c in columns])

    def source(self, row: int) -> str:
        """File of a structure and its place there, for messages."""
        file = self.about["files"][int(self.structures["file"][row])]
        return source(file, int(self.structures["row"][row]))


class Writer:
    """Appends structures to columns, in files or in memory; with files, memory does not grow.

    Args:
        properties: labels to keep, by name.
        neighbors: finds the edges.
        folder: where the files go; ``None`` for memory.
        min_distance: in Å; atoms that are closer are a mistake.

    Raises:
        ValueError: if a property has the name of something else in a batch.
    """

    def __init__(
        self,
        properties: Mapping[str, Property],
        neighbors: Neighbors,
        folder: Path | None = None,
        *,
        min_distance: float = MIN_DISTANCE,
    ) -> None:
        if taken := RESERVED & set(properties):
            names = ", ".join(sorted(taken))
            raise ValueError(f"A property cannot be called {names}: that is something else in a batch.")
        self._properties, self._neighbors, self._folder = properties, neighbors, folder
        self._min_distance = min_distance
        self._weighted = {"weight": "structures", "atom_weight": "atoms"}
        axes = {"structure": "structures", "atom": "atoms", "pair": "structures"}
        self._weighted |= {f"{name}_weight": axes[prop.rows] for name, prop in properties.items()}
        self._rows: dict[str, int] = dict.fromkeys(AXES, 0)
        self._files: dict[str, int] = {}
        self._names: dict[str, set[str]] = {"dataset": set(), "config_type": set()}
        self._columns: dict[str, dict[str, Column]] = {
            axis: {n: Column(n, dtype, entry, folder=folder) for n, (dtype, entry) in columns.items()}
            for axis, columns in LAYOUT.items()
        }

    def append(self, structure: Structure, group: int = NO_GROUP) -> None:
        """One structure more.

        Args:
            structure: with its labels.
            group: code of the structures that a split keeps together with it.

        Raises:
            ValueError: if two atoms are too close, or too many cells apart.
        """
        index, shift = self._neighbors(structure.positions, structure.cell, structure.pbc)
        check_distances(structure, index, shift, self._min_distance)
        self._write("structures", self._about(structure, group, len(shift)))
        self._write("atoms", _atoms(structure, index[0]))
        self._write("edges", {"neighbor": index[1], "shift": _words(structure, shift)})
        self._write_labels(structure)
        self._write_weights(structure)
        atoms = structure.num_atoms
        sizes = {"structures": 1, "atoms": atoms, "pairs": atoms**2, "edges": len(shift)}
        self._rows = {axis: rows + sizes[axis] for axis, rows in self._rows.items()}

    def finish(self, report: Report) -> Store:
        """All that was written; files are on their disk."""
        for axis, column in self._all():
            column.pad(self._rows[axis])
        about = self._manifest(report)
        if self._folder is None:
            structures, atoms, pairs, edges = (
                {name: column.array() for name, column in self._columns[axis].items()} for axis in AXES
            )
            return Store(structures, atoms, pairs, edges, about)
        for _, column in self._all():
            column.sync()
        with (self._folder / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(about, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        return Store.open(self._folder)

    def close(self) -> None:
        """Close the files."""
        for _, column in self._all():
            column.close()

    def _all(self) -> Iterator[tuple[str, Column]]:
        return ((axis, column) for axis, columns in self._columns.items() for column in columns.values())

    def _write(self, axis: str, values: Arrays) -> None:
        for name, value in values.items():
            self._columns[axis][name].write(self._rows[axis], value)

    def _about(self, structure: Structure, group: int, num_edges: int) -> dict[str, np.ndarray]:
        for kind, names in self._names.items():
            names.add(getattr(structure, kind))
        numbers = {
            "dataset": group_code(structure.dataset),
            "config_type": group_code(structure.config_type),
            "file": self._files.setdefault(structure.file, len(self._files)),
            "row": structure.row,
            "group": group,
            "num_atoms": structure.num_atoms,
            "num_edges": num_edges,
        }
        words = {name: np.array(number) for name, number in numbers.items()}
        return {**words, "cell": structure.cell, "pbc": structure.pbc}

    def _write_labels(self, structure: Structure) -> None:
        for name, label in structure.labels.items():
            if name in self._properties and np.isfinite(label).any():
                prop = self._properties[name]
                column = self._floats(f"{prop.rows}s", name, tuple(prop.shape), np.nan)
                column.write(self._rows[f"{prop.rows}s"], label)

    def _write_weights(self, structure: Structure) -> None:
        for name, axis in self._weighted.items():
            if name in structure.weights:
                weight, by_atom = structure.weights[name], axis == "atoms"
                column = self._floats(axis, name, weight.shape[1:] if by_atom else (), 1.0)
                if by_atom and weight.ndim <= len(column.entry):
                    weight = weight[:, None].repeat(column.size, axis=1)
                column.write(self._rows[axis], weight)

    def _floats(self, axis: str, name: str, entry: tuple[int, ...], fill: float) -> Column:
        """A column of labels or weights; one weight an atom becomes one a direction where these turn up."""
        columns = self._columns[axis]
        if name not in columns:
            columns[name] = Column(name, "f8", entry, fill=fill, folder=self._folder)
        elif len(entry) > len(columns[name].entry):
            columns[name] = columns[name].spread(entry)
        return columns[name]

    def _manifest(self, report: Report) -> dict[str, Any]:
        columns = {axis: {n: c.about() for n, c in named.items()} for axis, named in self._columns.items()}
        return {
            "columns": columns,
            "labels": [name for name in self._properties if any(name in named for named in columns.values())],
            "files": list(self._files),
            "datasets": sorted(self._names["dataset"]),
            "config_types": sorted(self._names["config_type"]),
            "report": report.as_dict(),
        }


def _offsets(counts: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "offsets"]:
    return np.concatenate([[0], np.cumsum(counts)])


def _atoms(structure: Structure, centres: Int32[np.ndarray, "edges"]) -> Arrays:
    return {
        "numbers": structure.numbers,
        "positions": structure.positions,
        "fixed": structure.fixed,
        "num_neighbors": np.bincount(centres, minlength=structure.num_atoms),
    }


def _words(structure: Structure, shift: Int32[np.ndarray, "edges 3"]) -> Int8[np.ndarray, "edges 4"]:
    words = np.zeros((len(shift), 4), np.int8)
    words[:, :3] = shift
    if (words[:, :3] != shift).any():
        raise ValueError(
            f"{structure.source}: positions: neighbours lie {np.abs(shift).max()} cells apart, "
            "but no more than 127 can be stored; wrap the atoms into the cell."
        )
    return words


def _file_report(about: Mapping[str, Any]) -> FileReport:
    found = tuple(Found(**one) for one in about["properties"])
    unused = tuple(Unused(**one) for one in about["unused"])
    return FileReport(**{**about, "properties": found, "unused": unused})
