"""What checks are tried on: a loss and a few structures, written to files and read as anybody's are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms

from pesloss import NormalLoss
from pesloss.checks.findings import Finding, Table
from pesloss.checks.subject import Subject
from pesloss.data import Files
from pesloss.losses import TotalLoss

CUTOFF = 3.0  # Å


def loss(*properties: str, **options: Any) -> TotalLoss:
    """Mean squared errors of some properties; of energy, forces and stress by default."""
    names = properties or ("energy", "forces", "stress")
    return NormalLoss({name: {"penalty": "squared"} for name in names}, **options)


def subject(
    folder: Path,
    train: Sequence[Atoms] | Mapping[str, Sequence[Atoms]],
    *,
    val: Sequence[Atoms] | None = None,
    test: Sequence[Atoms] | None = None,
    loss: TotalLoss | None = None,
    **options: Any,
) -> Subject:
    """Structures with labels where ASE puts them (one list, or lists by dataset) and a loss.

    Args:
        folder: where the files go.
        options: of ``Files``.
    """
    parts = {"val": val, "test": test}
    paths = {part: _write(folder / f"{part}.xyz", atoms) for part, atoms in parts.items() if atoms}
    own = {name: _write(folder / f"{name}.xyz", atoms) for name, atoms in _by_dataset(train).items()}
    given = own if isinstance(train, Mapping) else own["train"]
    options = {"val_fraction": 0.0, "test_fraction": 0.0, "cache": None, "min_distance": 1e-6, **options}
    return of(Files(given, **paths, **options), loss)


def of(source: Any, minimised: TotalLoss | None = None) -> Subject:
    """Any source of data, with a loss."""
    minimised = loss() if minimised is None else minimised
    return Subject(minimised, source.load(minimised.labels, CUTOFF, torch.float64))


def findings(said: Any) -> list[Finding]:
    """Findings among what a check says."""
    return [one for one in said if isinstance(one, Finding)]


def tables(said: Any) -> list[Table]:
    """Tables among what a check says."""
    return [one for one in said if isinstance(one, Table)]


def _by_dataset(train: Sequence[Atoms] | Mapping[str, Sequence[Atoms]]) -> Mapping[str, Sequence[Atoms]]:
    return train if isinstance(train, Mapping) else {"train": train}


def _write(path: Path, atoms: Sequence[Atoms]) -> Path:
    ase.io.write(path, list(atoms), format="extxyz")
    return path
