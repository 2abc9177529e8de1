"""Stress of a model by its energy alone: ``σ_ij = (E(+ε_ij) − E(−ε_ij)) / 2Vε``."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from jaxtyping import Float64

from pesloss.models.trained import Trained

PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Components of a symmetric tensor, in ASE's order."""


def finite_strain(
    potential: Trained | Calculator, atoms: Atoms, step: float = 1e-3
) -> Float64[np.ndarray, "3 3"]:
    """The stress is the derivative of the energy by a symmetric strain over the volume, here by differences.

    Atoms follow the strain; the error is of second order in the step. ASE's sign: positive is tension.

    Args:
        potential: a trained potential or an ASE calculator.
        atoms: one structure; its own calculator is not used.
        step: the strain.

    Returns:
        In eV/Å³.

    Raises:
        ValueError: if the cell has no volume or the step is not positive.
    """
    if not step > 0:
        raise ValueError(f"step must be a positive strain, got {step}.")
    if atoms.cell.rank < 3:
        raise ValueError(
            f"A stress needs a volume, but {atoms.symbols} has the cell {atoms.cell.array.tolist()}."
        )
    strained = [_strained(atoms, pair, sign * step) for pair in PAIRS for sign in (1, -1)]
    rise = np.array(_energies(potential, strained)).reshape(-1, 2) @ [1.0, -1.0]
    stress = np.empty((3, 3))
    for (i, j), change in zip(PAIRS, rise.tolist(), strict=True):
        stress[i, j] = stress[j, i] = change / (2 * step * atoms.get_volume())
    return stress


def _strained(atoms: Atoms, pair: tuple[int, int], size: float) -> Atoms:
    strain = np.zeros((3, 3))
    strain[pair] += size / 2
    strain[pair[::-1]] += size / 2
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return strained


def _energies(potential: Trained | Calculator, atoms: list[Atoms]) -> list[float]:
    if isinstance(potential, Trained):
        # a difference of energies in single precision is mostly their rounding
        found = potential.to(torch.float64).predict(atoms, ["energy"])
        return [float(one["energy"]) for one in found]
    for one in atoms:
        one.calc = potential
    return [float(one.get_potential_energy()) for one in atoms]
