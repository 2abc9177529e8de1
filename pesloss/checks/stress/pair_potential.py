"""A pair potential fitted to the forces: its virial shows where the labelled stress should stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase.data import covalent_radii
from jaxtyping import Bool, Float64, Int64

from pesloss.checks.stress.agreement import ENOUGH, FEWEST, Agreement, agreement, shear
from pesloss.checks.stress.families import Family
from pesloss.checks.stress.groups import Labels
from pesloss.checks.stress.strain import MOVED
from pesloss.checks.subject import Subject
from pesloss.data.neighbors import Neighbors

CUTOFF = 5.5
"""Reach of the pair potential in Å: two to three shells of neighbours."""

SHORTEST = 0.8
"""Where its first radial function stands, in Å."""

RADIAL = 12
"""Radial functions for each pair of elements."""

MOST_FUNCTIONS = 300
"""Functions in all; above it, pairs of elements share theirs, by distance over the sum of their radii."""

USUAL_BOND = 2.6
"""Sum of radii, in Å, of pairs that keep their distance where functions are shared."""

RIDGE = 1e-6
"""Of the mean of the normal equations' diagonal."""

ATOMS = 3000
"""Atoms of a group that are looked at, in ``STRUCTURES`` at least: enough for a clear correlation."""

STRUCTURES = 12

MOST = 1000
"""Structures that are tried for disorder."""

NEIGHBORS = Neighbors(CUTOFF)

DISTINCT = 0.5
"""Share of the atoms whose forces have sizes of their own. In a strained perfect crystal many are alike: such
forces say how its sublattices shift, and nothing of how the crystal as a whole resists."""

ALIKE = 0.01
"""Sizes of forces, over their root mean square, that count as the same."""

DISORDER = 0.01
"""Scatter of the atoms' eccentricity among their neighbours. In a perfect crystal, alloys included, it is
below 0.001, at 300 K in copper or lithium above 0.05."""

AGITATION = 1.5
"""Work of the forces over that of the shear stress, along the size of an atom and over √atoms, from which the
forces are not those that a strain brings about: strained crystals have 0.4 to 1.6, hot ones 1.5 to 15."""

STRAIN_TERMS = 7
"""A constant and six strains, whose response is left to the response to strain."""

LEFT = 0.3
"""What has to be left of the expected stress without them."""


def pair_virial(
    subject: Subject, rows: Int64[np.ndarray, "rows"], labels: Labels, families: Sequence[Family]
) -> Agreement | None:
    """Shear stress of a pair potential that is fitted to the forces of some structures, against labels.

    Only shear counts: an isotropic part that depends on the density does not show in the forces. Nor does how
    a crystal resists strain, so that what follows from the strain of the cells is taken out.
    """
    forces = subject.column("forces")
    if forces is None:
        return None
    chosen = _sample(subject, rows, forces)
    if len(chosen) < FEWEST:
        return None
    sums = _Sums(subject, chosen)
    made = [sums(row) for row in chosen.tolist()]
    coefficients, correlation = _fit(
        made, np.concatenate([forces[subject.atoms(row)] for row in chosen.tolist()])
    )
    if not correlation >= ENOUGH:
        return None
    expected = np.stack([one.stress @ coefficients for one in made])
    keep = _agitated(subject, chosen, expected)
    found = shear(labels.of(chosen[keep]))
    expected, found = _without_strain(chosen[keep], expected[keep], found, families)
    return agreement("a pair potential fitted to the forces", expected, found)


