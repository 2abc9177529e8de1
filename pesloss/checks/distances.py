"""Atoms that are too close to each other, or too far for any of them to see another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Bool, Float64, Int64

from pesloss.checks.findings import Finding, counted
from pesloss.checks.subject import Subject
from pesloss.data.neighbors import Neighbors

OVERLAPPING = 0.4
"""Distance over the sum of the covalent radii below which no bond and no temperature of a simulation brings
two atoms; only scans of the repulsive wall do."""
SHORTER_THAN_BONDS = 0.6
"""The same where bonds end: those of N₂ and CO, the shortest by this measure, have 0.78 at rest."""
SHORTEST = 0.5  # Å; the shortest bond of all, of H₂, has 0.74 Å at rest
ALONE = 6.0  # Å; beyond usual cutoffs
VACUUM = 8.0  # Å without atoms along all three lattice vectors: a molecule in a box
DILUTE = 50.0  # Å³ an atom, which few structures with less vacuum than that have
LOOKED_AT = 1000  # structures whose neighbours are looked for beyond the cutoff
CHUNK = 2000  # structures whose edges are in memory together


class Contacts(NamedTuple):
    """The closest two atoms of each structure, measured by the sum of their covalent radii.

    Args:
        atoms: both, counted within the structure; −1 where no two atoms see each other.
        ratios: distance over the sum of radii; infinite there.
        lengths: distance in Å; infinite there.
    """

    atoms: Int64[np.ndarray, "structures 2"]
    ratios: Float64[np.ndarray, "structures"]
    lengths: Float64[np.ndarray, "structures"]


def distances(subject: Subject) -> Iterator[Finding]:
    """Atoms that overlap are a mistake or rule the loss; atoms that see no other have nothing to teach.

    Pairs are those of the neighbour lists; see :data:`OVERLAPPING` for what is too close.
    """
    found = contacts(subject)
    overlapping = (found.ratios < OVERLAPPING) | (found.lengths < SHORTEST)
    short = (found.ratios < SHORTER_THAN_BONDS) & ~overlapping
    yield from _too_close(subject, found, overlapping)
    yield from _close(subject, found, short)
    yield from _alone(subject)
    yield from _boxed(subject)


def contacts(subject: Subject, begin: int = 0, end: int | None = None) -> Contacts:
    """The closest two atoms of each structure of the store, or of those from ``begin`` to ``end``."""
    ends = [*range(begin, len(subject.store) if end is None else end, CHUNK), end or len(subject.store)]
    parts = [_contacts(subject, first, last) for first, last in pairwise(ends)]
    return Contacts(*map(np.concatenate, zip(_nothing(0), *parts, strict=True)))


def _nothing(num: int) -> Contacts:
    return Contacts(np.full((num, 2), -1), np.full(num, np.inf), np.full(num, np.inf))


def _contacts(subject: Subject, begin: int, end: int) -> Contacts:
    store, found = subject.store, _nothing(end - begin)
    centres, neighbors, owner, shifts = _edges(subject, begin, end)
    if not len(owner):
        return found
    atoms = slice(store.atom_ptr[begin], store.atom_ptr[end])
    vectors = store.atoms["positions"][atoms].take(neighbors, axis=0)
    vectors -= store.atoms["positions"][atoms].take(centres, axis=0)
    crossing = np.flatnonzero(shifts.any(axis=1))
    cells = store.structures["cell"][begin:end].take(owner[crossing], axis=0)
    vectors[crossing] += np.einsum("ek,ekx->ex", shifts[crossing], cells)
    lengths = np.sqrt(np.einsum("ex,ex->e", vectors, vectors))
    radii = covalent_radii[store.atoms["numbers"][atoms]]
    ratios = lengths / (radii[centres] + radii[neighbors])
    # the edges of a structure stand together
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    closest = np.repeat(np.minimum.reduceat(ratios, starts), np.diff(starts, append=len(owner)))
    edges = np.flatnonzero(ratios == closest)[::-1]  # so that of equal ones the first is kept
    rows = owner[edges]
    first = (store.atom_ptr[begin:end] - atoms.start)[rows]
    found.atoms[rows] = np.stack([centres[edges] - first, neighbors[edges] - first], axis=1)
    found.ratios[rows], found.lengths[rows] = ratios[edges], lengths[edges]
    return found


def _edges(subject: Subject, begin: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centre and neighbour, counted from the first atom of these structures, structure, counted likewise, and
    shift of each edge; of the two ways of an edge between two atoms one is enough."""
    store = subject.store
    atoms = slice(store.atom_ptr[begin], store.atom_ptr[end])
    edges = slice(store.edge_ptr[begin], store.edge_ptr[end])
    centres = np.repeat(np.arange(atoms.stop - atoms.start), store.atoms["num_neighbors"][atoms])
    owner = np.repeat(np.arange(end - begin), store.structures["num_edges"][begin:end])
    neighbors = store.edges["neighbor"][edges] + (store.atom_ptr[begin:end] - atoms.start)[owner]
    once = np.flatnonzero(neighbors >= centres)
    return centres[once], neighbors[once], owner[once], store.edges["shift"][edges][once, :3]


