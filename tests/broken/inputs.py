"""Right inputs, for cases to break: crystals and molecules labelled by effective-medium theory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

FORMULAS = ("CH3CH2OH", "CH3OH", "H2O", "C2H6", "CH4", "C2H4")


def crystals(num: int = 24, seed: int = 0) -> list[Atoms]:
    """Strained and rattled cells of copper and gold, with energy, forces and stress."""
    random = np.random.default_rng(seed)
    return [_crystal(("Cu", "Au")[i % 2], random) for i in range(num)]


def molecules(num: int = 24, seed: int = 0) -> list[Atoms]:
    """Rattled molecules, with energy and forces."""
    random = np.random.default_rng(seed)
    made = [molecule(FORMULAS[i % len(FORMULAS)]) for i in range(num)]
    for atoms in made:
        atoms.rattle(0.05, rng=random)
    return [labelled(atoms) for atoms in made]


def labelled(atoms: Atoms, **changes: Any) -> Atoms:
    """With what effective-medium theory says of it, or what somebody made of that."""
    calculator = EMT()
    results = {"energy": calculator.get_potential_energy(atoms), "forces": calculator.get_forces(atoms)}
    if atoms.cell.rank == 3:
        results["stress"] = calculator.get_stress(atoms)
    results = {**results, **changes}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
    return atoms


def changed(frames: Iterable[Atoms], **change: Callable[[Any], Any]) -> list[Atoms]:
    """Frames with some labels made into others."""
    frames = list(frames)
    for frame in frames:
        for name, make in change.items():
            frame.calc.results[name] = make(frame.calc.results[name])
    return frames


def without(frames: Sequence[Atoms], *names: str) -> list[Atoms]:
    """Frames that lack some labels."""
    for frame in frames:
        for name in names:
            frame.calc.results.pop(name, None)
    return list(frames)


def renamed(frames: Sequence[Atoms], **keys: str) -> list[Atoms]:
    """Frames with labels under names of one's own, where ASE looks for nothing."""
    for frame in frames:
        for name, key in keys.items():
            place = frame.arrays if name == "forces" else frame.info
            place[key] = frame.calc.results.pop(name)
    return list(frames)


def written(folder: Path, frames: Sequence[Atoms], name: str = "train.xyz") -> Path:
    ase.io.write(folder / name, list(frames), format="extxyz")
    return folder / name


def _crystal(symbol: str, random: np.random.Generator) -> Atoms:
    atoms = bulk(symbol, cubic=True)
    strain = np.eye(3) + 0.02 * random.normal(size=(3, 3))
    atoms.set_cell(atoms.cell[:] @ (strain + strain.T) / 2, scale_atoms=True)
    atoms.rattle(0.05, rng=random)
    return labelled(atoms)