@dataclass(frozen=True)
class _Edges:
    """Pairs of neighbours of a structure, both ways."""

    centre: Int64[np.ndarray, "edges"]
    elements: Int64[np.ndarray, "2 edges"]
    lengths: Float64[np.ndarray, "edges"]
    units: Float64[np.ndarray, "edges 3"]
    atoms: int
    volume: float

    @classmethod
    def of(cls, subject: Subject, row: int) -> _Edges:
        store, own = subject.store, subject.atoms(row)
        positions, cell = store.atoms["positions"][own], store.structures["cell"][row]
        pairs, shift = NEIGHBORS(positions, cell, store.structures["pbc"][row])
        vectors = positions[pairs[1]] - positions[pairs[0]] + shift @ cell
        lengths = np.linalg.norm(vectors, axis=1)
        return cls(
            centre=pairs[0].astype(np.int64),
            elements=store.atoms["numbers"][own][pairs].astype(np.int64),
            lengths=lengths,
            units=vectors / lengths[:, None],
            atoms=len(positions),
            volume=abs(float(np.linalg.det(cell))),
        )


@dataclass(frozen=True)
class _Design:
    """Forces and shear stresses of each radial function, for one structure."""

    forces: Float64[np.ndarray, "components functions"]
    stress: Float64[np.ndarray, "3 functions"]


class _Sums:
    """Sums of radial functions over the pairs of a structure.

    ``F_i = Σ_j f(r_ij) r̂_ij`` and ``σ = Σ_ij f(r_ij) r_ij r̂_ij r̂_ij / 2V`` with f the derivative of the pair
    energy, a sum of Gaussians that vanishes at the cutoff.
    """

    def __init__(self, subject: Subject, rows: Int64[np.ndarray, "rows"]) -> None:
        self.subject = subject
        elements = np.unique(
            np.concatenate([subject.store.atoms["numbers"][subject.atoms(r)] for r in rows.tolist()])
        )
        pairs = list(combinations_with_replacement(range(len(elements)), 2))
        self.shared = len(pairs) * RADIAL > MOST_FUNCTIONS
        self.kinds = 1 if self.shared else len(pairs)
        self.kind = np.zeros((256, 256), dtype=np.int64)
        for kind, (a, b) in enumerate([] if self.shared else pairs):
            self.kind[elements[a], elements[b]] = self.kind[elements[b], elements[a]] = kind

    def __call__(self, row: int) -> _Design:
        edges = _Edges.of(self.subject, row)
        values = self._functions(edges)
        kinds = self.kind[edges.elements[0], edges.elements[1]]
        forces = _summed(values, edges.units, edges.centre * self.kinds + kinds, edges.atoms * self.kinds)
        tensors = edges.units[:, (1, 0, 0)] * edges.units[:, (2, 2, 1)] * edges.lengths[:, None]
        stress = _summed(values, tensors, kinds, self.kinds) / (2 * edges.volume)
        # [atoms * kinds, functions, 3] -> [atoms * 3, kinds * functions]
        forces = forces.reshape(edges.atoms, self.kinds, RADIAL, 3).transpose(0, 3, 1, 2)
        return _Design(forces.reshape(3 * edges.atoms, -1), stress.transpose(2, 0, 1).reshape(3, -1))

    def _functions(self, edges: _Edges) -> Float64[np.ndarray, "edges functions"]:
        reduced = edges.lengths
        if self.shared:
            reduced = reduced / covalent_radii[edges.elements].sum(axis=0) * USUAL_BOND
        width = (CUTOFF - SHORTEST) / RADIAL
        centres = SHORTEST + width * (np.arange(RADIAL) + 0.5)
        switch = 0.5 * (1 + np.cos(np.pi * edges.lengths / CUTOFF))
        return np.exp(-0.5 * ((reduced[:, None] - centres) / width) ** 2) * switch[:, None]


def _summed(
    values: Float64[np.ndarray, "edges functions"],
    tensors: Float64[np.ndarray, "edges 3"],
    place: Int64[np.ndarray, "edges"],
    places: int,
) -> Float64[np.ndarray, "places functions 3"]:
    """``Σ value · component`` over the edges of each place."""
    sums = np.empty((places, values.shape[1], 3))
    for function in range(values.shape[1]):
        for component in range(3):
            weights = values[:, function] * tensors[:, component]
            sums[:, function, component] = np.bincount(place, weights, places)
    return sums


