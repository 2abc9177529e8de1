"""Every label of a file is found and accounted for; what makes no sense is refused by file, row and field."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from pesloss.data import Structures, read
from pesloss.data.reading.report import Unused
from pesloss.losses.properties import PROPERTIES, Property, as_properties

ALL = dict(PROPERTIES)
E_F_S = as_properties(["energy", "forces", "stress"])


def labelled(atoms: Atoms, **results) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def written(folder: Path, *frames: Atoms, name: str = "frames.xyz") -> Path:
    ase.io.write(folder / name, list(frames))
    return folder / name


def text(folder: Path, content: str, name: str = "frames.xyz") -> Path:
    (folder / name).write_text(content)
    return folder / name


def one(properties, folder: Path, *frames: Atoms, **options) -> Structures:
    return read(written(folder, *frames), properties, **options)


def found(structures: Structures, name: str):
    return next(entry for entry in structures.report.files[0].properties if entry.property == name)


def random_labels(atoms: Atoms) -> dict:
    rng = np.random.default_rng(0)
    symmetric = rng.normal(size=(3, 3))
    symmetric = symmetric + symmetric.T
    return {
        "energy": -3.25,
        "forces": rng.normal(size=(len(atoms), 3)),
        "stress": symmetric,
        "dipole": rng.normal(size=3),
        "charges": rng.normal(size=len(atoms)),
    }


# ---- finding ----


@pytest.mark.parametrize("suffix", ["xyz", "extxyz", "traj", "xyz.gz", "json"])
def test_what_ase_writes_is_read_back(tmp_path, suffix):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    labels = random_labels(atoms)
    voigt = labels["stress"][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    path = written(tmp_path, labelled(atoms, **labels | {"stress": voigt}), name=f"a.{suffix}")
    (structure,) = read(path, as_properties(labels))
    for name, label in labels.items():
        np.testing.assert_allclose(structure.labels[name], label, atol=1e-7)
        assert structure.labels[name].dtype == np.float64
    np.testing.assert_allclose(structure.positions, atoms.positions, atol=1e-7)
    np.testing.assert_allclose(structure.cell, atoms.cell[:], atol=1e-7)
    assert structure.pbc.all()
    assert structure.numbers.tolist() == [11, 17]


@pytest.mark.parametrize("prefix", ["", "REF_", "ref_", "DFT_", "dft_"])
def test_labels_are_found_under_their_usual_names(tmp_path, prefix):
    atoms = bulk("Cu") * (2, 1, 1)
    labels = random_labels(atoms) | {"polarizability": 2 * np.eye(3)}
    labels["virial"] = -atoms.get_volume() * labels["stress"]
    for name, label in labels.items():
        prop = PROPERTIES[name]
        where = atoms.arrays if prop.rows == "atom" else atoms.info
        where[prefix + name] = label.reshape(-1) if prop.shape == (3, 3) and prefix else label
    structures = one(ALL, tmp_path, atoms)
    for name, label in labels.items():
        np.testing.assert_allclose(structures[0].labels[name], label, atol=1e-7)
        assert found(structures, name).labelled == found(structures, name).total


def test_a_key_of_the_users_is_read_wherever_it_stands(tmp_path):
    atoms = labelled(molecule("H2O"), energy=1.0, free_energy=2.0)
    atoms.info["strange"] = 3.0
    atoms.arrays["q"] = np.array([-0.8, 0.4, 0.4])
    properties = as_properties(["energy", "charges"])
    for key, value in {"strange": 3.0, "free_energy": 2.0, "energy": 1.0}.items():
        structures = one(properties, tmp_path, atoms, keys={"energy": key, "charges": "q"})
        assert structures[0].labels["energy"] == value
        np.testing.assert_allclose(structures[0].labels["charges"], atoms.arrays["q"])


def test_free_energy_and_initial_charges_are_no_labels_but_are_reported(tmp_path):
    atoms = labelled(molecule("H2O"), free_energy=2.0)
    atoms.set_initial_charges([-0.8, 0.4, 0.4])
    structures = one(as_properties(["energy", "charges"]), tmp_path, atoms)
    assert structures[0].labels == {}
    assert structures.report.files[0].unused == (
        Unused("arrays", "initial_charges", 1, "a number an atom"),
        Unused("calculator results", "free_energy", 1, "a number"),
    )
    assert "energy: 0 / 1 structures, no label found" in str(structures.report)


def test_what_lay_unread_is_told_with_its_shape_and_how_often(tmp_path):
    atoms = [molecule("CH4"), molecule("H2O"), Atoms("H")]
    for one_more in atoms[:2]:
        one_more.arrays["F"] = np.zeros((len(one_more), 3))
        one_more.info |= {"my_stress": np.zeros((3, 3)), "method": "PBE"}
    structures = one(ALL, tmp_path, *atoms)
    assert [str(unused) for unused in structures.report.files[0].unused] == [
        "arrays 'F' (3 numbers an atom, 2 structures)",
        "info 'method' (text, 2 structures)",
        "info 'my_stress' (3×3 numbers, 2 structures)",
    ]


def test_a_property_of_the_users_own_is_looked_up_by_name(tmp_path):
    atoms = molecule("H2O")
    atoms.info["gap"] = 5
    atoms.arrays["born"] = np.arange(27.0).reshape(3, 9)
    atoms.arrays["spin"] = np.arange(3.0)
    own = [Property("gap"), Property("born", rows="atom", shape=(3, 3)), Property("spin", rows="atom")]
    labels = one(as_properties(own), tmp_path, atoms)[0].labels
    assert labels["gap"] == 5.0
    np.testing.assert_allclose(labels["born"], np.arange(27.0).reshape(3, 3, 3))
    np.testing.assert_allclose(labels["spin"], [0, 1, 2])


def test_two_labels_that_differ_are_not_guessed_between(tmp_path):
    atoms = labelled(molecule("H2O"), energy=1.0)
    atoms.info["REF_energy"] = 1.5
    with pytest.raises(
        ValueError, match=r"structure 0: 'energy' stands in .* 'energy' and in info 'REF_energy'"
    ):
        one(E_F_S, tmp_path, atoms)
    assert one(E_F_S, tmp_path, atoms, keys={"energy": "REF_energy"})[0].labels["energy"] == 1.5
    atoms.info["REF_energy"] = 1.0
    assert one(E_F_S, tmp_path, atoms)[0].labels["energy"] == 1.0


def test_missing_labels_are_absent_and_counted(tmp_path):
    bare, partial, full = molecule("H2O"), labelled(molecule("CH4"), energy=1.0), molecule("H2")
    forces = np.ones((2, 3))
    forces[0] = np.nan
    structures = one(E_F_S, tmp_path, bare, partial, labelled(full, energy=2.0, forces=forces))
    assert [sorted(s.labels) for s in structures] == [[], ["energy"], ["energy", "forces"]]
    assert (found(structures, "energy").labelled, found(structures, "energy").total) == (2, 3)
    assert (found(structures, "forces").labelled, found(structures, "forces").total) == (1, 10)
    assert found(structures, "forces").sources == {"calculator results 'forces'": 1}


# ---- stress and virial ----


def test_stress_and_virial_stand_in_for_each_other(tmp_path):
    virial = np.array([[1.0, 0.2, 0.3], [0.2, 2.0, 0.4], [0.3, 0.4, 3.0]])
    atoms = bulk("Cu")
    atoms.info["virial"] = virial
    structures = one(E_F_S, tmp_path, atoms)
    np.testing.assert_allclose(structures[0].labels["stress"], -virial / atoms.get_volume())
    assert found(structures, "stress").sources == {"info 'virial' (stress = −virial / volume)": 1}
    atoms = labelled(bulk("Cu"), stress=np.array([1.0, 2, 3, 0.4, 0.3, 0.2]))
    structures = one(as_properties(["virial"]), tmp_path, atoms)
    np.testing.assert_allclose(structures[0].labels["virial"], -virial * atoms.get_volume())
    assert "virial = −volume · stress" in str(structures.report)


def test_the_volume_of_a_left_handed_cell_is_positive(tmp_path):
    atoms = Atoms("Cu", cell=[[0, 3, 0], [3, 0, 0], [0, 0, 3]], pbc=True)
    atoms.info["virial"] = np.eye(3)
    np.testing.assert_allclose(one(E_F_S, tmp_path, atoms)[0].labels["stress"], -np.eye(3) / 27)


@pytest.mark.parametrize("key", ["virials", "dft_virial", "anything"])
def test_voigt_order_is_the_one_of_ase(tmp_path, key):
    atoms = bulk("Cu")
    atoms.info[key] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    virial = one(as_properties(["virial"]), tmp_path, atoms, keys={"virial": key})[0].labels["virial"]
    np.testing.assert_allclose(virial, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_a_key_for_the_virial_shuts_out_the_stress(tmp_path):
    atoms = labelled(bulk("Cu"), stress=np.ones(6))
    atoms.info["W"] = np.eye(3).reshape(-1)
    stress = one(E_F_S, tmp_path, atoms, keys={"virial": "W"})[0].labels["stress"]
    np.testing.assert_allclose(stress, -np.eye(3) / atoms.get_volume())


@pytest.mark.parametrize(
    ("name", "asked"), [("stress", "stress"), ("virial", "stress"), ("stress", "virial")]
)
def test_a_stress_needs_a_cell(tmp_path, name, asked):
    atoms = molecule("H2O")
    atoms.info[f"REF_{name}"] = np.eye(3).reshape(-1)
    with pytest.raises(ValueError, match=r"frames.xyz, structure 1: .*REF_.* needs a volume"):
        one(as_properties([asked]), tmp_path, molecule("H2"), atoms)
    atoms.info[f"REF_{name}"] = np.full(9, np.nan)
    assert found(one(as_properties([asked]), tmp_path, atoms), asked).labelled == 0


def test_a_molecule_may_have_a_virial(tmp_path):
    atoms = molecule("H2O")
    atoms.info["virial"] = np.eye(3)
    np.testing.assert_allclose(one(as_properties(["virial"]), tmp_path, atoms)[0].labels["virial"], np.eye(3))


# ---- weights, groups, constraints ----


def test_weights_of_structures_atoms_and_properties(tmp_path):
    atoms = molecule("H2O")
    atoms.info |= {"config_weight": 2, "config_forces_weight": 3, "energy_weight": 0.5}
    atoms.arrays["weight"] = np.array([1.0, 0.0, 2.0])
    structures = one(E_F_S, tmp_path, atoms, molecule("H2"))
    weights = structures[0].weights
    assert {name: w.tolist() for name, w in weights.items()} == {
        "weight": 2.0,
        "atom_weight": [1.0, 0.0, 2.0],
        "energy_weight": 0.5,
        "forces_weight": [3.0, 3.0, 3.0],
    }
    assert structures[1].weights == {}
    assert "weight: info 'config_weight'" in str(structures.report)
    assert structures.report.files[0].unused == ()


def test_weights_of_single_directions_and_of_a_key(tmp_path):
    atoms = molecule("H2O")
    atoms.arrays["mask"] = np.arange(9.0).reshape(3, 3)
    weights = one(E_F_S, tmp_path, atoms, keys={"atom_weight": "mask"})[0].weights
    np.testing.assert_allclose(weights["atom_weight"], atoms.arrays["mask"])


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_weights_are_not_negative(tmp_path, weight):
    atoms = molecule("H2O")
    atoms.info["energy_weight"] = weight
    with pytest.raises(ValueError, match=r"'energy_weight' from info 'energy_weight' must not be negative"):
        one(E_F_S, tmp_path, atoms)


def test_fixed_atoms_and_other_constraints(tmp_path):
    atoms = molecule("H2O")
    atoms.set_constraint([FixAtoms([1]), FixCartesian(2, (True, False, False))])
    path = written(tmp_path, atoms, name="frames.traj")
    structures = read(path, E_F_S)
    assert structures[0].fixed.tolist() == [False, True, False]
    assert structures.report.files[0].ignored == {"constraint FixCartesian": 1}


def test_names_of_groups_and_datasets(tmp_path):
    a, b = molecule("H2O"), molecule("H2")
    a.info |= {"config_type": 300, "group": "wet"}
    path = written(tmp_path, a, b)
    assert [s.config_type for s in read(path, E_F_S)] == ["300", "default"]
    assert [s.config_type for s in read(path, E_F_S, keys={"config_type": "group"})] == ["wet", "default"]
    assert {s.dataset for s in read(path, E_F_S)} == {"frames"}
    assert {s.dataset for s in read({"water": [path]}, E_F_S)} == {"water"}


def test_several_files_keep_their_order_and_their_accounts(tmp_path):
    water, hydrogen = (
        written(tmp_path, molecule("H2O"), name="a.xyz"),
        written(tmp_path, molecule("H2"), name="b.xyz"),
    )
    structures = read([hydrogen, water], E_F_S)
    assert [s.num_atoms for s in structures] == [2, 3]
    assert [s.source for s in structures] == [f"{hydrogen}, structure 0", f"{water}, structure 0"]
    assert [file["num_atoms"] for file in structures.report.as_dict()["files"]] == [2, 3]


@pytest.mark.parametrize(
    ("index", "rows"), [(":", [0, 1, 2]), ("1:", [1, 2]), (-1, [2]), ("::2", [0, 2]), ("1", [1])]
)
def test_an_index_selects_rows_and_keeps_their_numbers(tmp_path, index, rows):
    structures = one(E_F_S, tmp_path, molecule("H2"), molecule("H2O"), molecule("CH4"), index=index)
    assert [s.source.rsplit(" ", 1)[1] for s in structures] == list(map(str, rows))
    assert [s.num_atoms for s in structures] == [[2, 3, 5][row] for row in rows]


# ---- rows and keys ----


def test_an_index_beyond_the_end_selects_nothing(tmp_path):
    written(tmp_path, molecule("H2"))
    for index in ("5:", 1, -2):
        with pytest.raises(ValueError, match=f"Index {index!r} selects none of the 1 structures"):
            read(tmp_path / "frames.xyz", E_F_S, index=index)


def test_blank_lines_may_end_a_file(tmp_path):
    frame = "1\nProperties=species:S:1:pos:R:3\nH 0 0 0\n"
    assert len(read(text(tmp_path, f"{frame}\n\n"), E_F_S)) == 1


def test_errors_about_keys(tmp_path):
    atoms = labelled(molecule("H2O"), energy=1.0)
    atoms.info["REF_enrgy"] = 1.0
    with pytest.raises(
        KeyError, match=r"'energy' is to be read from 'REF_energy', .* did you mean 'REF_enrgy'"
    ):
        one(E_F_S, tmp_path, atoms, keys={"energy": "REF_energy"})
    with pytest.raises(KeyError, match="config_type"):
        one(E_F_S, tmp_path, atoms, keys={"config_type": "group"})
