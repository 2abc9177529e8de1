"""Overlapping and lonely atoms are found, ordinary matter is not."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from pesloss.checks.distances import contacts, distances
from tests import files
from tests.checks.subjects import findings, loss, subject


def found(folder, structures, **options):
    options = {"loss": loss("energy"), **options}
    return findings(distances(subject(folder, structures, **options)))


def matter() -> list[Atoms]:
    crystals = [bulk("W"), bulk("C"), bulk("Li"), bulk("NaCl", "rocksalt", a=5.6), bulk("Cs", a=6.1)]
    return [molecule(name) for name in ("H2", "N2", "CO", "LiH", "CH3CH2OH")] + crystals + [Atoms("He")]


def test_ordinary_matter_is_silent(tmp_path):
    assert found(tmp_path, matter()) == []


def test_hot_matter_is_silent(tmp_path):
    structures = matter()[4:]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    assert found(tmp_path, structures) == []


@pytest.mark.parametrize(
    ("distance", "level", "words"), [(0.42, "warning", "overlap"), (0.78, "note", "closer than in any bond")]
)
def test_the_closest_pair_is_named(distance, level, words, tmp_path):
    close = Atoms("HCC", [[0, 1.1, 0], [0, 0, 0], [distance, 0, 0]])
    (finding,) = found(tmp_path, [*matter(), close, Atoms("CC", [[0, 0, 0], [0, 0, distance + 0.05]])])
    assert (finding.level, finding.count) == (level, 2)
    assert words in finding.message
    ratio = distance / (2 * covalent_radii[6])
    assert (
        f"C 1 and C 2 of {finding.structures[0]} are {distance:.2f} Å apart, {ratio:.2f} of"
        in finding.message
    )
    assert "structure 11 (C2H)" in finding.structures[0]


def test_hydrogen_is_measured_in_angstrom_too(tmp_path):
    """Half an Ångström is much of the radii of two hydrogens, and no bond of theirs."""
    (finding,) = found(tmp_path, [Atoms("HH", [[0, 0, 0], [0, 0, 0.45]])])
    assert finding.level == "warning"


def test_an_image_can_be_the_closest(tmp_path):
    thin = Atoms("Cu", cell=np.diag([0.9, 4.0, 4.0]), pbc=True)
    (finding,) = found(tmp_path, [bulk("Cu"), thin])
    assert "Cu 0 and Cu 0" in finding.message and "0.90 Å" in finding.message


def test_contacts_are_those_of_ase(tmp_path):
    structures = [*files.structures(9), Atoms("Cu")]
    made = contacts(subject(tmp_path, structures, loss=loss("energy")))
    for row, atoms in enumerate(structures):
        i, j, lengths = neighbor_list("ijd", atoms, 3.0)
        radii = covalent_radii[atoms.numbers]
        assert made.ratios[row] == pytest.approx(
            min(lengths / (radii[i] + radii[j]), default=np.inf), abs=1e-6
        )
        assert (made.atoms[row] < 0).all() == (len(lengths) == 0)


def test_contacts_of_some_structures_are_those_of_all(tmp_path):
    made = subject(tmp_path, files.structures(9), loss=loss("energy"))
    every, some = contacts(made), contacts(made, 3, 7)
    np.testing.assert_array_equal(some.lengths, every.lengths[3:7])
    np.testing.assert_array_equal(some.atoms, every.atoms[3:7])


def test_atoms_that_see_no_other(tmp_path):
    far = Atoms("HO", [[0, 0, 0], [0, 0, 9.0]])
    (finding,) = found(tmp_path, [*matter(), far])
    assert (finding.level, finding.count) == ("note", 1)
    assert "In 1 structure of several atoms no two are within 6 Å" in finding.message


def test_a_stress_in_vacuum(tmp_path):
    boxed, dense = molecule("H2O", cell=[15.0, 15.0, 15.0], pbc=True), bulk("Cu", cubic=True)
    split = molecule("H2O", cell=[15.0, 15.0, 15.0], pbc=True)
    split.positions -= split.positions[0]  # the molecule lies across the boundary
    slab = Atoms("Cu", cell=np.diag([2.5, 2.5, 40.0]), pbc=True)
    for atoms in (boxed, dense, split, slab):
        zeros = np.zeros((len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=zeros, stress=np.full(6, 1e-3))
    (finding,) = found(tmp_path, [boxed, dense, split, slab], loss=loss())
    assert (finding.level, finding.count) == ("note", 2)
    assert "2 structures with a label of stress but more than 8 Å of vacuum" in finding.message
    assert found(tmp_path, [boxed, dense], loss=loss("energy", "forces")) == []


def test_the_wrong_unit_of_length_makes_most_too_close(tmp_path):
    crystals = [bulk(name) for name in ("W", "C", "Si", "Fe")]
    (finding,) = found(tmp_path, crystals, units={"length": "bohr"})
    assert (finding.level, finding.count) == ("warning", 4)
    assert finding.message.endswith("Is the unit of length right (data.units.length)?")
