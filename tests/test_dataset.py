"""What a config names as its data: read, split, referenced, packed, and every structure in one part alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from pesloss.data import Bundled, Files, LoadedData, Packed, References
from pesloss.losses.properties import as_properties

PROPERTIES = as_properties(["energy", "forces"])
E0 = {"H": -13.0, "O": -2000.0, "C": -1000.0}


def frames(seed: int, num: int = 20) -> list:
    """Water and methane of several parents, whose energy is that of their atoms and a little more."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(num):
        atoms = molecule(["H2O", "CH4"][row % 2])
        atoms.rattle(0.1, rng=rng)
        energy = sum(E0[symbol] for symbol in atoms.symbols) + 0.01 * rng.normal()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=rng.normal(size=(len(atoms), 3)))
        atoms.info |= {"name": f"{seed}-{row // 4}", "config_type": f"type {row % 2}"}
        made.append(atoms)
    return made


def isolated() -> list:
    atoms = [molecule(symbol) for symbol in E0]
    for atom in atoms:
        atom.calc = SinglePointCalculator(atom, energy=E0[str(atom.symbols[0])])
    return atoms


@pytest.fixture
def paths(tmp_path) -> dict[str, Path]:
    made = {"a": frames(0), "b": frames(1), "c": frames(2), "atoms": isolated()}
    for name, atoms in made.items():
        write(tmp_path / f"{name}.xyz", atoms)
    return {name: tmp_path / f"{name}.xyz" for name in made}


def load(data: Files | Bundled, properties=PROPERTIES) -> LoadedData:
    return data.load(properties, 3.0, torch.float64)


def rows(data: LoadedData) -> dict[str, list[int]]:
    parts = {"train": data.train, "val": data.val, "test": data.test}
    return {part: packed.rows.tolist() for part, packed in parts.items() if packed is not None}


def energies(part: Packed) -> torch.Tensor:
    return torch.cat([chunk["energy"] for chunk in part.chunks()])


def every_row_once(data: LoadedData) -> bool:
    return sorted(row for part in rows(data).values() for row in part) == list(range(len(data.store)))


def test_parts_are_split_off_at_random_and_reproducibly(paths):
    data = load(Files(paths["a"], val_fraction=0.2))
    assert {part: len(chosen) for part, chosen in rows(data).items()} == {"train": 14, "val": 4, "test": 2}
    assert every_row_once(data)
    assert rows(load(Files(paths["a"], val_fraction=0.2))) == rows(data)
    assert rows(load(Files(paths["a"], val_fraction=0.2, seed=1))) != rows(data)


def test_files_are_the_split_where_they_are_given(paths):
    data = load(Files(paths["a"], paths["b"], paths["c"]))
    assert rows(data) == {"train": list(range(20)), "val": list(range(20, 40)), "test": list(range(40, 60))}
    data = load(Files([paths["a"], paths["b"]], test=paths["c"], val_fraction=0.25))
    assert {part: len(chosen) for part, chosen in rows(data).items()} == {"train": 30, "val": 10, "test": 20}
    assert min(rows(data)["test"]) == 40
    assert every_row_once(data)


def test_a_part_of_no_size_is_none(paths):
    data = load(Files(paths["a"], val_fraction=0, test_fraction=0))
    assert data.val is None
    assert data.test is None
    assert len(data.train) == 20


