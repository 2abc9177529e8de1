"""Crystals of copper and gold with the stress of the effective-medium theory, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

VASP = (0, 1, 2, 5, 3, 4)
"""Where ASE reads what stands as xx yy zz xy yz xz."""

LAMMPS = (0, 1, 2, 5, 4, 3)
"""The same of xx yy zz xy xz yz."""

KBAR = 1602.1766


def strained(
    num: int = 24, size: float = 0.03, shear: float = 1.0, seed: int = 0, symbol: str = "Cu"
) -> list[Atoms]:
    """Perfect crystals under random strains.

    Args:
        shear: of the shear components, over that of the others.
    """
    random, crystals = np.random.default_rng(seed), []
    for _ in range(num):
        strain = size * random.normal(size=(3, 3))
        strain = (strain + strain.T) / 2
        strain *= np.where(np.eye(3, dtype=bool), 1.0, shear)
        atoms = bulk(symbol, cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        crystals.append(with_labels(atoms))
    return crystals


def scanned(num: int = 16, seed: int = 0, symbol: str = "Cu") -> list[Atoms]:
    """Perfect crystals of several volumes."""
    crystals = []
    for size in np.linspace(0.96, 1.05, num):
        atoms = bulk(symbol, cubic=True)
        atoms.set_cell(atoms.cell.array * size, scale_atoms=True)
        crystals.append(with_labels(atoms))
    return crystals


def hot(num: int = 16, rattle: float = 0.12, seed: int = 0, symbol: str = "Cu") -> list[Atoms]:
    """Snapshots of a crystal in one cell."""
    crystals = []
    for one in range(num):
        atoms = bulk(symbol, cubic=True) * (2, 2, 2)
        atoms.rattle(rattle, seed=1000 * seed + one)
        crystals.append(with_labels(atoms))
    return crystals


def with_labels(atoms: Atoms) -> Atoms:
    """Energy, forces and stress."""
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def spoilt(
    crystals: Sequence[Atoms], factor: float = 1.0, order: Sequence[int] = range(6), config_type: str = ""
) -> list[Atoms]:
    """The same with stresses in another unit, sign or order, and a config type if there is one."""
    for atoms in crystals:
        atoms.calc.results["stress"] = factor * atoms.calc.results["stress"][list(order)]
        if config_type:
            atoms.info["config_type"] = config_type
    return list(crystals)


def without(crystals: Sequence[Atoms], *names: str) -> list[Atoms]:
    """The same without some labels."""
    for atoms in crystals:
        for name in names:
            del atoms.calc.results[name]
    return list(crystals)
