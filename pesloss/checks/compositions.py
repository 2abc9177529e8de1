"""Energies beside compositions: how much of them only counts atoms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped, UInt64

from pesloss.checks.subject import Subject

CERTAIN = 1e-9  # ratio of singular values, far above what rounding leaves of 0
OPEN = 1e-6  # share of a composition or an element that others do not span
VAST = 200.0  # Å³, the cell of an atom that is alone
ROUNDS = 20  # of reweighting, after which absolute deviations hardly change


@dataclass(frozen=True)
class Fit:
    """Least squares of energies by composition, ``y_s ≈ Σ_Z x_s(Z) c(Z)``.

    Args:
        energies: c; of least norm where compositions leave it open.
        errors: standard errors of c; infinite where compositions leave it open.
        left: ``y − x·c`` of each structure.
        norms: of the columns of x, which are divided by them.
        axes: orthonormal combinations of the columns that occur.
        lengths: how much of each there is.
    """

    energies: Float64[np.ndarray, "elements"]
    errors: Float64[np.ndarray, "elements"]
    left: Float64[np.ndarray, "structures"]
    norms: Float64[np.ndarray, "elements"]
    axes: Float64[np.ndarray, "elements rank"]
    lengths: Float64[np.ndarray, "rank"]

    @property
    def rank(self) -> int:
        """How many combinations of the energies are determined."""
        return len(self.lengths)

    @property
    def condition(self) -> float:
        """Condition number of what is determined."""
        return float(self.lengths[0] / self.lengths[-1])

    def reaches(self, x: Float64[np.ndarray, "rows elements"]) -> Bool[np.ndarray, "rows"]:
        """Whether compositions are combinations of those of the fit."""
        scaled = x / self.norms
        outside = scaled - scaled @ self.axes @ self.axes.T
        return np.linalg.norm(outside, axis=1) <= OPEN * np.linalg.norm(scaled, axis=1)

    def unusual(self, x: Float64[np.ndarray, "rows elements"]) -> Float64[np.ndarray, "rows"]:
        """Leverage of compositions, over its mean in the fit."""
        leverage = ((x / self.norms @ self.axes / self.lengths) ** 2).sum(axis=1)
        return leverage * len(self.left) / self.rank


def fitted(x: Float64[np.ndarray, "rows elements"], y: Float64[np.ndarray, "rows"]) -> Fit:
    """Least squares of some structures, at least one."""
    norms = np.linalg.norm(x, axis=0)
    norms[norms == 0] = 1.0
    # of a matrix of any length, R of its QR decomposition is all that least squares need
    triangle = np.asarray(np.linalg.qr(np.column_stack([x / norms, y]), mode="r"))
    u, lengths, axes = np.linalg.svd(triangle[:, :-1])
    rank = int((lengths > CERTAIN * lengths[0]).sum())
    known, lengths = axes[:rank].T, lengths[:rank]
    energies = known @ (u[:, :rank].T @ triangle[:, -1] / lengths) / norms
    left = y - x @ energies
    deviation = np.sqrt((left**2).sum() / max(len(y) - rank, 1))
    errors = deviation * np.linalg.norm(known / lengths, axis=1) / norms
    errors[np.linalg.norm(axes[rank:], axis=0) > OPEN] = np.inf
    return Fit(energies, errors, left, norms, known, lengths)


def robust(
    x: Float64[np.ndarray, "rows elements"], y: Float64[np.ndarray, "rows"]
) -> Float64[np.ndarray, "rows"]:
    """What composition leaves of energies if outliers hardly count: least absolute deviations."""
    left = y - np.median(y)
    for _ in range(ROUNDS):
        weights = 1 / np.maximum(np.abs(left), max(float(np.median(np.abs(left))), 1e-9))
        gram = (x * weights[:, None]).T @ x
        left = y - x @ (np.linalg.pinv(gram, rcond=CERTAIN, hermitian=True) @ (x.T @ (weights * y)))
    return left


def medians(values: Float64[np.ndarray, "rows"], group: Shaped[np.ndarray, "rows"]) -> np.ndarray:
    """For each row the median of its group; the lower one, if there are two."""
    _, which, sizes = np.unique(group, return_inverse=True, return_counts=True)
    ordered = values[np.lexsort((values, which))]
    return ordered[np.cumsum(sizes) - sizes + (sizes - 1) // 2][which]


def codes(num: int, seed: int = 0) -> UInt64[np.ndarray, "codes"]:
    """Random numbers, of which different sums hardly ever agree."""
    return np.random.default_rng(seed).integers(2**64, size=num, dtype=np.uint64)


@dataclass(frozen=True)
class Energies:
    """Energies of all structures of a store, and their compositions.

    Args:
        subject: whose structures.
    """

    subject: Subject

    @cached_property
    def numbers(self) -> Int64[np.ndarray, "elements"]:
        """Atomic numbers of the elements that occur."""
        return np.flatnonzero(np.bincount(self.subject.store.atoms["numbers"]))

    @cached_property
    def counts(self) -> Float64[np.ndarray, "structures elements"]:
        """Number of atoms of each element."""
        num, width = len(self.sizes), len(self.numbers)
        places = np.searchsorted(self.numbers, self.subject.store.atoms["numbers"])
        counts = np.bincount(self.subject.owner * width + places, minlength=num * width)
        return counts.reshape(num, width).astype(np.float64)

    @cached_property
    def sizes(self) -> Int64[np.ndarray, "structures"]:
        """Number of atoms."""
        return self.subject.store.structures["num_atoms"]

    @cached_property
    def fractions(self) -> Float64[np.ndarray, "structures elements"]:
        """Share of each element in the atoms."""
        return self.counts / self.sizes[:, None]

    @cached_property
    def totals(self) -> Float64[np.ndarray, "structures"]:
        """Total energies in eV; NaN where there is none."""
        energies = self.subject.column("energy")
        return np.full(len(self.sizes), np.nan) if energies is None else energies

    @cached_property
    def per_atom(self) -> Float64[np.ndarray, "structures"]:
        """What the references leave, in eV an atom."""
        if not np.isfinite(self.totals).any():
            return self.totals
        return (self.totals - self.subject.data.references.of(self.subject.store)) / self.sizes

    @cached_property
    def of_matter(self) -> Bool[np.ndarray, "structures"]:
        """Structures that have an energy and are not one free atom."""
        volume = np.abs(np.linalg.det(self.subject.store.structures["cell"]))
        free = (self.sizes == 1) & (~self.subject.periodic | (volume > VAST))
        return np.isfinite(self.totals) & ~free

    def rows(self, split: str) -> Int64[np.ndarray, "rows"]:
        """Structures of a part of the data."""
        return self.subject.splits.get(split, np.arange(0))

    def fit(self, rows: Int64[np.ndarray, "rows"]) -> Fit:
        """What composition makes of the energies an atom of some structures."""
        return fitted(self.fractions[rows], self.per_atom[rows])
