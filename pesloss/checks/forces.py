"""Forces that push or turn a whole structure, which no energy of the positions of its atoms gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64, Int64

from pesloss.checks.findings import Finding, Level, counted
from pesloss.checks.subject import Subject

SIGNIFICANT = 1e-3
"""Error in eV/Å that is worth a word: forces are then less converged than good models are exact.

References: Kuryla et al., How Accurate Are DFT Forces? Unexpectedly Large Uncertainties in Molecular Datasets
(arXiv 2510.19774), with net forces as the symptom."""
LARGE = 1e-2  # eV/Å, the whole error of a good model
SHARE = 1e-3  # of the forces of the structure, which are known to so many digits only


def net_force(subject: Subject) -> Iterator[Finding]:
    """Forces sum to zero unless something outside pushes a structure, and those of a model always do.

    The sum over the number of atoms is an error that no energy avoids: for all forces F' that sum to zero,
    ``rms_i |F_i − F'_i| ≥ |Σ_i F_i| / N``. Structures with fixed atoms or missing components do not count.
    """
    forces = _of_free_structures(subject)
    errors, size = _push(subject, forces), _rms(subject, forces)
    rows = _worst_first(errors, _matters(errors, size))
    if len(rows):
        worst, there = (_milli(float(of[rows[0]])) for of in (errors, size))
        yield Finding(
            _level(errors[rows]),
            "net_force",
            f"Forces do not sum to zero in {counted(len(rows), 'structure')}, at worst "
            f"{worst} an atom (the forces there are {there} rms), which no "
            "model that conserves energy can learn. They are not converged, atoms are held without saying so "
            "(ASE's FixAtoms), an atom is missing, or a field acts.",
            subject.names(rows),
            len(rows),
        )


def net_torque(subject: Subject) -> Iterator[Finding]:
    """Forces do not turn a molecule as a whole, unless they are given in another frame than its positions.

    With r from the centre and for all forces F' without torque, ``rms_i |F_i − F'_i| ≥ |Σ_i r_i × F_i| /
    √(N Σ_i r_i²)``. Structures whose forces do not sum to zero are left to :func:`net_force`.
    """
    forces = _of_free_structures(subject)
    errors, size = _turn(subject, forces), _rms(subject, forces)
    molecules = ~subject.store.structures["pbc"].any(axis=1)
    rows = _worst_first(errors, molecules & _matters(errors, size) & ~_matters(_push(subject, forces), size))
    if len(rows):
        worst, there = (_milli(float(of[rows[0]])) for of in (errors, size))
        yield Finding(
            _level(errors[rows]),
            "net_torque",
            f"Forces sum to zero but turn the molecule in {counted(len(rows), 'structure')}, at worst "
            f"{worst} an atom (the forces there are {there} rms), which no model that conserves energy can "
            "learn. Positions and forces are in different orientations, as Gaussian's input and standard "
            "orientation are, their atoms in different orders, or a field acts.",
            subject.names(rows),
            len(rows),
        )


def _of_free_structures(subject: Subject) -> Float64[np.ndarray, "atoms 3"]:
    """Forces, NaN where they are missing and on atoms that are held."""
    forces, held = subject.column("forces"), subject.store.atoms["fixed"]
    if forces is None:
        return np.full((len(held), 3), np.nan)
    return np.where(held[:, None], np.nan, forces)


def _push(subject: Subject, forces: Float64[np.ndarray, "atoms 3"]) -> Float64[np.ndarray, "structures"]:
    """``|Σ_i F_i| / N`` of each structure."""
    return np.linalg.norm(_sums(subject, forces), axis=1) / subject.store.structures["num_atoms"]


def _turn(subject: Subject, forces: Float64[np.ndarray, "atoms 3"]) -> Float64[np.ndarray, "structures"]:
    """``|Σ_i r_i × F_i| / √(N Σ_i r_i²)`` of each structure, NaN for a single atom."""
    num_atoms = subject.store.structures["num_atoms"]
    positions = subject.store.atoms["positions"]
    centres = _sums(subject, positions) / num_atoms[:, None]
    arms = positions - centres[subject.owner]
    torques = np.linalg.norm(_sums(subject, np.cross(arms, forces)), axis=1)
    sizes = np.sqrt(num_atoms * _sums(subject, arms**2).sum(axis=1))
    return np.divide(torques, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)


def _rms(subject: Subject, forces: Float64[np.ndarray, "atoms 3"]) -> Float64[np.ndarray, "structures"]:
    """Root mean square of the length of the forces of each structure."""
    return np.sqrt(_sums(subject, forces**2).sum(axis=1) / subject.store.structures["num_atoms"])


def _sums(subject: Subject, values: Float64[np.ndarray, "atoms 3"]) -> Float64[np.ndarray, "structures 3"]:
    if not len(values):
        return np.zeros((0, 3))
    return np.add.reduceat(values, subject.store.atom_ptr[:-1], axis=0)


def _matters(
    errors: Float64[np.ndarray, "structures"], size: Float64[np.ndarray, "structures"]
) -> Bool[np.ndarray, "structures"]:
    # NaN is never larger
    return (errors > SIGNIFICANT) & (errors > SHARE * size)


def _worst_first(
    errors: Float64[np.ndarray, "structures"], where: Bool[np.ndarray, "structures"]
) -> Int64[np.ndarray, "rows"]:
    rows = np.flatnonzero(where)
    return rows[np.argsort(-errors[rows], kind="stable")]


def _level(errors: Float64[np.ndarray, "rows"]) -> Level:
    return "warning" if errors.max() > LARGE else "note"


def _milli(force: float) -> str:
    return f"{1000 * force:.3g} meV/Å"
