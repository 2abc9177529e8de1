"""The same structures are the same from every format, whatever units, signs and names it has them in."""

from __future__ import annotations

import gzip
import shutil
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import ase.db
import ase.io
import ase.units
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pesloss.data import Structure, read
from pesloss.data.reading.files import File, as_files
from pesloss.data.reading.reader import Reader, check_keys
from pesloss.losses.properties import as_properties

PROPERTIES = as_properties(["energy", "forces", "stress", "dipole", "charges"])
E_F = as_properties(["energy", "forces"])
KCAL = ase.units.kcal / ase.units.mol
EV = {"energy": "eV", "length": "Å", "charge": "e"}
NUM = 7


def frames(num: int = NUM) -> list[Atoms]:
    """Rattled ethanol in a large cell, every label on it."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(num):
        atoms = molecule("CH3CH2OH", cell=np.diag([9.0, 10.0, 11.0]), pbc=True)
        atoms.rattle(0.1, rng=rng)
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(9, 3)), "stress": rng.normal(size=6)}
        labels |= {"dipole": rng.normal(size=3), "charges": rng.normal(size=9)}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    return made


def arrays(num: int = NUM) -> dict[str, np.ndarray]:
    """The same as columns."""
    made = frames(num)
    columns = {name: np.array([atoms.calc.results[name] for atoms in made]) for name in PROPERTIES}
    return {
        **columns,
        "z": made[0].numbers,
        "R": np.array([atoms.positions for atoms in made]),
        "cell": made[0].cell.array,
    }


def by_ase(path: Path) -> Path:
    ase.io.write(path, frames())
    return path


def database(path: Path) -> Path:
    with ase.db.connect(path) as db:
        for atoms in frames():
            db.write(atoms)
    return path


def npz(path: Path, **changes) -> Path:
    columns = {**arrays(), **changes}
    np.savez(path, **{key: value for key, value in columns.items() if value is not None})
    return path


def hdf5(path: Path) -> Path:
    """Two groups of the same molecule."""
    columns = arrays()
    with h5py.File(path, "w") as file:
        for name, rows in {"first": slice(0, 3), "second/inside": slice(3, NUM)}.items():
            group = file.create_group(name)
            for key, value in columns.items():
                group[key] = value[rows] if key not in ("z", "cell") else value
    return path


def deepmd(path: Path) -> Path:
    columns = arrays()
    voigt = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    for name, rows in {"set.000": slice(0, 4), "set.001": slice(4, NUM)}.items():
        (path / name).mkdir(parents=True)
        size = len(range(NUM)[rows])
        virial = -np.prod([9.0, 10.0, 11.0]) * columns["stress"][rows][:, voigt]
        np.save(path / name / "coord.npy", columns["R"][rows].reshape(size, -1))
        np.save(path / name / "box.npy", np.tile(columns["cell"].reshape(-1), (size, 1)))
        np.save(path / name / "force.npy", columns["forces"][rows].reshape(size, -1))
        np.save(path / name / "virial.npy", virial.reshape(size, 9))
        for key in ("energy", "dipole", "charges"):
            np.save(path / name / f"{key}.npy", columns[key][rows])
    (path / "type_map.raw").write_text("H C O")
    (path / "type.raw").write_text("\n".join({1: "0", 6: "1", 8: "2"}[z] for z in columns["z"]))
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "a.extxyz": by_ase,
    "a.xyz.gz": by_ase,
    "a.traj": by_ase,
    "a.traj.gz": lambda path: zipped(by_ase(path.with_suffix(""))),
    "a.json": database,
    "a.db": database,
    "a.aselmdb": database,
    "a.npz": npz,
    "a.h5": hdf5,
    "a": deepmd,
}


def zipped(path: Path) -> Path:
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def written(folder: Path, name: str) -> File:
    units = EV if name in ("a.npz", "a.h5") else {}
    return as_files(File(WRITERS[name](folder / name), units=units))[0]


def assert_same(one: Structure, other: Structure, atol: float = 1e-7) -> None:
    for name in ("numbers", "positions", "cell", "pbc"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=atol)
    assert one.labels.keys() == other.labels.keys()
    for name, label in one.labels.items():
        np.testing.assert_allclose(label, other.labels[name], atol=atol)
        assert label.dtype == np.float64


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> list[Structure]:
    return list(read(by_ase(tmp_path_factory.mktemp("reference") / "a.traj"), PROPERTIES))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_structures(tmp_path, reference, name):
    structures = read(written(tmp_path, name), PROPERTIES)
    assert len(structures) == NUM
    assert [structure.row for structure in structures] == list(range(NUM))
    for one, other in zip(structures, reference, strict=True):
        assert_same(one, other)
        assert one.labels.keys() == PROPERTIES.keys()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("index", [":", "2:6", "1::3", "4", "-2:", -1, 0, ":-3", slice(1, None, 2), "::100"])
def test_an_index_selects_the_same_rows_in_every_format(tmp_path, reference, name, index):
    from ase.utils import string2index

    rows = np.arange(NUM)[string2index(index) if isinstance(index, str) else index]
    file = File(**{**vars(written(tmp_path, name)), "index": index})
    structures = list(Reader(file, E_F))
    assert [structure.row for structure in structures] == np.atleast_1d(rows).tolist()
    for structure in structures:
        np.testing.assert_allclose(structure.labels["energy"], reference[structure.row].labels["energy"])


@pytest.mark.parametrize("name", WRITERS)
def test_a_reader_stops_where_one_stops_reading(tmp_path, name):
    reader = iter(Reader(written(tmp_path, name), E_F))
    assert len(list(islice(reader, 2))) == 2
    reader.close()


def many(path: Path, num: int, num_atoms: int) -> File:
    """A file of structures so large that holding them all would be seen."""
    rng = np.random.default_rng(0)
    atoms = Atoms("Cu" * num_atoms, rng.uniform(0, 50, (num_atoms, 3)))
    columns = {"z": atoms.numbers, "R": np.tile(atoms.positions, (num, 1, 1))}
    columns["F"] = rng.normal(size=(num, num_atoms, 3))
    images = [Atoms(atoms.numbers, atoms.positions) for _ in range(num)]
    for image, forces in zip(images, columns["F"], strict=True):
        image.calc = SinglePointCalculator(image, forces=forces)
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for key, values in columns.items():
                file[key] = values
    elif path.suffix in (".db", ".aselmdb"):
        with ase.db.connect(path) as db:
            for image in images:
                db.write(image)
    else:
        ase.io.write(path, images)
    return as_files(File(path, units=EV if path.suffix in (".npz", ".h5") else {}))[0]


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz.gz", "a.traj", "a.db", "a.aselmdb", "a.npz", "a.h5"])
def test_a_file_is_read_in_little_memory(tmp_path, name, monkeypatch):
    """A reader holds some structures at a time, never the file."""
    monkeypatch.setattr("pesloss.data.reading.formats.columns.BLOCK", 8)
    monkeypatch.setattr("pesloss.data.reading.formats.db.PAGE", 8)
    num, num_atoms = 300, 100
    reader = Reader(many(tmp_path / name, num, num_atoms), as_properties(["forces"]))
    assert next(iter(reader)).num_atoms == num_atoms
    tracemalloc.start()
    try:
        assert sum(1 for _ in reader) == num
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.7 * num * num_atoms * 6 * 8  # less than positions and forces of all structures


# ---- columns ----


def test_units_are_those_of_the_file(tmp_path, reference):
    bohr, hartree = ase.units.Bohr, ase.units.Hartree
    columns = arrays()
    path = npz(
        tmp_path / "a.npz",
        R=columns["R"] / bohr,
        cell=columns["cell"] / bohr,
        energy=columns["energy"] / KCAL,
        forces=columns["forces"] / KCAL * bohr,
        stress=columns["stress"] / ase.units.GPa,
        dipole=columns["dipole"] / ase.units.Debye,
    )
    units = {"energy": "kcal/mol", "length": "bohr", "stress": "GPa", "dipole": "Debye", "charges": "e"}
    structures = read(path, PROPERTIES, units=units)
    for one, other in zip(structures, reference, strict=True):
        assert_same(one, other)
    changes = structures.report.files[0].changes
    assert changes["positions"] == f"from bohr (× {bohr:.7g})"
    assert changes["forces"] == f"from kcal/mol/bohr (× {KCAL / bohr:.7g})"
    assert changes["stress"].startswith("from GPa")
    assert "energy: from kcal/mol (× 0.0433641)" in str(structures.report)
    path = npz(tmp_path / "b.npz", energy=columns["energy"] / hartree / 9)
    own = read(path, E_F, units={**EV, "energy": "Hartree/atom", "forces": "eV/Å"})
    np.testing.assert_allclose([s.labels["energy"] for s in own], columns["energy"])
    assert own.report.files[0].changes == {"energy": f"from Hartree/atom (× {hartree:.7g} × number of atoms)"}


def test_a_file_of_numbers_needs_units(tmp_path):
    for path in (npz(tmp_path / "a.npz"), hdf5(tmp_path / "a.h5")):
        with pytest.raises(
            ValueError, match=r"a\.\w+, structure 0.*: 'energy' has no unit.*data.units.energy="
        ):
            read(path, E_F)
        with pytest.raises(ValueError, match=r"data\.units\.length="):
            read(path, E_F, units={"energy": "eV"})
        with pytest.raises(ValueError, match="'positions' has no unit"):
            read(path, as_properties(["energy"]), units={"energy": "eV"})
        with pytest.raises(
            ValueError, match=r"data.units.charge=e, or for 'dipole' alone \+data.units.dipole="
        ):
            read(path, PROPERTIES, units={"energy": "eV", "length": "Å"})


def test_sgdml_states_its_units(tmp_path):
    columns = arrays()
    stated = {"e_unit": "kcal/mol", "r_unit": "Ang", "E": columns["energy"] / KCAL}
    path = npz(tmp_path / "a.npz", **stated, F=columns["forces"] / KCAL, energy=None, forces=None)
    structures = read(path, E_F)
    np.testing.assert_allclose([s.labels["energy"] for s in structures], columns["energy"])
    np.testing.assert_allclose([s.labels["forces"] for s in structures], columns["forces"])
    with pytest.raises(ValueError, match="'energy' is given in eV, but the file itself states kcal/mol"):
        read(path, E_F, units={"energy": "eV"})


def test_spice_has_gradients_in_its_own_units(tmp_path):
    columns, bohr, hartree = arrays(), ase.units.Bohr, ase.units.Hartree
    with h5py.File(tmp_path / "spice.hdf5", "w") as file:
        group = file.create_group("103147721")
        group["atomic_numbers"] = columns["z"]
        group["smiles"] = [b"CCO"]
        group["subset"] = [b"SPICE PubChem"]
        group["conformations"] = columns["R"] / bohr
        group["dft_total_energy"] = columns["energy"] / hartree
        group["dft_total_gradient"] = -columns["forces"] / hartree * bohr
        group["mbis_charges"] = columns["charges"][:, :, None]
        group["scf_dipole"] = columns["dipole"] / bohr
        units = {"conformations": "bohr", "dft_total_energy": "hartree", "dft_total_gradient": "hartree/bohr"}
        units |= {"mbis_charges": "elementary_charge", "scf_dipole": "elementary_charge*bohr"}
        for key, unit in units.items():
            group[key].attrs["units"] = unit
    keys = {"energy": "dft_total_energy", "forces": "dft_total_gradient", "config_type": "subset"}
    keys |= {"charges": "mbis_charges", "dipole": "scf_dipole"}
    file = File(tmp_path / "spice.hdf5", keys=keys, signs={"forces": -1})
    structures = read(file, as_properties(["energy", "forces", "charges", "dipole"]))
    for name in ("energy", "forces", "charges", "dipole"):
        np.testing.assert_allclose([s.labels[name] for s in structures], columns[name], atol=1e-10)
    np.testing.assert_allclose([s.positions for s in structures], columns["R"])
    assert structures[2].source.endswith("spice.hdf5, structure 2 (103147721, conformation 2)")
    assert structures[2].config_type == "SPICE PubChem"
    assert structures.report.files[0].changes["forces"].endswith(", sign −1")
    with pytest.raises(
        ValueError, match="'forces' is given in eV/Å, but the file itself states hartree/bohr"
    ):
        read(file, E_F, units={"forces": "eV/Å"})


def test_ani_names_elements_and_has_missing_labels(tmp_path):
    energies = np.array([1.0, np.nan, 3.0])
    with h5py.File(tmp_path / "ani.h5", "w") as file:
        inside = file.create_group("gdb11_s01").create_group("gdb11_s01-0")
        inside["species"] = np.array([b"C", b"H", b"H"])
        inside["coordinates"] = np.random.default_rng(0).normal(size=(3, 3, 3))
        inside["energies"] = energies
    structures = read(tmp_path / "ani.h5", E_F, units={"energy": "Hartree", "length": "Å"})
    assert structures[0].numbers.tolist() == [6, 1, 1]
    np.testing.assert_allclose([s.labels["energy"] for s in structures], energies * ase.units.Hartree)
    assert structures.report.files[0].properties[0].labelled == 2


def test_one_structure_a_group(tmp_path):
    with h5py.File(tmp_path / "qm7x.h5", "w") as file:
        for i, size in enumerate((2, 3)):
            group = file.create_group(f"mol/{i}")
            group["atNUM"], group["atXYZ"] = np.ones(size), np.arange(3.0 * size).reshape(size, 3)
            group["E"], group["totFOR"] = np.array([float(i)]), np.ones((size, 3))
    keys = {"forces": "totFOR"}
    structures = read(tmp_path / "qm7x.h5", E_F, keys=keys, units={"energy": "eV", "length": "Å"})
    assert [s.num_atoms for s in structures] == [2, 3]
    assert [s.labels["energy"] for s in structures] == [0, 1]
    assert structures[1].source.endswith("structure 1 (mol/1)")


def test_columns_go_by_the_names_that_the_user_says(tmp_path):
    columns = arrays()
    path = npz(
        tmp_path / "a.npz",
        R=None,
        z=None,
        energy=None,
        where=columns["R"],
        what=columns["z"],
        how=columns["energy"],
    )
    keys = {"positions": "where", "numbers": "what", "energy": "how"}
    structures = read(path, E_F, keys=keys, units=EV)
    np.testing.assert_allclose([s.labels["energy"] for s in structures], columns["energy"])
    with pytest.raises(ValueError, match=r"a\.npz.*no positions among .*say where they stand"):
        read(path, E_F, units=EV)
    both = npz(tmp_path / "b.npz", coords=columns["R"])
    with pytest.raises(ValueError, match="positions may be coords or R; say which"):
        read(both, E_F, units=EV)


def test_arrays_in_fortran_s_order_are_arrays_too(tmp_path, reference):
    path = npz(tmp_path / "a.npz", R=np.asfortranarray(arrays()["R"]))
    for one, other in zip(read(path, PROPERTIES, units=EV), reference, strict=True):
        assert_same(one, other)


def test_columns_may_hold_weights_and_groups(tmp_path):
    names = np.array(["wet", "dry"] * 3 + ["wet"])
    path = npz(tmp_path / "a.npz", weight=np.arange(NUM), group=names)
    structures = read(path, E_F, units=EV, keys={"config_type": "group"})
    assert [float(s.weights["weight"]) for s in structures] == list(range(NUM))
    assert [s.config_type for s in structures] == names.tolist()
    (reader,) = [Reader(file, E_F, info=["group"]) for file in as_files(path, units=EV)]
    assert [s.info for s in reader] == [{"group": name} for name in names]


# ---- databases ----


def test_schnetpack_states_the_units_of_its_database(tmp_path):
    columns = arrays()
    with ase.db.connect(tmp_path / "md17.db") as db:
        for i, atoms in enumerate(frames()):
            bare = Atoms(atoms.numbers, atoms.positions)
            data = {"energy": np.array([columns["energy"][i] / KCAL]), "forces": columns["forces"][i] / KCAL}
            db.write(bare, data=data)
        db.metadata = {
            "_property_unit_dict": {"energy": "kcal/mol", "forces": "kcal/mol/Ang"},
            "_distance_unit": "Ang",
        }
    structures = read(tmp_path / "md17.db", E_F)
    np.testing.assert_allclose([s.labels["energy"] for s in structures], columns["energy"])
    np.testing.assert_allclose([s.labels["forces"] for s in structures], columns["forces"])
    with pytest.raises(ValueError, match="'energy' is given in eV, but the file itself states kcal/mol"):
        read(tmp_path / "md17.db", E_F, units={"energy": "eV"})


@pytest.mark.parametrize("name", ["a.db", "a.aselmdb", "a.json"])
def test_key_value_pairs_are_info(tmp_path, name):
    with ase.db.connect(tmp_path / name) as db:
        for atoms in frames():
            db.write(atoms, REF_energy=2.0, config_type="wet", data={"charge": 1, "mine": np.ones(9)})
    properties = as_properties(["energy", "charges"])
    keys = {"energy": "REF_energy", "charges": "mine"}
    structures = read(tmp_path / name, properties, keys=keys)
    assert structures[0].labels["energy"] == 2.0
    assert structures[0].labels["charges"].tolist() == [1.0] * 9
    assert structures[0].config_type == "wet"
    assert structures[0].info["charge"] == 1


def test_rows_that_were_deleted_are_not_there(tmp_path):
    for name in ("a.db", "a.aselmdb"):
        with ase.db.connect(database(tmp_path / name)) as db:
            db.delete([2, 3])
        assert [s.row for s in read(tmp_path / name, E_F)] == list(range(NUM - 2))


# ---- files ----


def test_each_file_says_how_it_is_read(tmp_path):
    stress = np.arange(1.0, 7.0)
    for name in ("ase.xyz", "vasp.xyz"):
        atoms = bulk("Cu")
        atoms.info["REF_stress"] = stress
        atoms.info["E" if name == "vasp.xyz" else "energy"] = 1.0
        ase.io.write(tmp_path / name, atoms)
    files = [
        tmp_path / "ase.xyz",
        {
            "path": tmp_path / "vasp.xyz",
            "dataset": "other",
            "units": {"stress": "kbar", "energy": "Hartree"},
            "signs": {"stress": -1},
            "voigt": "vasp",
            "keys": {"energy": "E"},
            "weight": 0.5,
        },
    ]
    one, other = read(files, as_properties(["energy", "stress"]))
    np.testing.assert_allclose(one.labels["stress"], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    kbar = 0.1 * ase.units.GPa
    np.testing.assert_allclose(other.labels["stress"], -kbar * np.array([[1, 4, 6], [4, 2, 5], [6, 5, 3]]))
    assert (one.labels["energy"], other.labels["energy"]) == (1.0, pytest.approx(ase.units.Hartree))
    assert (one.dataset, other.dataset) == ("ase", "other")
    assert (one.weights, other.weights) == ({}, {"weight": 0.5})


def test_the_sign_and_unit_are_those_of_what_the_file_has(tmp_path):
    """A stress that follows from a virial takes the virial's unit and sign."""
    atoms = bulk("Cu")
    atoms.info["virial"] = np.eye(3).reshape(-1)
    ase.io.write(tmp_path / "a.xyz", atoms)
    (structure,) = read(
        tmp_path / "a.xyz", as_properties(["stress"]), units={"virial": "kcal/mol"}, signs={"virial": -1}
    )
    np.testing.assert_allclose(structure.labels["stress"], np.eye(3) * KCAL / atoms.get_volume())


