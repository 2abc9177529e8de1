"""Bad input is an error that names the file, the structure where there is one, and what is wrong with it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from pesloss.data import Neighbors, read
from pesloss.data.reading.files import File, as_files
from pesloss.data.reading.geometry import check_distances
from pesloss.data.reading.reader import Reader
from pesloss.losses.properties import as_properties

PROPERTIES = as_properties(["energy", "forces", "stress", "dipole", "charges"])
UNITS = {"energy": "eV", "length": "Å", "charge": "e"}
GOOD = "1\nProperties=species:S:1:pos:R:3 energy=1.0\nH 0 0 0\n"

Make = Callable[[Path], Any]


def text(*frames: str, name: str = "bad.xyz") -> Make:
    """A file whose second structure is the bad one."""

    def make(folder: Path) -> Path:
        (folder / name).write_text(GOOD + "".join(frames))
        return folder / name

    return make


def line(atoms: str = "H 0 0 0", comment: str = "Properties=species:S:1:pos:R:3") -> Make:
    return text(f"1\n{comment}\n{atoms}\n")


def comment(entries: str) -> Make:
    return line(comment=f"Properties=species:S:1:pos:R:3 {entries}")


def content(data: bytes, name: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def cut(make: Make, share: float = 0.6) -> Make:
    """A file of which only the beginning arrived."""

    def made(folder: Path) -> Path:
        path = make(folder)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        return path

    return made


def npz(**changes: Any) -> Make:
    def make(folder: Path) -> Path:
        rng = np.random.default_rng(0)
        columns = {"z": [8, 1, 1], "R": rng.normal(size=(4, 3, 3)), "E": np.ones(4), "F": np.ones((4, 3, 3))}
        columns |= changes
        np.savez(folder / "bad.npz", **{key: np.asarray(v) for key, v in columns.items() if v is not None})
        return folder / "bad.npz"

    return make


def short_member(folder: Path) -> Path:
    """An archive that is whole, with an array that says it is longer than it is."""
    path = npz()(folder)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'shape': (4,), }", b"'shape': (9,), }"))
    return path


def hdf5(**changes: Any) -> Make:
    def make(folder: Path) -> Path:
        columns = {
            "atomic_numbers": [8, 1, 1],
            "conformations": np.random.default_rng(0).normal(size=(4, 3, 3)),
        }
        columns |= {"energies": np.ones(4), **changes}
        with h5py.File(folder / "bad.h5", "w") as file:
            good = file.create_group("good")
            good["atomic_numbers"], good["conformations"] = [1], np.zeros((2, 1, 3))
            group = file.create_group("worse")
            for key, value in columns.items():
                if value is not None:
                    group[key] = value
        return folder / "bad.h5"

    return make


def database(name: str, **entries: Any) -> Make:
    def make(folder: Path) -> Path:
        with ase.db.connect(folder / name) as db:
            db.write(molecule("H2"), data={"energy": 1.0})
            for _ in range(30):
                db.write(molecule("H2"), **entries)
        return folder / name

    return make


def written(**changes: Any) -> Make:
    """A trajectory whose second frame is changed, since it keeps what an XYZ file cannot."""

    def make(folder: Path) -> Path:
        atoms = bulk("Cu")
        for name, value in changes.items():
            setattr(atoms, name, value)
        ase.io.write(folder / "bad.traj", [bulk("Cu"), atoms])
        return folder / "bad.traj"

    return make


def deepmd(folder: Path) -> Path:
    (folder / "bad" / "set.000").mkdir(parents=True)
    np.save(folder / "bad" / "set.000" / "coord.npy", np.zeros((2, 6)))
    (folder / "bad" / "type.raw").write_text("0 3")
    (folder / "bad" / "type_map.raw").write_text("H O")
    return folder / "bad"


# what is wrong -> the file, how it is read, and what the message says besides its name
IN_A_STRUCTURE: dict[str, tuple[Make, dict, str]] = {
    "fewer atoms than announced": (
        text("3\nProperties=species:S:1:pos:R:3\nH 0 0 0\n"),
        {},
        "1 structures into .*expected 3",
    ),
    "no number of atoms": (
        text("H 0 0 0\n"),
        {},
        "1 structures into .*expected the number of atoms .*'H 0 0 0'",
    ),
    "text after a blank line": (text("\n", GOOD), {}, "1 structures into .*a blank line ends the structures"),
    "an unknown element": (line("Foo 0 0 0"), {}, "1 structures into .*Foo"),
    "a dummy atom": (line("X 0 0 0"), {}, "structure 1: atom 0 is no chemical element"),
    "a position that is NaN": (line("H nan 0 0"), {}, "structure 1: positions of atom 0 must be finite"),
    "a position that is infinite": (line("H 0 0 inf"), {}, "structure 1: positions of atom 0 must be finite"),
    "no atoms": (text("0\nProperties=species:S:1:pos:R:3\n"), {}, "structure 1: it has no atoms"),
    "a label of words": (comment("energy=low"), {}, "structure 1: 'energy' from .* needs numbers, got 'low'"),
    "an infinite label": (
        comment("energy=-inf"),
        {},
        "structure 1: 'energy' from .* holds an infinite number",
    ),
    "a label of the wrong shape": (
        comment('dipole="1 2"'),
        {},
        r"structure 1: 'dipole' from .*shape \(2,\), expected \(3,\)",
    ),
    "a label per atom of the wrong shape": (
        line("H 0 0 0 1 2", "Properties=species:S:1:pos:R:3:forces:R:2"),
        {},
        r"structure 1: 'forces' from .* has shape \(1, 2\), expected \(1, 3\)",
    ),
    "two labels that differ": (
        comment("energy=1 REF_energy=2"),
        {},
        "structure 1: 'energy' stands in .* and they differ",
    ),
    "a stress without a volume": (
        comment('REF_stress="1 1 1 0 0 0"'),
        {},
        "structure 1: 'stress' from .* needs a volume",
    ),
    "a cell without volume": (
        comment('Lattice="1 0 0 0 1 0 1 1 0" pbc="T T T"'),
        {},
        "structure 1: it repeats along .* cell span no",
    ),
    "a cell of zeros": (
        comment('pbc="T F F"'),
        {},
        "structure 1: it repeats along .* cell span no such space",
    ),
    "a cell that is NaN": (written(cell=[np.nan, 3, 3]), {}, "structure 1: the cell must be finite"),
    "a negative weight": (
        comment("weight=-1"),
        {},
        "structure 1: 'weight' from info 'weight' must not be negative",
    ),
    "a weight that is NaN": (
        comment("energy_weight=nan"),
        {},
        "structure 1: 'energy_weight' from .* must not be negative",
    ),
    "a weight of the wrong shape": (
        comment('weight="1 2 3"'),
        {},
        r"structure 1: 'weight' from .* has shape \(3,\)",
    ),
    "a label of a database that is words": (
        database("bad.db", data={"energy": "low"}),
        {},
        "structure 1: 'energy' from data 'energy' needs numbers",
    ),
    "a label of an LMDB of the wrong shape": (
        database("bad.aselmdb", data={"forces": np.ones(2)}),
        {},
        r"structure 1: 'forces' from data 'forces' has shape \(2,\)",
    ),
    "a column of the wrong shape": (
        npz(F=np.ones((4, 2, 3))),
        UNITS,
        r"structure 0: 'forces' from data 'F' has shape \(2, 3\), expected \(3, 3\)",
    ),
    "a column with too few rows": (
        npz(E=np.ones(3)),
        UNITS,
        r"'E' has shape \(3,\), expected a row for each of the 4",
    ),
    "one number for all structures": (
        npz(E=1.0),
        UNITS,
        r"'E' has shape \(\), expected a row for each of the 4",
    ),
    "a column with a position that is NaN": (
        npz(R=np.full((4, 3, 3), np.nan)),
        UNITS,
        "structure 0: positions of atom 0",
    ),
    "atomic numbers that are not whole": (
        npz(z=[1.0, 1.5, 1.0]),
        UNITS,
        "atomic numbers must be whole, got 1.5",
    ),
    "an atomic number beyond the table": (
        npz(z=[1, 119, 1]),
        UNITS,
        r"structure 0: atom 1 is no chemical element \(atomic number 119\)",
    ),
    "a number of atoms that is another's": (
        npz(z=[1, 1]),
        UNITS,
        r"numbers 'z' have shape \(2,\), expected \(3,\) or \(4, 3\)",
    ),
    "no atomic numbers": (npz(z=None), UNITS, "no numbers among E, F, R; say where they stand"),
    "no positions": (npz(R=None), UNITS, "no positions among E, F, z; say where they stand"),
    "positions in a plane": (
        npz(R=np.zeros((4, 3, 2))),
        UNITS,
        r"positions 'R' have shape \(4, 3, 2\), expected",
    ),
    "positions in a row": (npz(R=np.zeros(36)), UNITS, r"'R' have shape \(36,\), expected \(36, 3\)"),
    "objects instead of numbers": (
        npz(E=np.array([{}] * 4, dtype=object)),
        UNITS,
        "'E' holds Python objects",
    ),
    "a group without atomic numbers": (
        hdf5(atomic_numbers=None),
        UNITS,
        "2 structures into .*group 'worse': no numbers among",
    ),
    "a group without positions": (
        hdf5(conformations=None),
        UNITS,
        "2 structures into .*group 'worse': no positions among",
    ),
    "a group with too few rows": (
        hdf5(energies=np.ones(2)),
        UNITS,
        r"group 'worse': 'energies' has shape \(2,\), expected a row for each of the 4",
    ),
    "a group with an unknown element": (
        hdf5(atomic_numbers=[b"O", b"Hx", b"H"]),
        UNITS,
        "Unknown element 'Hx'; did you mean 'H",
    ),
    "a type that the map lacks": (deepmd, {}, "type.raw: type 3, but .*type_map.raw names 2"),
}


@pytest.mark.parametrize("wrong", IN_A_STRUCTURE)
def test_what_is_wrong_with_a_structure(tmp_path, wrong):
    make, units, message = IN_A_STRUCTURE[wrong]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=rf"{path.name}.*{message}"):
        read(path, PROPERTIES, units=units)


IN_A_FILE: dict[str, tuple[Make, str]] = {
    "a truncated archive of NumPy's": (
        cut(npz()),
        "bad.npz cannot be read as 'npz', 0 structures into the file",
    ),
    "an archive cut inside": (short_member, "bad.npz cannot be read as 'npz'.*Bad CRC"),
    "a truncated HDF5 file": (cut(hdf5()), "bad.h5 cannot be read as 'hdf5', 0 structures .*truncated"),
    "a truncated database": (cut(database("bad.db")), "bad.db cannot be read as 'db'"),
    "a truncated trajectory": (cut(written()), "bad.traj cannot be read as 'traj'"),
    "a truncated gzip": (
        content(gzip.compress(GOOD.encode() * 9)[:-12], "bad.xyz.gz"),
        "bad.xyz.gz is of no format .*Compressed file ended",
    ),
    "no archive at all": (content(b"hello", "bad.npz"), "bad.npz cannot be read as 'npz'"),
    "no HDF5 at all": (content(b"hello", "bad.h5"), "bad.h5 cannot be read as 'hdf5'"),
    "a truncated LMDB": (cut(database("bad.aselmdb")), "bad.aselmdb cannot be read as 'aselmdb'.*cut off"),
    "no LMDB at all": (content(b"hello", "bad.aselmdb"), "bad.aselmdb cannot be read as 'aselmdb'"),
    "text that is none": (
        content(b"\xff\xfe\xfa\x00", "bad.extxyz"),
        "bad.extxyz cannot be read as 'extxyz'",
    ),
    "an empty file": (content(b"", "bad.npz"), "bad.npz is empty"),
    "blank lines": (content(b"\n\n", "bad.xyz"), "bad.xyz holds no structure"),
    "a format that is unknown": (
        content(b"hello", "bad.unheard"),
        "bad.unheard is of no format that ASE recognises",
    ),
    "a folder": (lambda folder: folder, "is a folder; give the file"),
}


@pytest.mark.parametrize("wrong", IN_A_FILE)
def test_what_is_wrong_with_a_file(tmp_path, wrong):
    make, message = IN_A_FILE[wrong]
    with pytest.raises(ValueError, match=message):
        read(make(tmp_path), PROPERTIES, units=UNITS)


IN_A_CONFIG: dict[str, tuple[dict, type[Exception], str]] = {
    "an unknown entry": ({"unit": {}}, TypeError, "Unknown entry of a file 'unit'; did you mean 'units'"),
    "an unknown format": ({"format": "extxzy"}, ValueError, "Unknown format 'extxzy'; did you mean 'extxyz'"),
    "a unit that is none": (
        {"units": {"energy": "kcl/mol"}},
        ValueError,
        "Unknown unit 'kcl'; did you mean 'kcal'",
    ),
    "a unit of another dimension": (
        {"units": {"dipole": "eV"}},
        ValueError,
        "structure 1: units: 'dipole': 'eV' is a unit of energy",
    ),
    "a base unit of another dimension": (
        {"units": {"length": "eV"}},
        ValueError,
        "'eV' is a unit of energy, expected one of length",
    ),
    "a unit for what is unknown": (
        {"units": {"enrgy": "eV"}},
        KeyError,
        "Unknown quantity in units 'enrgy'; did you mean 'energy'",
    ),
    "a key for what is unknown": (
        {"keys": {"enrgy": "E"}},
        KeyError,
        "Unknown property in keys 'enrgy'; did you mean 'energy'",
    ),
    "a key that nothing has": (
        {"keys": {"energy": "enrgy"}},
        KeyError,
        "'energy' is to be read from 'enrgy', .* did you mean 'energy'",
    ),
    "a key for positions of ASE's": (
        {"keys": {"positions": "R"}},
        KeyError,
        "a file of format 'extxyz' has no key for its positions",
    ),
    "a sign for what is unknown": (
        {"signs": {"strss": -1}},
        KeyError,
        "Unknown property in signs 'strss'; did you mean 'stress'",
    ),
    "a sign that is none": (
        {"signs": {"stress": 2}},
        ValueError,
        "the sign of 'stress' must be 1 or -1, got 2",
    ),
    "an order that is none": (
        {"voigt": "xx yy zz xy yz"},
        ValueError,
        "voigt must name each of xx yy zz yz xz xy once",
    ),
    "an order by an unknown name": (
        {"voigt": "vsap"},
        ValueError,
        "voigt must name each .* or one of ase, vasp, got 'vsap'",
    ),
    "a negative weight": (
        {"weight": -1.0},
        ValueError,
        "weight must be a number that is not negative, got -1",
    ),
    "a weight that is NaN": (
        {"weight": float("nan")},
        ValueError,
        "weight must be a number that is not negative, got nan",
    ),
    "a negative sampling": (
        {"sampling": -0.5},
        ValueError,
        "sampling must be a number that is not negative, got -0.5",
    ),
    "an index that is none": ({"index": "first"}, ValueError, "index must be a number or a slice"),
    "an index backwards": ({"index": "::-1"}, ValueError, "index must be a number or a slice"),
    "an index of nothing": ({"index": "5:"}, ValueError, "Index '5:' selects none of the 2 structures"),
}


@pytest.mark.parametrize("wrong", IN_A_CONFIG)
def test_what_is_wrong_with_how_a_file_is_read(tmp_path, wrong):
    entries, kind, message = IN_A_CONFIG[wrong]
    path = comment('dipole="1 2 3"')(tmp_path)
    with pytest.raises(kind, match=message) as error:
        read({"path": path, **entries}, PROPERTIES)
    assert "bad.xyz" in str(error.value)


def test_a_file_that_is_not_there_gets_the_nearest(tmp_path):
    path = text()(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file .*bed\.xyz; did you mean '.*bad\.xyz'"):
        read(path.with_name("bed.xyz"), PROPERTIES)
    with pytest.raises(FileNotFoundError, match=r"No file fits .*\*\.aselmdb"):
        read(tmp_path / "*.aselmdb", PROPERTIES)
    with pytest.raises(FileNotFoundError, match=r"no .*type_map\.raw"):
        (tmp_path / "system").mkdir()
        (tmp_path / "system" / "type.raw").write_text("0")
        read(tmp_path / "system", PROPERTIES)


def test_two_files_of_one_name_are_no_dataset_by_chance(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        text()(tmp_path / name)
    paths = [tmp_path / name / "bad.xyz" for name in ("a", "b")]
    with pytest.raises(
        ValueError, match=r"a/bad\.xyz.*b/bad\.xyz all go by the name 'bad'; name the dataset"
    ):
        as_files(paths)
    assert {file.dataset for file in as_files({"bad": paths})} == {"bad"}
    assert [file.dataset for file in as_files([{"path": paths[0], "dataset": "good"}, paths[1]])] == [
        "good",
        "bad",
    ]


@pytest.mark.parametrize("paths", [[], {}, "", {"a": []}])
def test_no_file_is_an_error(paths):
    with pytest.raises(ValueError, match="No file is given"):
        as_files(paths)


def structure(atoms: Atoms, folder: Path):
    ase.io.write(folder / "bad.traj", [bulk("Cu"), atoms])
    return read(folder / "bad.traj", PROPERTIES)[1]


@pytest.mark.parametrize(
    ("atoms", "pair"),
    [
        (Atoms("HOH", [[0, 0, 0], [0, 0, 1.0], [0, 0.05, 0]]), "H 0 and H 2 are 0.05 Å"),
        (Atoms("HO", [[0, 0, 0], [0, 0, 0]]), "H 0 and O 1 are 0 Å"),
        (Atoms("HO", [[0, 0, 0.02], [0, 0, 3.98]], cell=[4, 4, 4], pbc=True), "H 0 and O 1 are 0.04 Å"),
        (Atoms("H", cell=[4, 4, 0.05], pbc=True), "H 0 and H 0 are 0.05 Å"),
    ],
)
def test_atoms_that_lie_upon_each_other(tmp_path, atoms, pair):
    """Two of a structure, one and another's periodic image, one and its own."""
    found = structure(atoms, tmp_path)
    pairs, shifts = Neighbors(1.0)(found.positions, found.cell, found.pbc)
    with pytest.raises(
        ValueError, match=rf"bad\.traj, structure 1: positions: atoms {pair} apart, closer than"
    ):
        check_distances(found, pairs, shifts)
    check_distances(found, pairs, shifts, min_distance=0.0)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    made = {"bad.h5": hdf5(), "bad.aselmdb": database("bad.aselmdb")}
    for (name, make), package in zip(made.items(), ("h5py", "ase_db_backends.aselmdb"), strict=True):
        path = make(tmp_path)
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(ImportError, match=f"{name} needs the package .*pip install"):
            read(path, PROPERTIES, units=UNITS)


def test_nothing_is_read_of_a_reader_that_was_not_used(tmp_path):
    (file,) = as_files(File(text()(tmp_path)))
    with pytest.raises(ValueError, match=r"bad\.xyz has not been read yet"):
        _ = Reader(file, PROPERTIES).report