def _without_strain(
    chosen: Int64[np.ndarray, "chosen"],
    expected: Float64[np.ndarray, "chosen 3"],
    found: Float64[np.ndarray, "chosen 3"],
    families: Sequence[Family],
) -> tuple[Float64[np.ndarray, "left 3"], Float64[np.ndarray, "left 3"]]:
    """What the strain of the cells does not explain; nothing of families where that is hard to tell."""
    both, keep = np.concatenate([expected, found], axis=1), np.ones(len(chosen), dtype=bool)
    for family in families:
        own = np.isin(chosen, family.rows)
        strain = family.strain[np.isin(family.rows, chosen)].reshape(-1, 9)
        if not own.any() or np.abs(shear(family.strain)).max() < MOVED:
            continue
        terms = np.concatenate([np.ones((len(strain), 1)), strain], axis=1)
        rest = both[own] - terms @ np.linalg.lstsq(terms, both[own], rcond=1e-8)[0]
        size = np.linalg.norm(both[own, :3] - both[own, :3].mean(axis=0))
        keep[own] = len(strain) >= 2 * STRAIN_TERMS and np.linalg.norm(rest[:, :3]) > LEFT * size
        both[own] = rest
    return both[keep, :3], both[keep, 3:]


def _agitated(
    subject: Subject, chosen: Int64[np.ndarray, "chosen"], expected: Float64[np.ndarray, "chosen 3"]
) -> Bool[np.ndarray, "chosen"]:
    """Whether forces are larger than the strain behind a shear stress accounts for, labels left aside."""
    forces, structures = subject.store.atoms["forces"], subject.store.structures
    counts = structures["num_atoms"][chosen]
    sizes = np.array([np.linalg.norm(forces[subject.atoms(row)]) for row in chosen.tolist()])
    volume = np.abs(np.linalg.det(structures["cell"][chosen])) / counts
    return sizes > AGITATION * volume ** (2 / 3) * np.linalg.norm(expected, axis=1) * counts


def _sample(
    subject: Subject, rows: Int64[np.ndarray, "rows"], forces: Float64[np.ndarray, "atoms 3"]
) -> Int64[np.ndarray, "chosen"]:
    """Disordered structures at random, up to a number of atoms, sorted."""
    counts = subject.store.structures["num_atoms"]
    chosen, atoms = [], 0
    for row in np.random.default_rng(0).permutation(rows)[:MOST].tolist():
        if _has_own_forces(forces[subject.atoms(row)]) and is_disordered(subject, row):
            chosen.append(row)
            atoms += int(counts[row])
        if atoms >= ATOMS and len(chosen) >= STRUCTURES:
            break
    return np.sort(np.array(chosen, dtype=np.int64))


def _has_own_forces(forces: Float64[np.ndarray, "atoms 3"]) -> bool:
    sizes = np.linalg.norm(forces, axis=1)
    mean = float(np.sqrt((sizes**2).mean()))
    if not (np.isfinite(mean) and mean > 0 and len(sizes) > 2):
        return False
    return len(np.unique(np.round(sizes / mean / ALIKE))) > DISTINCT * len(sizes)


def is_disordered(subject: Subject, row: int) -> bool:
    """Whether atoms sit off the middle of their neighbours, each in a way of its own."""
    edges = _Edges.of(subject, row)
    weights = (1 - (edges.lengths / CUTOFF) ** 2) ** 2
    shift = [np.bincount(edges.centre, weights * unit, edges.atoms) for unit in edges.units.T]
    return float(np.linalg.norm(shift, axis=0).std()) > DISORDER


def _fit(
    made: list[_Design], forces: Float64[np.ndarray, "atoms 3"]
) -> tuple[Float64[np.ndarray, "functions"], float]:
    """Coefficients by least squares, and the correlation of the forces."""
    design = np.concatenate([one.forces for one in made])
    target = forces.reshape(-1)
    normal = design.T @ design
    normal[np.diag_indices_from(normal)] += RIDGE * np.trace(normal) / len(normal) or 1.0
    coefficients = np.linalg.solve(normal, design.T @ target)
    return coefficients, float(np.corrcoef(design @ coefficients, target)[0, 1])
