"""Forces that push or turn a structure are found; those of a field of the atoms themselves are not."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from pesloss.checks.forces import net_force, net_torque
from tests.checks.subjects import findings, loss, subject


def central(atoms: Atoms) -> np.ndarray:
    """Forces between pairs along their connection: they neither push nor turn."""
    vectors = atoms.positions[None] - atoms.positions[:, None]
    lengths = np.linalg.norm(vectors, axis=2, keepdims=True) + np.eye(len(atoms))[:, :, None]
    return (vectors / lengths * (lengths - 1.5) * np.exp(-lengths)).sum(axis=1)


def labelled(atoms: Atoms, forces: np.ndarray) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
    return atoms


def molecules(num: int = 6) -> list[Atoms]:
    made = []
    for seed in range(num):
        atoms = molecule(("CH3CH2OH", "H2O", "CH4")[seed % 3])
        atoms.rattle(0.1, seed=seed)
        made.append(labelled(atoms, central(atoms)))
    return made


def found(check, folder, structures, **options):
    return findings(check(subject(folder, structures, loss=loss("energy", "forces"), **options)))


@pytest.mark.parametrize("check", [net_force, net_torque])
def test_forces_between_atoms_are_silent(check, tmp_path):
    assert found(check, tmp_path, molecules()) == []


@pytest.mark.parametrize("check", [net_force, net_torque])
def test_digits_of_a_file_are_silent(check, tmp_path):
    rounded = [labelled(atoms, np.round(atoms.get_forces(), 3)) for atoms in molecules()]
    assert found(check, tmp_path, rounded) == []


@pytest.mark.parametrize("check", [net_force, net_torque])
def test_without_forces_there_is_nothing_to_say(check, tmp_path):
    assert findings(check(subject(tmp_path, molecules(), loss=loss("energy")))) == []


@pytest.mark.parametrize(("size", "level"), [(0.05, "warning"), (0.002, "note")])
def test_a_push_is_found_with_its_size(size, level, tmp_path):
    structures = molecules()
    for i in (1, 4):
        labelled(structures[i], structures[i].get_forces() + np.array([0, 0, size * i]))
    (finding,) = found(net_force, tmp_path, structures)
    assert (finding.level, finding.count) == (level, 2)
    assert f"in 2 structures, at worst {4000 * size:g} meV/Å an atom" in finding.message
    assert "structure 4" in finding.structures[0] and "structure 1" in finding.structures[1]
    assert found(net_torque, tmp_path, structures) == []


def test_a_single_atom_with_a_force_is_pushed(tmp_path):
    (finding,) = found(net_force, tmp_path, [labelled(Atoms("Cu"), np.array([[0.0, 0.2, 0.0]]))])
    assert "1 structure, at worst 200 meV/Å" in finding.message


def test_a_crystal_is_pushed_but_never_turned(tmp_path):
    crystal = bulk("Cu", cubic=True)
    forces = np.array([[0.1, 0, 0], [-0.1, 0, 0], [0, 0, 0.1], [0, 0, -0.1]])
    assert found(net_torque, tmp_path, [labelled(crystal, forces)]) == []
    assert found(net_force, tmp_path, [labelled(crystal, forces)]) == []
    assert len(found(net_force, tmp_path, [labelled(crystal, forces + 0.02)])) == 1


def test_forces_in_another_orientation_turn_but_do_not_push(tmp_path):
    structures = molecules()
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    labelled(structures[3], structures[3].get_forces() @ turn.T)
    assert found(net_force, tmp_path, structures) == []
    (finding,) = found(net_torque, tmp_path, structures)
    assert (finding.level, finding.count) == ("warning", 1)
    assert "sum to zero but turn the molecule in 1 structure" in finding.message
    assert "different orientations" in finding.message
    assert "structure 3" in finding.structures[0]


def test_forces_in_another_order_of_atoms_turn(tmp_path):
    structures = molecules()
    labelled(structures[0], structures[0].get_forces()[::-1])
    assert [one.count for one in found(net_torque, tmp_path, structures)] == [1]


def test_held_atoms_and_missing_components_do_not_count(tmp_path):
    structures = molecules()
    forces = structures[0].get_forces() + np.array([0.5, 0, 0])
    forces[2, 1] = np.nan
    labelled(structures[0], forces)
    labelled(structures[1], structures[1].get_forces() * [[1], [0], [1]])
    structures[1].set_constraint(FixAtoms([1]))
    structures[2].calc = None
    assert found(net_force, tmp_path, structures) == []
    assert found(net_torque, tmp_path, structures) == []
    assert ase.io.read(tmp_path / "train.xyz", 1).constraints


def test_the_error_no_model_avoids(tmp_path):
    """The least change that takes the sum away is the sum over the number of atoms, on each."""
    atoms = molecules()[0]
    forces = atoms.get_forces() + np.array([0.03, 0, -0.04])
    closest = forces - forces.mean(axis=0)
    rms = np.sqrt(((forces - closest) ** 2).sum(axis=1).mean())
    (finding,) = found(net_force, tmp_path, [labelled(atoms, forces)])
    assert f"at worst {1000 * rms:.3g} meV/Å an atom" in finding.message
