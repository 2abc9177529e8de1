"""Small labelled files for tests of the app: copper clusters and crystals by effective-medium theory."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator


def structures(num: int, seed: int = 0) -> list[Atoms]:
    """Rattled cells of Cu and Au and clusters of Cu; some labels are missing, some weights are not 1."""
    random = np.random.default_rng(seed)
    return [_labelled(_structure(i, random), i) for i in range(num)]


def write(path: Path, num: int, seed: int = 0) -> Path:
    """An extxyz file of them."""
    ase.io.write(path, structures(num, seed), format="extxyz")
    return path


def _structure(i: int, random: np.random.Generator) -> Atoms:
    if i % 3 == 2:
        atoms = Atoms("Cu" * (1 + i % 5), 2.5 * np.arange(1 + i % 5)[:, None] * [[1.0, 0.2 * (i % 2), 0.0]])
    else:
        atoms = bulk("Cu", cubic=True) if i % 3 else bulk("Au", a=3.9)
        atoms.set_cell(atoms.cell * (1 + 0.04 * random.normal()), scale_atoms=True)
    atoms.rattle(0.08, rng=random)
    return atoms


def _labelled(atoms: Atoms, i: int) -> Atoms:
    calculator = EMT()
    results = {"energy": calculator.get_potential_energy(atoms), "forces": calculator.get_forces(atoms)}
    if atoms.cell.rank == 3:
        results["stress"] = calculator.get_stress(atoms)
    if i % 4 == 1:
        results["forces"][0] = np.nan
    if i % 5 == 3:
        del results["energy"]
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["config_type"] = "crystal" if atoms.cell.rank == 3 else "cluster"
    if i % 2:
        atoms.info["weight"] = 0.5
    return atoms
