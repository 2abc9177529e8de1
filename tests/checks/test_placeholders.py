"""A label of zeros, or of one number everywhere, is found unless physics demands it."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from pesloss.checks.placeholders import placeholders
from tests.checks.subjects import loss, subject
from tests.checks.test_labels import E_F, changed, frames, said_of


def test_labels_that_are_all_zero(tmp_path):
    structures = changed(frames(6), range(6), forces=np.zeros((3, 3)))
    (warning,) = said_of(placeholders, subject(tmp_path, structures, loss=loss(*E_F)))
    assert warning.level == "warning"
    assert "'forces' is exactly 0 in all 6 labelled structures" in warning.message


def test_zeros_in_place_of_missing_labels_are_found_by_structure(tmp_path):
    structures = changed(frames(8), [2, 5], forces=np.zeros((3, 3)))
    changed(structures, [3], energy=0.0)
    structures.append(Atoms("H"))
    structures[-1].calc = SinglePointCalculator(structures[-1], energy=0.0, forces=np.zeros((1, 3)))
    one = subject(tmp_path, structures, loss=loss(*E_F))
    energy, forces = said_of(placeholders, one)
    assert energy.structures == one.names([3])
    assert forces.structures == one.names([2, 5])
    assert "2 of 8 labelled structures of several atoms" in forces.message


def test_zero_forces_of_a_symmetric_crystal_and_of_held_atoms_are_no_mistake(tmp_path):
    crystals = [bulk("Cu", cubic=True), bulk("NaCl", "rocksalt", a=5.6), bulk("Si"), bulk("Fe", cubic=True)]
    for i, atoms in enumerate(crystals):
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - i, forces=np.zeros((len(atoms), 3)))
    held = changed(frames(1), [0], forces=np.zeros((3, 3)))
    held[0].set_constraint(FixAtoms([0, 1, 2]))
    assert said_of(placeholders, subject(tmp_path, [*crystals, *held, *frames(3)], loss=loss(*E_F))) == []


def test_zero_stress_in_place_of_a_missing_one(tmp_path):
    crystals = []
    for i in range(5):
        atoms = bulk("Cu", cubic=True)
        stress = np.zeros(6) if i == 3 else np.full(6, 0.01 * (1 + i))
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - i, stress=stress)
        crystals.append(atoms)
    (warning,) = said_of(placeholders, subject(tmp_path, crystals, loss=loss("energy", "stress")))
    assert "'stress' is exactly 0 in 1 of 5 labelled structures" in warning.message


def test_equal_energies_of_all_structures(tmp_path):
    (warning,) = said_of(
        placeholders, subject(tmp_path, changed(frames(5), range(5), energy=-3.5), loss=loss(*E_F))
    )
    assert "All 5 labels of 'energy' of dataset 'train' are equal (-3.5 eV)" in warning.message


def test_a_total_charge_of_zero_is_no_mistake(tmp_path):
    structures = frames(4)
    for atoms in structures:
        atoms.info["total_charge"] = 0.0
    assert said_of(placeholders, subject(tmp_path, structures, loss=loss("energy", "total_charge"))) == []
