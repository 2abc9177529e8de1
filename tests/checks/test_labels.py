"""Every term is counted where it learns, and what lies unread is named by its key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from pesloss import NormalLoss
from pesloss.checks import Subject
from pesloss.checks.findings import Finding
from pesloss.checks.labels import labels
from pesloss.checks.unused import TERMS_OF_CONF, candidates, unused
from pesloss.data import Bundled, Files
from pesloss.data.reading.report import Unused
from pesloss.losses.properties import PROPERTIES
from tests.checks.subjects import findings, loss, of, subject, tables

CONF = Path(__file__).parents[2] / "conf"
E_F = ("energy", "forces")


def frames(num: int, seed: int = 0, name: str = "H2O") -> list[Atoms]:
    rng, made = np.random.default_rng(seed), []
    for _ in range(num):
        atoms = molecule(name)
        atoms.rattle(0.05, rng=rng)
        forces = rng.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0 + rng.normal(), forces=forces)
        made.append(atoms)
    return made


def renamed(structures: list[Atoms], name: str, where: str, key: str) -> list[Atoms]:
    """The same with a result of the calculator under another key."""
    for atoms in structures:
        getattr(atoms, where)[key] = atoms.calc.results.pop(name)
    return structures


def changed(structures: list[Atoms], rows, **results) -> list[Atoms]:
    for row in rows:
        structures[row].calc.results |= results
    return structures


def said_of(check, one: Subject, level: str = "") -> list[Finding]:
    return [found for found in findings(check(one)) if level in ("", found.level)]


def test_complete_labels_give_a_table_and_no_finding(tmp_path):
    one = subject(tmp_path, frames(12), val=frames(3, 1), loss=loss(*E_F, weights={"forces": 10}))
    (table,) = tables(labels(one))
    assert said_of(labels, one) == said_of(unused, one) == []
    rows = {(row[0], row[2]): row for row in table.rows}
    assert set(rows) == {(term, split) for term in E_F for split in ("train", "val")}
    assert rows["forces", "train"][:7] == ("forces", 10.0, "train", "train", 36, 36, 108)
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in frames(12)])
    expected = [forces.min(), np.median(forces), forces.max(), np.sqrt(np.mean(forces**2))]
    np.testing.assert_allclose(rows["forces", "train"][7:11], expected, atol=1e-6)
    assert rows["forces", "train"][11:] == ("eV/Å", "calculator results 'forces'")


def test_energies_of_the_table_are_per_atom_and_without_references(tmp_path):
    one = subject(tmp_path, frames(9), loss=loss("energy"))
    (row,) = tables(labels(one))[0].rows
    energies = np.array([atoms.calc.results["energy"] for atoms in frames(9)])
    left = (energies - energies.mean()) / 3
    np.testing.assert_allclose(row[7:11], [left.min(), np.median(left), left.max(), left.std()], atol=1e-6)
    assert row[11] == "eV/atom"


def test_rows_of_part_of_a_structure_are_counted(tmp_path):
    structures = frames(6)
    structures[0].calc.results["forces"][1] = np.nan
    structures[1].calc.results.pop("forces")
    structures[2].info["weight"] = 0.0
    (row,) = [
        row
        for row in tables(labels(subject(tmp_path, structures, loss=loss(*E_F))))[0].rows
        if row[0] == "forces"
    ]
    assert row[4:7] == (14, 18, 33)


def test_a_term_without_labels_is_an_error_that_names_what_lies_unread(tmp_path):
    one = subject(tmp_path, renamed(frames(7), "forces", "arrays", "F"), loss=loss(*E_F))
    (error,) = said_of(labels, one)
    assert error.level == "error"
    assert "a term 'forces' of weight 1, but no training structure has a label for 'forces'" in error.message
    assert "arrays 'F' (3 numbers an atom, 7 structures)" in error.message
    assert "+data.keys.forces=F" in error.message
    assert "loss.weights.forces=0" in error.message
    assert said_of(unused, one) == []


@pytest.mark.parametrize("key", ["my_energy", "Energy_DFT", "enregy", "REF_enrgy", "E", "TotEnergy"])
def test_an_energy_under_another_name_is_found(tmp_path, key):
    structures = renamed(frames(3), "energy", "info", key)
    for atoms in structures:
        atoms.info |= {"temperature": 300.0, "name": "water", "step": 3}
    (error,) = said_of(labels, subject(tmp_path, structures, loss=loss(*E_F)), "error")
    assert f"+data.keys.energy={key}," in error.message


def test_nothing_like_it_lies_there(tmp_path):
    structures = frames(3)
    for atoms in structures:
        atoms.calc.results.pop("forces")
        atoms.info |= {"step": 3}
        atoms.arrays["momenta"] = np.ones((3, 3))
    (error,) = said_of(labels, subject(tmp_path, structures, loss=loss(*E_F)))
    assert "Unread: arrays 'momenta' (3 numbers an atom, 3 structures), info 'step'" in error.message
    assert "+data.keys.forces=..." in error.message


def test_arrays_that_nobody_reads_are_known_by_their_shape(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"E": rng.normal(size=5), "G_total": rng.normal(size=(5, 3, 3)), "T": np.ones(5)}
    np.savez(tmp_path / "a.npz", R=np.array([molecule("H2O").positions] * 5), z=np.array([8, 1, 1]), **arrays)
    source = Files(tmp_path / "a.npz", units={"energy": "eV", "length": "Å"}, cache=None, val_fraction=0)
    one = of(source, loss(*E_F))
    assert [str(unread) for unread in one.data.report.files[0].unused] == [
        "data 'G_total' (3×3 numbers, 5 structures)",
        "data 'T' (a number, 5 structures)",
    ]


def test_candidates_are_ordered_by_name_and_shape():
    unread = [
        Unused("arrays", "velocities", 9, "3 numbers an atom"),
        Unused("arrays", "vectors", 9, "3 numbers an atom"),
        Unused("arrays", "my_forces", 9, "3 numbers an atom"),
        Unused("info", "forces_note", 9, "text"),
        Unused("info", "max_force", 9, "a number"),
    ]
    assert [one.key for one in candidates(PROPERTIES["forces"], unread)] == ["my_forces", "vectors"]
    stress = [Unused("info", "virial_stress", 3, "6 numbers"), Unused("info", "strain", 3, "6 numbers")]
    assert [one.key for one in candidates(PROPERTIES["stress"], stress)] == ["virial_stress"]


def test_labels_that_weigh_nothing_are_told(tmp_path):
    structures = frames(4)
    for atoms in structures:
        atoms.info["forces_weight"] = 0.0
    (warning,) = said_of(labels, subject(tmp_path, structures, loss=loss(*E_F)))
    assert warning.level == "warning"
    assert "The term 'forces' has 12 labelled rows in training, but not one counts" in warning.message
    minimised = loss(*E_F, config_type_weights={"default": 0.0})
    assert len(said_of(labels, subject(tmp_path, frames(4), loss=minimised), "warning")) == 2


def test_a_mask_that_leaves_out_every_label_is_told(tmp_path):
    structures = frames(4)
    for atoms in structures:
        atoms.set_constraint(FixAtoms([0, 1, 2]))
    terms = {"energy": {}, "forces": {"mask": "free_atoms"}}
    (warning,) = said_of(labels, subject(tmp_path, structures, loss=NormalLoss(terms)))
    assert "its mask leaves them out" in warning.message


def test_labels_that_validation_and_test_lack(tmp_path):
    lacking = frames(3, 1)
    for atoms in lacking:
        atoms.calc.results.pop("forces")
    one = subject(tmp_path, frames(5), val=lacking, test=lacking[:2], loss=loss(*E_F))
    assert [(found.level, found.message[:40]) for found in said_of(labels, one)] == [
        ("warning", "'forces' has labels in training, but no "),
        ("note", "'forces' has labels in training, but no "),
    ]


def test_labels_of_one_dataset_only(tmp_path):
    bare = frames(3)
    for atoms in bare:
        atoms.calc.results.pop("forces")
    (note,) = said_of(labels, subject(tmp_path, {"a": frames(5), "b": bare}, loss=loss(*E_F)))
    assert note.level == "note"
    assert "'forces' is labelled in 'a', but not in 'b' (3 structures)" in note.message


def test_an_epoch_of_nothing_but_an_evaluation_says_nothing_of_training(tmp_path):
    import ase.io

    ase.io.write(tmp_path / "test.xyz", renamed(frames(3), "forces", "arrays", "F"))
    one = of(Files(None, test=tmp_path / "test.xyz", references="none", cache=None), loss(*E_F))
    assert said_of(labels, one) == []


def test_labels_without_a_term_are_named_by_their_key(tmp_path):
    structures = frames(4)
    for atoms in structures:
        atoms.info["REF_dipole"] = np.ones(3)
        atoms.arrays["dft_charges"] = np.ones(3)
    one = subject(tmp_path, structures, loss=loss("energy"))
    forces, dipole, charges = said_of(unused, one)
    assert (forces.level, dipole.level, charges.level) == ("warning", "note", "note")
    assert "calculator results 'forces' (3 numbers an atom, 4 structures)" in forces.message
    assert "+loss/term@loss.terms.forces=forces" in forces.message
    assert "info 'REF_dipole' (3 numbers, 4 structures)" in dipole.message
    assert "arrays 'dft_charges' (a number an atom, 4 structures)" in charges.message


def test_stress_and_virial_stand_in_for_each_other(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=np.full(6, 0.01))
    assert said_of(unused, subject(tmp_path, [atoms], loss=loss("energy", "virial"))) == []
    (stress,) = said_of(unused, subject(tmp_path, [atoms], loss=loss("energy")))
    assert stress.level == "warning"


def test_a_key_that_is_misspelt_in_one_of_the_files(tmp_path):
    other = renamed(frames(3, 1), "forces", "arrays", "REF_froces")
    one = subject(tmp_path, {"a": frames(5), "b": other}, loss=loss(*E_F))
    (warning,) = said_of(unused, one)
    assert warning.level == "warning"
    assert f"{tmp_path / 'b.xyz'}: arrays 'REF_froces' (3 numbers an atom, 3 structures)" in warning.message
    assert "looks like 'forces', of which 0 of 9 rows have a label" in warning.message
    assert warning.message.endswith("{path: ..., keys: {forces: REF_froces}}.")


def test_other_energies_beside_a_complete_one_are_no_misspelling(tmp_path):
    structures = frames(4)
    for atoms in structures:
        atoms.info |= {"energy_sigma": 0.1, "energies_of": "PBE", "free_energy": 3.0}
    assert said_of(unused, subject(tmp_path, structures, loss=loss(*E_F))) == []


@pytest.mark.parametrize("key", ["config_weigth", "wieght", "energy_weigths", "REF_weight"])
def test_a_weight_that_is_misspelt(tmp_path, key):
    structures = frames(4)
    structures[0].info[key] = 2.0
    (warning,) = said_of(unused, subject(tmp_path, structures, loss=loss(*E_F)))
    assert f"info '{key}' (a number, 1 structure) lies unread and looks like a weight" in warning.message


@pytest.mark.parametrize("key", ["config_weight", "stress_weight", "height", "molecular_weight", "wave"])
def test_what_is_no_misspelt_weight(tmp_path, key):
    structures = frames(4)
    structures[0].info[key] = 2.0
    assert said_of(unused, subject(tmp_path, structures, loss=loss(*E_F))) == []


def test_the_bundled_set_lacks_the_stress_of_molecules_and_has_more_than_is_used():
    one = of(Bundled(cache=None), loss())
    assert [found.level for found in said_of(labels, one)] == ["note"]
    assert [found.message.split("'")[1] for found in said_of(unused, one)] == [
        "dipole",
        "polarizability",
        "charges",
    ]


@pytest.mark.parametrize("name", TERMS_OF_CONF)
def test_terms_that_are_suggested_exist(name):
    assert (CONF / "loss" / "term" / f"{name}.yaml").exists()


def test_a_lone_atom_is_counted(tmp_path):
    atoms = Atoms("H")
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((1, 3)))
    one = subject(tmp_path, [atoms], loss=loss(*E_F))
    assert said_of(labels, one) == []
    assert [row[4] for row in tables(labels(one))[0].rows] == [1, 1]
