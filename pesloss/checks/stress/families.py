"""Families of similar cells: one composition, lattice vectors that differ by a small strain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from pesloss.checks.subject import Subject

SMALL = 0.1
"""Largest strain of a family: about where the response of a crystal stops being linear."""

LEAST = 4
"""Fewest structures of a family."""

MOST = 2000
"""Structures of a group that are looked at, those of the commonest compositions first."""

TRIES = 20
"""How many families are looked for in one composition."""


@dataclass(frozen=True)
class Family:
    """Structures of similar cells.

    Args:
        rows: of the store.
        strain: of each, symmetric, from the mean of their cells.
    """

    rows: Int64[np.ndarray, "rows"]
    strain: Float64[np.ndarray, "rows 3 3"]


def families(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> Iterator[Family]:
    """Families among some structures, each structure in one at most."""
    cells = subject.store.structures["cell"]
    for own in _by_composition(subject, rows):
        for _ in range(TRIES):
            if len(own) < LEAST:
                break
            near = np.abs(_deformation(cells[own[0]], cells[own])).max(axis=(1, 2)) < SMALL
            if near.sum() >= LEAST:
                yield Family(own[near], _strain(cells[own[near]]))
            own = own[~near]


def _by_composition(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> list[Int64[np.ndarray, "_"]]:
    """Structures of one composition each, the commonest first, ``MOST`` together."""
    _, code, counts = np.unique(_compositions(subject)[rows], return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = order[np.cumsum(counts[order]) - counts[order] < MOST]
    return [rows[code.reshape(-1) == one][:MOST] for one in kept if counts[one] >= LEAST]


def _compositions(subject: Subject) -> Int64[np.ndarray, "structures"]:
    """A number for each structure, the same for the same atoms in any order."""
    words = np.random.default_rng(0).integers(0, 2**62, 256)
    numbers = words[subject.store.atoms["numbers"]]
    return np.add.reduceat(numbers, subject.store.atom_ptr[:-1]) if len(numbers) else numbers


def _strain(cells: Float64[np.ndarray, "rows 3 3"]) -> Float64[np.ndarray, "rows 3 3"]:
    deformation = _deformation(cells.mean(axis=0), cells)
    return (deformation + deformation.swapaxes(1, 2)) / 2


def _deformation(
    reference: Float64[np.ndarray, "3 3"], cells: Float64[np.ndarray, "rows 3 3"]
) -> Float64[np.ndarray, "rows 3 3"]:
    return np.linalg.solve(reference, cells) - np.eye(3)
