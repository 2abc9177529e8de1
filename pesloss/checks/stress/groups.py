"""Structures that are judged together, since a dataset may change its convention between its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from pesloss.checks.subject import Subject
from pesloss.losses.batch import group_code

MOST_GROUPS = 40
"""How many are judged, the largest, so that a set of a thousand config types takes seconds."""

MOST_FILES = 20
"""Number of files above which they are not judged one by one."""

COPIED = 1e-3
"""Difference of stresses, over their root mean square, of structures that count as copies of each other."""


@dataclass(frozen=True)
class Labels:
    """Stresses of the structures that have one, as they were read.

    Args:
        name: of the property that labels them, ``stress`` or ``virial``.
        rows: structures of the store with a volume and all nine numbers.
        stress: of each of them, in eV/Å³.
    """

    name: str
    rows: Int64[np.ndarray, "labelled"]
    stress: Float64[np.ndarray, "labelled 3 3"]

    def of(self, rows: Int64[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows 3 3"]:
        """Stresses of some of them, which are sorted in ``rows``."""
        return self.stress[np.searchsorted(self.rows, rows)]

    def distinct(self, rows: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "distinct"]:
        """The first of those with about the same stress: a copy is no further evidence."""
        stress = self.of(rows).reshape(len(rows), 9)
        step = COPIED * (float(np.sqrt((stress**2).mean())) or 1.0)
        _, first = np.unique(np.round(stress / step), axis=0, return_index=True)
        return rows[np.sort(first)]


@dataclass(frozen=True)
class Group:
    """Structures of one dataset, file and config type.

    Args:
        name: in words, by what tells it from the others.
        rows: of the store, all with a stress.
        file: place of its file among those of the store; ``None`` if there are several.
    """

    name: str
    rows: Int64[np.ndarray, "rows"]
    file: int | None


def labels(subject: Subject) -> Labels | None:
    """Stresses that the loss compares with, from stress or virial; ``None`` if there are none."""
    for name in ("stress", "virial"):
        column = subject.column(name)
        if column is not None:
            cells = subject.store.structures["cell"]
            volumes = np.abs(np.linalg.det(cells))
            usable = subject.periodic & (volumes > 0) & np.isfinite(column).all(axis=(1, 2))
            rows = np.flatnonzero(usable)
            values = np.asarray(column[rows])
            return Labels(name, rows, values if name == "stress" else -values / volumes[rows, None, None])
    return None


def groups(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> list[Group]:
    """Groups of some structures, the largest first."""
    columns = subject.store.structures
    codes = {name: np.asarray(columns[name][rows]) for name in ("dataset", "file", "config_type")}
    by_file = len(np.unique(codes["file"])) <= MOST_FILES
    told = [codes["file" if by_file else "dataset"], codes["config_type"]]
    _, group = np.unique(np.stack(told, axis=1), axis=0, return_inverse=True)
    members = [rows[group.reshape(-1) == one] for one in range(int(group.max(initial=-1)) + 1)]
    namer = _Namer(subject, codes, by_file)
    largest = sorted(members, key=len, reverse=True)
    return [
        Group(namer(int(own[0])), own, int(columns["file"][own[0]]) if by_file else None) for own in largest
    ]


class _Namer:
    """Names a group by what tells it from the others."""

    def __init__(self, subject: Subject, codes: Mapping[str, np.ndarray], by_file: bool) -> None:
        self.subject = subject
        kinds = {name: len(np.unique(values)) for name, values in codes.items()}
        self.config_types = {group_code(name): name for name in subject.data.config_types}
        self.datasets = {group_code(name): name for name in subject.data.datasets}
        self.by_type = kinds["config_type"] > 1
        self.by_dataset = kinds["dataset"] > 1
        self.by_file = by_file and kinds["file"] > max(kinds["dataset"], 1)

    def __call__(self, row: int) -> str:
        structures = self.subject.store.structures
        words = []
        if self.by_type:
            words.append(f"config type '{self.config_types[int(structures['config_type'][row])]}'")
        if self.by_file:
            words.append(self.subject.store.about["files"][int(structures["file"][row])])
        elif self.by_dataset:
            words.append(f"dataset '{self.datasets[int(structures['dataset'][row])]}'")
        return " of ".join(words) or "all structures"