def _too_close(subject: Subject, found: Contacts, where: Bool[np.ndarray, "structures"]) -> Iterator[Finding]:
    rows = _closest_first(found, where)
    if len(rows):
        yield Finding(
            "warning",
            "distances",
            f"Atoms overlap in {counted(len(rows), 'structure')}: {_pair(subject, found, int(rows[0]))}. "
            "Unless these scan the repulsive wall on purpose, positions, cell or the unit of length are "
            f"wrong (data.units.length); data.min_distance={SHORTEST} refuses closer atoms when reading.",
            subject.names(rows),
            len(rows),
        )


def _close(subject: Subject, found: Contacts, where: Bool[np.ndarray, "structures"]) -> Iterator[Finding]:
    rows = _closest_first(found, where)
    if len(rows):
        common = 2 * len(rows) > len(where)
        why = "Is the unit of length right (data.units.length)?" if common else "Their forces are large."
        yield Finding(
            "warning" if common else "note",
            "distances",
            f"Atoms are closer than in any bond in {counted(len(rows), 'structure')}: "
            f"{_pair(subject, found, int(rows[0]))}. {why}",
            subject.names(rows),
            len(rows),
        )


def _alone(subject: Subject) -> Iterator[Finding]:
    """Structures of several atoms none of which has another within ``ALONE``."""
    structures = subject.store.structures
    empty = np.flatnonzero((structures["num_edges"] == 0) & (structures["num_atoms"] > 1))
    neighbors = Neighbors(ALONE)
    rows = [row for row in empty[:LOOKED_AT].tolist() if not _pairs(subject, row, neighbors)]
    if rows:
        yield Finding(
            "note",
            "distances",
            f"In {counted(len(rows), 'structure')} of several atoms no two are within {ALONE:g} Å of each "
            "other: to a model with such a cutoff these are isolated atoms, whose energies add up and whose "
            "forces are 0. Is the unit of length right (data.units.length)?",
            subject.names(rows),
            len(rows),
        )


def _pairs(subject: Subject, row: int, neighbors: Neighbors) -> int:
    structures = subject.store.structures
    positions = subject.store.atoms["positions"][subject.atoms(row)]
    return len(neighbors(positions, structures["cell"][row], structures["pbc"][row])[1])


def _boxed(subject: Subject) -> Iterator[Finding]:
    """Stresses of molecules in periodic boxes, which depend on the size of the box and on nothing else."""
    labelled = [column for name in ("stress", "virial") if (column := subject.column(name)) is not None]
    if not labelled:
        return
    has = np.any([np.isfinite(column).any(axis=(1, 2)) for column in labelled], axis=0)
    rows = np.flatnonzero(has & subject.periodic)
    rows = rows[_volumes(subject, rows) > DILUTE * subject.store.structures["num_atoms"][rows]]
    rows = rows[(_gaps(subject, rows) > VACUUM).all(axis=1)]
    if len(rows):
        yield Finding(
            "note",
            "distances",
            f"{counted(len(rows), 'structure')} with a label of stress but more than {VACUUM:g} Å of vacuum "
            "along every lattice vector: the stress of a molecule in a box changes with the size of the "
            "box alone and teaches nothing; leave that label out (NaN).",
            subject.names(rows),
            len(rows),
        )


def _volumes(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows"]:
    return np.abs(np.linalg.det(subject.store.structures["cell"][rows]))


def _gaps(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows 3"]:
    """Largest distance without an atom, between planes of the crystal, along each lattice vector."""
    atoms = np.flatnonzero(np.isin(subject.owner, rows))
    owner = np.repeat(np.arange(len(rows)), subject.store.structures["num_atoms"][rows])
    inverse = np.linalg.inv(subject.store.structures["cell"][rows])
    places = np.einsum("ax,axk->ak", subject.store.atoms["positions"][atoms], inverse[owner]) % 1.0
    gaps = [_largest_gap(places[:, axis], owner, len(rows)) for axis in range(3)]
    # the planes of a lattice vector are as far apart as its reciprocal is short
    return np.stack(gaps, axis=1) / np.linalg.norm(inverse, axis=1)


def _largest_gap(
    places: Float64[np.ndarray, "atoms"], owner: Int64[np.ndarray, "atoms"], num: int
) -> Float64[np.ndarray, "structures"]:
    """Largest gap between fractional coordinates of each structure, over the boundary too."""
    gaps = np.zeros(num)
    if num:
        ordered = places[np.lexsort((places, owner))]
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        following = np.append(ordered[1:], 0.0)
        ends = np.append(starts[1:], len(owner)) - 1
        following[ends] = ordered[starts] + 1.0
        gaps = np.maximum.reduceat(following - ordered, starts)
    return gaps


def _closest_first(found: Contacts, where: Bool[np.ndarray, "structures"]) -> Int64[np.ndarray, "rows"]:
    rows = np.flatnonzero(where)
    return rows[np.argsort(found.ratios[rows], kind="stable")]


def _pair(subject: Subject, found: Contacts, row: int) -> str:
    numbers = subject.store.atoms["numbers"][subject.atoms(row)]
    first, second = (f"{chemical_symbols[numbers[atom]]} {atom}" for atom in found.atoms[row].tolist())
    return (
        f"{first} and {second} of {subject.name(row)} are {found.lengths[row]:.2f} Å apart, "
        f"{found.ratios[row]:.2f} of the sum of their covalent radii"
    )