def test_common_entries_yield_to_those_of_a_file():
    files = as_files(
        [File("a.xyz", keys={"energy": "mine"}, voigt="ase"), "b.xyz"],
        keys={"energy": "all", "forces": "F"},
        units={"energy": "eV"},
        voigt="vasp",
        index="-3:",
    )
    assert [file.keys for file in files] == [
        {"energy": "mine", "forces": "F"},
        {"energy": "all", "forces": "F"},
    ]
    assert [file.units for file in files] == [{"energy": "eV"}] * 2
    assert [file.voigt for file in files] == ["xx yy zz yz xz xy", "xx yy zz xy yz xz"]
    assert {file.index for file in files} == {"-3:"}


def test_files_are_listed_in_many_ways(tmp_path):
    one = {"path": "x/a.npz", "weight": 2.0}
    assert [file.dataset for file in as_files({"all": ["a.xyz", File("b.xyz")], "one": one})] == [
        "all",
        "all",
        "one",
    ]
    assert [file.weight for file in as_files([one, "b.xyz"])] == [2.0, 1.0]
    assert as_files(File("a.xyz", dataset="b"))[0].dataset == "b"
    assert as_files({"path": "a.xyz", "units": None})[0].units == {}
    (tmp_path / "set").mkdir()
    for name in ("b.aselmdb", "a.aselmdb", "c.xyz"):
        (tmp_path / "set" / name).touch()
    files = as_files(str(tmp_path / "set" / "*.aselmdb"))
    assert [(file.dataset, Path(file.path).name) for file in files] == [
        ("set", "a.aselmdb"),
        ("set", "b.aselmdb"),
    ]
    assert {file.dataset for file in as_files({"omat": str(tmp_path / "set" / "*.aselmdb")})} == {"omat"}


def test_keys_are_sought_in_the_files_they_are_meant_for(tmp_path):
    a, b = by_ase(tmp_path / "a.xyz"), by_ase(tmp_path / "b.xyz")
    own = as_files([File(a, keys={"energy": "energy"}), b])
    readers = [Reader(file, E_F) for file in own]
    assert sum(1 for reader in readers for _ in reader) == 2 * NUM
    check_keys(readers)
    with pytest.raises(
        KeyError, match=r"'energy' is to be read from 'nrg', which no structure of .*a\.xyz has"
    ):
        read([File(a, keys={"energy": "nrg"}), b], E_F)


def test_keys_for_what_nobody_wants_do_no_harm(tmp_path):
    path = by_ase(tmp_path / "a.xyz")
    assert (
        len(read(path, E_F, keys={"dipole": "scf_dipole"}, units={"dipole": "Debye"}, signs={"stress": -1}))
        == NUM
    )


def test_a_copy_under_another_name_is_read_by_its_format(tmp_path):
    shutil.copy(npz(tmp_path / "a.npz"), tmp_path / "numbers")
    assert len(read(File(tmp_path / "numbers", format="npz"), E_F, units=EV)) == NUM
