"""Between similar structures the energy rises by the work against forces and stress, whatever the method."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from pesloss.checks.subject import Subject

PAIRS = 600  # of all datasets together
GROUPS = 40  # of structures with the same atoms, of a dataset
FRAMES = 200  # of a group
ATOMS = 100_000  # of all frames of a group
NEAREST = 6  # pairs of each frame
MOST_STRAIN = 0.1
MOST_MOVED = 0.7  # Å, root mean square
STILL = 1e-3  # Å, or strain; what moves less says nothing above the noise of an energy
RIGID = 1e-6  # strain of a cell that is the same
SCATTER = 1.5
"""Distance of the quartiles over the median of the pairs' ratios, up to which the median can be trusted;
molecules at 500 K have 0.9."""
EXACT = 0.1  # standard error of the median
ERRORS = 4.0  # standard errors of the median that have to lie between it and a ratio that may be right
WRONG = 1.5  # factor beyond which no method could mean it, and less than any unit
FEWEST = 10  # pairs, or atoms, that say something


class Works(NamedTuple):
    """Pairs of similar structures: how their energies differ, and by how much they should.

    Args:
        rise: E_b − E_a, in eV.
        by_forces: −½ (F_a + F_b) · (r_b − r_a), in eV.
        by_stress: ½ (V_a σ_a + V_b σ_b) : ε, in eV; NaN where there is no stress.
        strain: largest component of ε.
        num_atoms: of each of the two.
    """

    rise: Float64[np.ndarray, "pairs"]
    by_forces: Float64[np.ndarray, "pairs"]
    by_stress: Float64[np.ndarray, "pairs"]
    strain: Float64[np.ndarray, "pairs"]
    num_atoms: Float64[np.ndarray, "pairs"]

    @property
    def per_atom(self) -> Works:
        """The same if the energies were per atom."""
        return self._replace(rise=self.rise * self.num_atoms)


class Slope(NamedTuple):
    """Ratio of two energies that should be 1.

    Args:
        ratio: median over pairs of structures.
        pairs: their number.
        error: standard error of its logarithm.
        sure: whether they agree well enough to trust it.
    """

    ratio: float
    pairs: int
    error: float
    sure: bool

    @property
    def wrong(self) -> bool:
        """Whether it is not 1 for certain."""
        if not self.sure:
            return False
        return self.ratio < 0 or abs(math.log(self.ratio)) > math.log(WRONG) + ERRORS * self.error


def works(subject: Subject, rows: Int64[np.ndarray, "structures"]) -> Works:
    """Pairs of the most similar structures with the same atoms, some of them."""
    energy, forces = subject.column("energy"), subject.column("forces")
    found = [np.zeros((5, 0))]
    if energy is not None and forces is not None:
        whole = np.isfinite(forces).all(axis=1).astype(np.int64)
        whole = np.add.reduceat(whole, subject.store.atom_ptr[:-1]) == subject.store.structures["num_atoms"]
        groups = _same_atoms(subject, rows[np.isfinite(energy[rows]) & whole[rows]])
        each = max(2, PAIRS // (NEAREST * max(1, len(groups)) * len(subject.data.datasets)))
        found += [np.array(_Frames(subject, group).works(each)) for group in groups]
    return Works(*np.concatenate(found, axis=1))


def force_slope(done: Works) -> Slope:
    """Rise of the energy over the work against the forces, of structures in the same cell."""
    same = done.strain < RIGID
    return _slope(done.rise[same], done.by_forces[same])


def stress_slope(done: Works) -> Slope:
    """Rise of the energy, less the work against the forces, over that against the stress."""
    if force_slope(done).wrong:
        return Slope(1.0, 0, 0.0, sure=False)
    known = np.isfinite(done.by_stress) & (done.strain > STILL)
    return _slope((done.rise - done.by_forces)[known], done.by_stress[known])


def _slope(rise: Float64[np.ndarray, "pairs"], work: Float64[np.ndarray, "pairs"]) -> Slope:
    """Median over the half of the pairs whose energy rises most.

    The rise is exact and the work a trapezoid, so that the work is compared with the rise; the other way
    round its scatter would pull the ratio to 0.
    """
    large = (np.abs(rise) >= np.median(np.abs(rise))) & (rise != 0) if len(rise) else rise != 0
    num = int(large.sum())
    if num < FEWEST:
        return Slope(1.0, num, 0.0, sure=False)
    low, middle, high = np.quantile(work[large] / rise[large], [0.25, 0.5, 0.75])
    if middle == 0:
        return Slope(1.0, num, 0.0, sure=False)
    scatter = (high - low) / abs(middle)
    error = 0.93 * scatter / np.sqrt(num)  # of the median of a normal distribution
    return Slope(float(1 / middle), num, float(error), sure=bool(scatter < SCATTER and error < EXACT))


def virials(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows 3 3"]:
    """Volume · stress, from either label."""
    stress, virial = subject.column("stress"), subject.column("virial")
    if stress is not None:
        volumes = np.abs(np.linalg.det(subject.store.structures["cell"][rows]))
        return volumes[:, None, None] * stress[rows]
    return np.full((len(rows), 3, 3), np.nan) if virial is None else -virial[rows]


def _same_atoms(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> list[Int64[np.ndarray, "frames"]]:
    """Groups of structures with the same elements in the same order and directions, the largest first."""
    store = subject.store
    place = np.arange(len(subject.owner), dtype=np.int64) - store.atom_ptr[subject.owner]
    with np.errstate(over="ignore"):
        words = (store.atoms["numbers"].astype(np.uint64) + np.uint64(1)) * _mixed(place.astype(np.uint64))
        codes = np.add.reduceat(words, store.atom_ptr[:-1]).view(np.int64)
    keys = np.column_stack([codes, store.structures["num_atoms"], store.structures["pbc"]])[rows]
    _, group, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group.reshape(-1), kind="stable")
    parts = np.split(rows[order], np.cumsum(counts)[:-1])
    return sorted((part for part in parts if len(part) > 1), key=len, reverse=True)[:GROUPS]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers that look like random ones."""
    numbers = (numbers + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    return (numbers ^ (numbers >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)


class _Frames:
    """Structures with the same atoms, and the energy between them."""

    def __init__(self, subject: Subject, rows: Int64[np.ndarray, "frames"]) -> None:
        store, num = subject.store, len(rows)
        num_atoms = int(store.structures["num_atoms"][rows[0]])
        most = min(num, FRAMES, max(2, ATOMS // num_atoms))
        spread = np.linspace(0, num - 1, most).astype(int)
        # the next structure of a file is often the next of a trajectory
        self.rows = rows[np.unique(np.minimum(np.concatenate([spread, spread + 1]), num - 1))]
        atoms = store.atom_ptr[self.rows][:, None] + np.arange(num_atoms)
        self.positions, self.forces = store.atoms["positions"][atoms], store.atoms["forces"][atoms]
        self.energy, self.cell = store.structures["energy"][self.rows], store.structures["cell"][self.rows]
        self.pbc = store.structures["pbc"][rows[0]]
        self.volumes = np.abs(np.linalg.det(self.cell))
        self.virials = virials(subject, self.rows)

    def works(self, num: int) -> Works:
        """Of some structures, each with those that are nearest to it."""
        chosen = np.unique(np.linspace(0, len(self.rows) - 1, min(len(self.rows), num)).astype(int))
        parts = [np.array(self._nearest(frame)) for frame in chosen.tolist()]
        return Works(*np.concatenate(parts, axis=1))

    def _nearest(self, frame: int) -> Works:
        moved, forces, strain = self._moved(frame) if self.pbc.any() else self._turned(frame)
        size, far = np.abs(strain).max(axis=(1, 2)), np.sqrt(np.mean(moved**2, axis=(1, 2)) * 3)
        usable = ((far > STILL) | (size > STILL)) & (far < MOST_MOVED) & (size < MOST_STRAIN)
        length = np.cbrt(self.volumes[frame])
        near = np.argsort(np.where(usable, far + size * length, np.inf))[: min(NEAREST, int(usable.sum()))]
        virials = 0.5 * (self.virials[frame] + self.virials[near])
        return Works(
            rise=self.energy[near] - self.energy[frame],
            by_forces=-0.5 * np.sum((self.forces[frame] + forces[near]) * moved[near], axis=(1, 2)),
            by_stress=np.sum(virials * strain[near], axis=(1, 2)),
            strain=size[near],
            num_atoms=np.full(len(near), float(moved.shape[1])),
        )

    def _turned(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Displacements and forces of molecules that are turned upon one of them (W. Kabsch, 1976)."""
        centred = self.positions - self.positions.mean(axis=1, keepdims=True)
        left, _, right = np.linalg.svd(np.einsum("fai,aj->fij", centred, centred[frame]))
        left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
        turns = left @ right
        return centred @ turns - centred[frame], self.forces @ turns, np.zeros_like(self.cell)

    def _moved(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Displacements within the cell, by the nearest image, and the strain of the cell."""
        if (self.volumes < 1).any():  # a wire or a sheet without all its lattice vectors
            shift, strain = self.positions - self.positions[frame], np.zeros_like(self.cell)
            strain[np.abs(self.cell - self.cell[frame]).max(axis=(1, 2)) > RIGID] = np.inf
            return shift, self.forces, strain
        scaled = np.linalg.solve(self.cell.swapaxes(1, 2), self.positions.swapaxes(1, 2)).swapaxes(1, 2)
        shift = scaled - scaled[frame]
        shift -= np.round(shift) * self.pbc
        shift -= shift.mean(axis=1, keepdims=True)
        change = np.linalg.solve(self.cell[frame], self.cell - self.cell[frame])
        unlike = np.abs(change).max(axis=(1, 2)) > 2 * MOST_STRAIN
        mean = self.cell[frame] + 0.5 * (self.cell - self.cell[frame]) * ~unlike[:, None, None]
        strain = np.linalg.solve(mean, self.cell - self.cell[frame])
        turned = np.abs(strain - strain.swapaxes(1, 2)).max(axis=(1, 2))
        strain[unlike | (turned > MOST_STRAIN)] = np.inf
        return shift @ mean, self.forces, 0.5 * (strain + strain.swapaxes(1, 2))
