"""Structures that occur twice, in one part of the data or in several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from pesloss.checks.compositions import codes
from pesloss.checks.findings import Finding, counted
from pesloss.checks.subject import Subject

SAME = 1e-4
"""Å, by which atoms of copies differ at most: what a change of units or of the number of digits leaves."""
MANY = 0.05  # of the training structures; with more copies than that, look
CONTRADICTION = {"energy": 1e-3, "forces": 0.05, "stress": 1e-3}
"""By how much labels of copies differ, in eV an atom, eV/Å and eV/Å³, before they contradict each other: what
the precision of one method and atoms moved by ``SAME`` do not explain."""
UNITS = {"energy": "eV an atom", "forces": "eV/Å", "stress": "eV/Å³"}

WAVES = ((0,), (1,), (2,), (0, 1), (1, 2), (0, 2))
"""Waves whose structure factors tell structures apart, as sums of the three shortest."""
CLOSED = ((0, 1, 3), (1, 2, 4), (0, 2, 5))  # of which two add up to the third
WIDTH = 1e-3
"""Of the boxes that fingerprints are sorted into: some ten times what copies differ by, and less than what
structures of a simulation do."""
ORIGINS = (0.1415, 0.4142, 0.7183)
"""Of the boxes, in widths: what a boundary separates in one sorting it does not in the next; no round number,
as those are frequent in crystals."""


def duplicates(subject: Subject) -> Iterator[Finding]:
    """Structures that occur twice make a test easier than it seems, count twice, or contradict each other.

    Copies have the same elements, cell and positions up to :data:`SAME`, whatever the origin, the periodic
    images and the order of the elements; rotated ones are not looked for. Isolated atoms are all alike and
    do not count.
    """
    geometry = Geometry(subject)
    group = _groups(_copies(geometry), len(subject.store))
    yield from _leaks(subject, group)
    yield from _repetitions(subject, group)
    yield from _contradictions(geometry, group)


@dataclass(frozen=True)
class Geometry:
    """Structures in a form in which copies can be told.

    Args:
        subject: whose structures.
    """

    subject: Subject

    @cached_property
    def order(self) -> Int64[np.ndarray, "atoms"]:
        """The atoms of each structure by element, and those of one element as they are."""
        return np.argsort(self.subject.owner * 256 + self.subject.store.atoms["numbers"], kind="stable")

    @cached_property
    def cell(self) -> Float64[np.ndarray, "structures 3 3"]:
        """Lattice vectors along which a structure repeats; the others are 0."""
        structures = self.subject.store.structures
        return np.where(structures["pbc"][:, :, None], structures["cell"], 0.0)

    @cached_property
    def reciprocal(self) -> Float64[np.ndarray, "structures 3 3"]:
        """Columns that give the coordinates of a vector along them; the others are 0."""
        pbc, full = self.subject.store.structures["pbc"], self.subject.periodic
        some = pbc.any(axis=1) & ~full
        vectors = np.zeros((len(pbc), 3, 3))
        # of full rank both are the same, and this one is faster
        vectors[full], vectors[some] = np.linalg.inv(self.cell[full]), np.linalg.pinv(self.cell[some])
        return vectors

    @cached_property
    def fingerprints(self) -> Float64[np.ndarray, "structures numbers"]:
        """Numbers that the origin, periodic images and the order of atoms do not change.

        Amplitudes of structure factors, weighted by the square root of the atomic number, and products of
        three whose waves add up to zero, since amplitudes do not tell a structure from its inverse; and the
        cell. The waves are those of the lattice; of a molecule, 2π Å along x, y and z.
        """
        store = self.subject.store
        weights = np.sqrt(store.atoms["numbers"].astype(float))
        phases = [np.exp(1j * phase) for phase in self._phases().T]
        waves = [weights * np.prod([phases[axis] for axis in wave], axis=0) for wave in WAVES]
        factors = _sums(np.column_stack(waves), store.atom_ptr) / _sums(weights[:, None], store.atom_ptr)
        triples = [(factors[:, a] * factors[:, b] * factors[:, c].conj()).imag for a, b, c in CLOSED]
        return np.column_stack([np.abs(factors), *triples, self.cell.reshape(-1, 9)])

    def _phases(self) -> Float64[np.ndarray, "atoms 3"]:
        waves = 2 * np.pi * self.reciprocal
        waves[~self.subject.store.structures["pbc"].any(axis=1)] = np.eye(3)
        return np.einsum("ax,axk->ak", self.subject.store.atoms["positions"], waves[self.subject.owner])

    @cached_property
    def kind(self) -> UInt64[np.ndarray, "structures"]:
        """A number that structures of one composition and periodicity share, and hardly any others."""
        store = self.subject.store
        elements = codes(256)[store.atoms["numbers"]]
        periodicity = store.structures["pbc"] @ codes(3, seed=1)
        return _sums(elements[:, None], store.atom_ptr)[:, 0] + periodicity

    def are_copies(
        self, first: Int64[np.ndarray, "pairs"], second: Int64[np.ndarray, "pairs"]
    ) -> Bool[np.ndarray, "pairs"]:
        """Whether structures of one kind are the same."""
        store = self.subject.store
        atoms, others, owner = self.matched(first, second)
        moved = store.atoms["positions"][others] - store.atoms["positions"][atoms]
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        moved -= moved[starts][owner]
        images = np.rint(np.einsum("ax,axk->ak", moved, self.reciprocal[first[owner]]))
        moved -= np.einsum("ak,akx->ax", images, self.cell[first[owner]])
        ptr = np.append(starts, len(owner))
        moved -= (_sums(moved, ptr) / np.diff(ptr)[:, None])[owner]
        furthest = np.maximum.reduceat(np.abs(moved).max(axis=1), starts) if len(owner) else np.zeros(0)
        same_cell = np.abs(self.cell[first] - self.cell[second]).max(axis=(1, 2)) < SAME
        return same_cell & (furthest < SAME)

    def matched(
        self, first: Int64[np.ndarray, "pairs"], second: Int64[np.ndarray, "pairs"]
    ) -> tuple[Int64[np.ndarray, "atoms"], Int64[np.ndarray, "atoms"], Int64[np.ndarray, "atoms"]]:
        """Atoms of the first structures, those of the second that they correspond to, and their pair."""
        ptr, counts = self.subject.store.atom_ptr, self.subject.store.structures["num_atoms"][first]
        owner = np.repeat(np.arange(len(first)), counts)
        place = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        return self.order[ptr[first][owner] + place], self.order[ptr[second][owner] + place], owner


def _copies(geometry: Geometry) -> Int64[np.ndarray, "pairs 2"]:
    """Pairs of copies that connect all copies of one structure."""
    found = [_sorted_pairs(geometry, origin) for origin in ORIGINS]
    pairs = np.unique(np.concatenate(found), axis=0)
    alone = _isolated(geometry.subject)
    pairs = pairs[~alone[pairs[:, 0]]]
    return pairs[geometry.are_copies(pairs[:, 0], pairs[:, 1])]


def _sorted_pairs(geometry: Geometry, origin: float) -> Int64[np.ndarray, "pairs 2"]:
    """Structures with the same box of fingerprints: each with the one before it and with the first."""
    boxes = np.floor(geometry.fingerprints / WIDTH + origin).astype(np.int64).astype(np.uint64)
    keys = geometry.kind + boxes @ codes(boxes.shape[1], seed=2)
    order = np.argsort(keys, kind="stable")
    new = np.diff(keys[order], prepend=~keys[order[:1]]) != 0
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    again = np.flatnonzero(~new)
    return np.concatenate(
        [np.column_stack([order[again - 1], order[again]]), np.column_stack([first[again], order[again]])]
    )


def _groups(pairs: Int64[np.ndarray, "pairs 2"], num: int) -> Int64[np.ndarray, "structures"]:
    """First structure of all that pairs connect with each."""
    group, (first, second) = np.arange(num), pairs.T
    while (group[first] != group[second]).any():
        lower = np.minimum(group[first], group[second])
        for ends in (group[first], group[second], first, second):
            np.minimum.at(group, ends, lower)
        group = group[group]
    return group


def _leaks(subject: Subject, group: Int64[np.ndarray, "structures"]) -> Iterator[Finding]:
    for (learned, before), (tested, rows) in combinations(subject.splits.items(), 2):
        copies = rows[np.isin(group[rows], group[before])]
        if len(copies):
            other = before[np.flatnonzero(group[before] == group[copies[0]])[0]]
            yield Finding(
                "warning",
                "duplicates",
                f"{len(copies)} of {len(rows)} {tested} structures are {learned} structures "
                f"too ({subject.name(int(copies[0]))} is {subject.name(int(other))}): errors there look "
                "smaller than they are. Leave them out of one, or keep copies together with data.group_by.",
                subject.names(copies),
                len(copies),
            )


def _repetitions(subject: Subject, group: Int64[np.ndarray, "structures"]) -> Iterator[Finding]:
    for split, rows in subject.splits.items():
        _, first, which = np.unique(group[rows], return_index=True, return_inverse=True)
        originals = rows[first[which]]
        again = np.flatnonzero(originals != rows)
        if len(copies := rows[again]):
            yield Finding(
                "warning" if split == "train" and len(copies) > MANY * len(rows) else "note",
                "duplicates",
                f"{len(copies)} of {len(rows)} {split} structures are copies of others "
                f"({subject.name(int(copies[0]))} is {subject.name(int(originals[again[0]]))}), which count "
                "more than once.",
                subject.names(copies),
                len(copies),
            )


def _contradictions(geometry: Geometry, group: Int64[np.ndarray, "structures"]) -> Iterator[Finding]:
    """Copies whose labels differ by more than one method would give."""
    subject = geometry.subject
    copies = np.flatnonzero(group != np.arange(len(group)))
    for name, most in CONTRADICTION.items():
        labels = subject.column(name)
        if labels is None or not len(copies):
            continue
        apart = _apart(geometry, name, labels, group[copies], copies)
        rows = copies[apart > most]
        rows = rows[np.argsort(-apart[apart > most], kind="stable")]
        if len(rows):
            yield Finding(
                "warning",
                "duplicates",
                f"{counted(len(rows), 'structure')} and copies of them have different {name}: "
                f"{subject.name(int(rows[0]))} and {subject.name(int(group[rows[0]]))} are "
                f"{np.nanmax(apart):.3g} {UNITS[name]} apart. They are of different methods, charges or "
                "spins, of which a model sees nothing; or a label is wrong.",
                subject.names(rows),
                len(rows),
            )


def _apart(
    geometry: Geometry,
    name: str,
    labels: Float64[np.ndarray, "rows *entry"],
    first: Int64[np.ndarray, "pairs"],
    second: Int64[np.ndarray, "pairs"],
) -> Float64[np.ndarray, "pairs"]:
    """Largest difference of a label of the two, of those that both have."""
    if name == "forces":
        atoms, others, owner = geometry.matched(first, second)
        differences = np.nan_to_num(np.abs(labels[atoms] - labels[others])).max(axis=1)
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        return np.maximum.reduceat(differences, starts)
    differences = np.nan_to_num(np.abs(labels[first] - labels[second])).reshape(len(first), -1).max(axis=1)
    return differences / (geometry.subject.store.structures["num_atoms"][first] if name == "energy" else 1)


def _isolated(subject: Subject) -> Bool[np.ndarray, "structures"]:
    structures = subject.store.structures
    return (structures["num_atoms"] == 1) & ~structures["pbc"].any(axis=1)


def _sums(values: np.ndarray, ptr: Int64[np.ndarray, "offsets"]) -> np.ndarray:
    return np.add.reduceat(values, ptr[:-1], axis=0) if len(values) else values[: len(ptr) - 1]