def test_frames_of_one_parent_stay_in_one_part(paths):
    data = load(Files([paths["a"], paths["b"]], val_fraction=0.2, test_fraction=0.2, group_by="name"))
    parents = [{row // 4 for row in chosen} for chosen in rows(data).values()]
    assert sum(map(len, parents)) == len(set().union(*parents)) == 10
    with pytest.raises(KeyError, match="Unknown info key 'nam'; did you mean 'name'"):
        load(Files(paths["a"], group_by="nam"))


def test_energies_lose_references_of_the_training_set(paths):
    data = load(Files(paths["a"], val_fraction=0.5, test_fraction=0))
    for packed in (data.train, data.val):
        assert energies(packed).abs().max() < 0.1
    assert data.references.as_dict().keys() == E0.keys()
    assert "fit to 10 structures; rank 2 of 3" in data.references.note
    other = load(Files(paths["a"], paths["b"], test_fraction=0)).references
    assert other.as_dict() == load(Files(paths["a"], paths["c"], test_fraction=0)).references.as_dict()


def test_isolated_atoms_may_have_a_file_or_be_in_the_set(paths):
    own = load(Files(paths["a"], references="isolated_atoms", isolated_atoms=paths["atoms"]))
    assert own.references.as_dict() == E0
    inside = load(
        Files([paths["a"], paths["atoms"]], val_fraction=0, references="isolated_atoms", test_fraction=0)
    )
    assert inside.references.as_dict() == E0
    with pytest.raises(ValueError, match="No isolated atom with an energy for H, C, O"):
        load(Files(paths["a"], references="isolated_atoms"))


def test_references_are_given_or_none(paths):
    assert load(Files(paths["a"], references=E0)).references.as_dict() == E0
    raw = load(Files(paths["a"], references="none"))
    assert (energies(raw.train) < -1000).all()
    assert load(Files(paths["a"]), as_properties(["forces"])).references.note.startswith("none")


def test_a_set_without_energies_still_loads_and_says_so(paths, tmp_path):
    bare = frames(0)
    for atoms in bare:
        atoms.info["REF_enregy"] = atoms.calc.results.pop("energy")
    write(tmp_path / "bare.xyz", bare)
    data = load(Files(tmp_path / "bare.xyz"))
    assert data.references.note == "none, because no training structure has an energy to fit to"
    assert "unused: info 'REF_enregy'" in str(data.report)


def test_names_and_sources_are_known(paths):
    data = load(Files({"wet": paths["a"], "dry": [paths["b"]]}, test=paths["c"]))
    assert data.datasets == ("c", "dry", "wet")
    assert data.config_types == ("type 0", "type 1")
    assert data.source(25) == f"{paths['b']}, structure 5"
    assert [file.dataset for file in data.report.files] == ["wet", "dry", "c"]


def test_keys_are_sought_in_all_files_together(paths, tmp_path):
    renamed = frames(3)
    for atoms in renamed:
        atoms.info["E"] = atoms.calc.results.pop("energy")
        del atoms.calc.results["forces"]
    write(tmp_path / "renamed.xyz", renamed)
    data = load(Files(paths["a"], tmp_path / "renamed.xyz", test_fraction=0, keys={"energy": "energy"}))
    assert data.train.labelled == ("energy", "forces")
    assert data.val.labelled == ()
    with pytest.raises(KeyError, match=r"'energy' is to be read from 'F'"):
        load(Files(paths["a"], keys={"energy": "F"}))


def test_given_references_need_no_training_structures(paths):
    given = References({symbol: energy / 2 for symbol, energy in E0.items()})
    data = Files(None, test=paths["a"]).load(PROPERTIES, 3.0, torch.float32, given)
    assert rows(data) == {"train": [], "test": list(range(20))}
    assert data.references is given
    assert (energies(data.test) < -500).all()
    trained = Files(paths["a"]).load(PROPERTIES, 3.0, torch.float64, given)
    assert trained.references is given
    with pytest.raises(ValueError, match="references = 'fit' needs training structures, and train is null"):
        load(Files(None, test=paths["a"]))
    assert load(Files(None, test=paths["a"], references="none", group_by={"b": "name"})).test is not None
    with pytest.raises(ValueError, match="No reference energy for C; there is one for H, O"):
        Files(None, test=paths["a"]).load(PROPERTIES, 3.0, torch.float64, References({"H": 1.0, "O": 1.0}))


def test_sampling_is_for_training(paths):
    files = [{"path": str(paths["a"]), "sampling": 2.5}, {"path": str(paths["b"])}]
    data = load(Files(files, paths["c"], test_fraction=0.25))
    from_a = data.train.rows < 20
    assert data.train.sampling.tolist() == np.where(from_a, 2.5, 1.0).tolist()
    assert (data.val.sampling == 1).all()
    assert (data.test.sampling == 1).all()


def test_one_file_may_be_cut_into_parts_that_do_not_overlap(paths):
    def part(index: str) -> dict[str, str]:
        return {"path": str(paths["a"]), "index": index}

    data = load(Files(part(":12"), part("12:16"), part("16:")))
    assert rows(data) == {"train": list(range(12)), "val": list(range(12, 16)), "test": list(range(16, 20))}
    assert data.source(13) == f"{paths['a']}, structure 13"
    with pytest.raises(ValueError, match=r"a.xyz, structure 11 is given 2 times; a structure may train"):
        load(Files(part(":12"), part("11:")))


def test_two_loads_of_the_same_have_one_fingerprint(paths, tmp_path):
    first = load(Files(paths["a"])).fingerprint
    shutil.copy(paths["a"], tmp_path / "copy.xyz")
    assert load(Files({"a": tmp_path / "copy.xyz"}, cache=None)).fingerprint == first
    others = [
        load(Files(paths["b"])),
        load(Files(paths["a"], seed=1)),
        load(Files(paths["a"], references="none")),
        load(Files({"path": str(paths["a"]), "sampling": 2.0})),
        load(Files({"path": str(paths["a"]), "weight": 2.0})),
        load(Files(paths["a"]), as_properties(["energy"])),
        Files(paths["a"]).load(PROPERTIES, 1.2, torch.float64),
        Files(paths["a"]).load(PROPERTIES, 3.0, torch.float32),
    ]
    assert len({first, *(data.fingerprint for data in others)}) == 9


def test_a_part_that_would_be_empty_is_named(paths):
    with pytest.raises(ValueError, match=r"'val' gets no structure: 5 groups are too few for"):
        load(Files(paths["a"], group_by="name", val_fraction=0.01))
    with pytest.raises(ValueError, match=r"of 2 structures leave 0 for train"):
        load(Files({"path": str(paths["a"]), "index": ":2"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, "leave something to train on, got 1.0 and 0.1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave something to train on"),
        ({"test_fraction": -0.1}, "must be at least 0"),
        ({"test": "a.xyz"}, r"a.xyz is given 2 times; a structure may train, validate or test, once"),
        ({"isolated_atoms": "b.xyz"}, r"isolated_atoms = b.xyz is not used with references = 'fit'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Files("a.xyz", **options)


@pytest.mark.parametrize(
    "files", [{"train": []}, {"train": "a.xyz", "val": {}}, {"train": {"a": []}}], ids=str
)
def test_a_part_has_files(files):
    with pytest.raises(ValueError, match="No file is given"):
        Files(**files)


def test_parts_of_the_bundled_data():
    with pytest.raises(
        ValueError, match="Unknown part of the bundled data 'crystal'; did you mean 'crystals'"
    ):
        Bundled(["crystal"])
    with pytest.raises(ValueError, match="No file is given"):
        Bundled([])


@pytest.mark.parametrize("references", ["fit", "isolated_atoms", "none"])
def test_the_bundled_data_load(references):
    data = load(Bundled(references=references), as_properties(["energy", "forces", "stress", "dipole"]))
    assert every_row_once(data)
    assert data.datasets == ("crystals", "molecules")
    assert len(data.train) > len(data.val) > 0
    assert {"energy", "forces", "stress", "dipole"} <= set(data.train.batch([0]))


def test_groups_stay_together_by_dataset(paths):
    files = {"a": paths["a"], "b": paths["b"]}
    data = load(Files(files, val_fraction=0.3, test_fraction=0.3, group_by={"a": "name"}))
    parents = [{row // 4 for row in chosen if row < 20} for chosen in rows(data).values()]
    others = [{row // 4 for row in chosen if row >= 20} for chosen in rows(data).values()]
    assert sum(map(len, parents)) == 5 < sum(map(len, others))
    with pytest.raises(KeyError, match="Unknown dataset 'aa'; did you mean 'a'"):
        load(Files({"a": paths["a"]}, group_by={"aa": "name"}))


def test_no_molecule_of_the_bundled_data_is_in_two_parts():
    data = load(Bundled(), as_properties(["energy"]))
    parts = [set(part.rows.tolist()) for part in (data.train, data.val, data.test)]
    molecules = [
        {row // 4 for row in part if row < 600} for part in parts
    ]  # four frames each, one after another
    crystals = [{row for row in part if row >= 600} for part in parts]
    assert not (molecules[0] & molecules[1] or molecules[0] & molecules[2] or molecules[1] & molecules[2])
    assert all(crystals)
