"""Copies are found whatever their origin, images and order; structures that are only alike are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pesloss.checks.duplicates import duplicates
from tests import files
from tests.checks.subjects import findings, loss, subject


def labelled(atoms: Atoms, energy: float = -1.0, forces: np.ndarray | None = None) -> Atoms:
    forces = 0.1 * atoms.positions if forces is None else forces
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def frames(num: int, seed: int = 0) -> list[Atoms]:
    """Hot molecules, crystals and slabs, of a few compositions."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(num):
        atoms = (molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=5.6, cubic=True), bulk("Cu") * (2, 1, 1))[
            i % 3
        ]
        atoms.pbc = [i % 3 > 0, i % 3 > 0, i % 3 == 1]
        atoms.rattle(0.05, rng=random)
        made.append(labelled(atoms))
    return made


def found(folder, train: Sequence[Atoms], **options):
    options = {"loss": loss("energy", "forces"), **options}
    return findings(duplicates(subject(folder, train, **options)))


def moved(atoms: Atoms) -> Atoms:
    """The same with another origin, in other images and in another order of its elements."""
    copy = atoms.copy()
    if copy.pbc.any():
        copy.positions += (copy.pbc * [2, -1, 1]) @ copy.cell[:]
        copy.positions[1] -= (copy.pbc * [1, 0, 0]) @ copy.cell[:]
    copy.positions += [0.3, -0.2, 0.7]
    order = np.argsort(-copy.numbers, kind="stable")
    return labelled(copy[order], forces=atoms.get_forces()[order])


def test_different_structures_are_silent(tmp_path):
    assert found(tmp_path, frames(60), val=frames(20, seed=1), test=frames(20, seed=2)) == []


def test_elastic_strains_and_phonons_are_silent(tmp_path):
    """Structures that only symmetry makes equal are not copies."""
    made = []
    for axis in range(3):
        for sign in (-1, 1):
            strained, displaced = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
            strain = np.eye(3)
            strain[axis, (axis + 1) % 3] += 0.01 * sign
            strained.set_cell(strained.cell[:] @ strain, scale_atoms=True)
            displaced.positions[0, axis] += 0.01 * sign
            made += [labelled(strained), labelled(displaced)]
    assert found(tmp_path, made) == []


@pytest.mark.parametrize("change", [Atoms.copy, moved], ids=["equal", "moved"])
def test_copies_in_training_are_counted(change, tmp_path):
    train = frames(60)
    copies = [change(train[i]) for i in (0, 1, 2)]
    for copy, i in zip(copies, (0, 1, 2), strict=True):
        copy.calc = copy.calc or train[i].calc
    (finding,) = found(tmp_path, [*train, *copies])
    assert (finding.level, finding.count) == ("note", 3)
    assert "3 of 63 train structures are copies of others" in finding.message
    assert "structure 60 (C2H6O) is" in finding.message and "structure 0 (C2H6O))" in finding.message


def test_many_copies_are_a_warning(tmp_path):
    (finding,) = found(tmp_path, [*frames(9), *frames(9)])
    assert (finding.level, finding.count) == ("warning", 9)


def test_copies_of_copies_are_one_structure(tmp_path):
    train = frames(3)
    (finding,) = found(tmp_path, [*train, *(train[1] for _ in range(40))])
    assert finding.count == 40


def test_rounded_positions_are_still_the_same(tmp_path):
    train, test = frames(90), frames(90)
    for atoms in test:
        atoms.positions = np.round(atoms.positions, 4)
    (finding,) = found(tmp_path, train, test=test)
    assert (finding.level, finding.count) == ("warning", 90)


def test_a_small_displacement_is_another_structure(tmp_path):
    other = frames(3)
    for atoms in other:
        atoms.positions[0, 2] += 0.002
    assert found(tmp_path, frames(3), test=other) == []


def test_another_element_is_another_structure(tmp_path):
    other = frames(3)[1]
    other.numbers = np.where(other.numbers == 11, 19, other.numbers)
    swapped = frames(3)[1]
    swapped.numbers = np.where(swapped.numbers == 11, 17, 11)
    assert found(tmp_path, frames(3), test=[labelled(other), labelled(swapped)], references="none") == []


def test_a_leak_is_named_with_both_structures(tmp_path):
    train, test = frames(30), frames(6, seed=1)
    said = found(tmp_path, train, val=[moved(train[7]), *test[:2]], test=[*test[2:], moved(train[4])])
    assert [(one.level, one.count) for one in said] == [("warning", 1)] * 2
    assert "1 of 3 val structures are train structures too" in said[0].message
    assert "val.xyz, structure 0 (Cl4Na4)" in said[0].structures[0]
    assert "train.xyz, structure 7 (Cl4Na4)" in said[0].message
    assert "1 of 5 test structures are train structures too" in said[1].message


def test_validation_and_test_share_structures(tmp_path):
    (finding,) = found(tmp_path, frames(6), val=frames(3, seed=1), test=frames(3, seed=1))
    assert "3 of 3 test structures are val structures too" in finding.message


def test_labels_of_copies_that_contradict_each_other(tmp_path):
    other = frames(3)[0]
    labelled(other, energy=-3.7, forces=other.get_forces() + 0.2 * np.eye(9)[:, :3])
    said = found(tmp_path, {"a": frames(30), "b": [other]})
    assert [one.level for one in said] == ["note", "warning", "warning"]
    assert "1 structure and copies of them have different energy" in said[1].message
    assert "0.3 eV an atom apart" in said[1].message
    assert "different forces" in said[2].message and "0.2 eV/Å apart" in said[2].message
    assert "b.xyz, structure 0" in said[1].structures[0]


def test_labels_are_compared_atom_by_atom_and_where_both_are(tmp_path):
    one, other = frames(1)[0], frames(1)[0]
    gap = np.where(np.eye(9)[:, :3] > 0, np.nan, other.get_forces())
    other.calc = SinglePointCalculator(other, forces=gap)
    assert [finding.level for finding in found(tmp_path, [*frames(60), moved(one), other])] == ["note"]


def test_isolated_atoms_are_all_alike(tmp_path):
    alone = [labelled(Atoms("Cu")), labelled(Atoms("Cu", [[1.0, 2.0, 3.0]]))]
    assert found(tmp_path, [*frames(6), *alone], test=alone) == []


def test_single_atoms_of_crystals_are_structures(tmp_path):
    volumes = [labelled(bulk("Cu", a=a)) for a in (3.5, 3.6, 3.7)]
    (finding,) = found(tmp_path, volumes, test=[labelled(bulk("Cu", a=3.6))])
    assert "1 of 1 test" in finding.message


def test_mixed_data_with_gaps(tmp_path):
    structures = files.structures(30)
    (finding,) = found(tmp_path, structures[2:], test=structures[:4], loss=loss())
    assert finding.count == 2


def test_every_copy_is_found_whatever_its_last_digits(tmp_path):
    random = np.random.default_rng(3)
    made = frames(60)
    for _ in range(20):
        copy = moved(made[int(random.integers(60))])
        copy.positions += random.uniform(-2e-5, 2e-5, copy.positions.shape)
        made.append(copy)
    (finding,) = found(tmp_path, made)
    assert finding.count == 20
