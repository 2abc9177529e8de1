"""A packed set gives the same batches that structures put together by hand would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from pesloss.data import Packed, References, Structures, pack, read
from pesloss.losses.batch import group_code
from pesloss.losses.properties import PROPERTIES, as_properties
from tests.structures import to_batch

SHARED = Path(__file__).parents[2] / "shared" / "data"
ALL = dict(PROPERTIES)
CUTOFF = 4.0
LABELS = ["energy", "forces", "stress"]


def frames() -> list[Atoms]:
    """Ragged, with gaps: a molecule, a lone atom, a small crystal and a slab, not all of them labelled."""
    rng = np.random.default_rng(0)
    slab = bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)
    slab.pbc = [True, True, False]
    atoms = [molecule("CH3CH2OH"), Atoms("Cu"), bulk("Cu"), slab]
    for frame in atoms[::2]:
        frame.rattle(0.1, rng=rng)
        results = {"energy": rng.normal(), "forces": rng.normal(size=(len(frame), 3))}
        frame.calc = SinglePointCalculator(frame, **results)
    atoms[2].calc.results["stress"] = rng.normal(size=6)
    atoms[0].info |= {"config_type": "wet", "config_weight": 2.0, "forces_weight": 0.5}
    atoms[3].arrays["atom_weight"] = rng.uniform(size=(4, 3))
    atoms[0].arrays["atom_weight"] = rng.uniform(size=9)
    atoms[3].arrays["move_mask"] = np.array([False, True, False, True])
    return atoms


@pytest.fixture
def path(tmp_path) -> Path:
    write(tmp_path / "mixed.xyz", frames())
    return tmp_path / "mixed.xyz"


@pytest.fixture
def structures(path) -> Structures:
    return read(path, ALL)


@pytest.fixture
def packed(structures) -> Packed:
    return pack(structures, ALL, CUTOFF)


def edges(batch) -> set[tuple[int, ...]]:
    return set(map(tuple, torch.cat([batch["edge_index"].T, batch["edge_shift"].long()], dim=1).tolist()))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2], [3, 0], [1, 1, 2], []])
def test_a_batch_is_what_ase_makes_of_its_structures(packed, path, rows):
    atoms = ase.io.read(path, ":")
    batch, expected = packed.batch(rows), to_batch([atoms[row] for row in rows], CUTOFF)
    for name, tensor in expected.items():
        assert batch[name].dtype == tensor.dtype
        assert batch[name].shape == tensor.shape
        if not name.startswith("edge"):
            torch.testing.assert_close(batch[name], tensor, rtol=0, atol=1e-12)
    assert edges(batch) == edges(expected)


def test_labels_weights_and_names_stand_in_their_rows(packed, structures):
    rows = [2, 3, 0]
    batch, chosen = packed.batch(rows), [structures[row] for row in rows]
    assert batch["index"].tolist() == rows
    assert batch["energy"].isnan().tolist() == [False, True, False]
    assert batch["stress"].isnan().flatten(1).all(1).tolist() == [False, True, True]
    np.testing.assert_array_equal(batch["forces"][:1], chosen[0].labels["forces"])
    assert batch["forces"][1:5].isnan().all()
    np.testing.assert_array_equal(batch["forces"][5:], chosen[2].labels["forces"])
    assert batch["weight"].tolist() == [1.0, 1.0, 2.0]
    assert batch["forces_weight"].tolist() == [1.0] * 5 + [0.5] * 9
    assert batch["fixed"].tolist() == [False, True, False, True, False] + [False] * 9
    assert batch["config_type"].tolist() == [group_code("default")] * 2 + [group_code("wet")]
    assert batch["dataset"].tolist() == [group_code("mixed")] * 3


def test_one_weight_an_atom_and_one_a_direction_live_together(packed, structures):
    weights = packed.batch([0, 2, 3])["atom_weight"]
    np.testing.assert_array_equal(
        weights[:9], structures[0].weights["atom_weight"][:, None].repeat(3, axis=1)
    )
    assert (weights[9] == 1).all()
    np.testing.assert_array_equal(weights[10:], structures[3].weights["atom_weight"])


def test_what_nobody_labels_or_weights_is_absent(packed, structures):
    names = set(packed.batch([0]))
    assert not names & {"dipole", "charges", "polarizability", "energy_weight"}
    lone = pack(structures[1:2], ALL, CUTOFF).batch([0])
    assert not set(lone) & {*ALL, "weight", "atom_weight"}


def test_only_the_properties_asked_for_are_kept(structures):
    batch = pack(structures, as_properties(["energy"]), CUTOFF).batch([0, 1])
    assert not set(batch) & {"forces", "stress", "virial", "forces_weight"}


def test_an_empty_set_and_an_empty_choice_are_batches_too(packed):
    nothing = pack([], ALL, CUTOFF)
    assert len(nothing) == 0
    for batch in (nothing.batch([]), packed.batch(torch.empty(0, dtype=torch.int64))):
        assert batch["ptr"].tolist() == [0]
        assert batch["positions"].shape == (0, 3)
        assert batch["cell"].shape == (0, 3, 3)
        assert batch["edge_index"].shape == (2, 0)
        assert batch["edge_shift"].shape == (0, 3)
    assert packed.batch([])["forces"].shape == (0, 3)
    assert packed.batch([])["stress"].shape == (0, 3, 3)


@pytest.mark.parametrize("indices", [[4], [-1], [0, 7]])
def test_an_index_outside_is_refused(packed, indices):
    with pytest.raises(IndexError, match=f"Structure {indices[-1]} asked for, but the set has 4"):
        packed.batch(indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_floating_tensor_has_the_dtype(structures, dtype):
    batch = pack(structures, ALL, CUTOFF, dtype=dtype).batch([0, 3])
    floating = {name for name, tensor in batch.items() if tensor.is_floating_point()}
    assert {
        "positions",
        "cell",
        "edge_shift",
        "energy",
        "forces",
        "stress",
        "weight",
        "atom_weight",
    } <= floating
    assert {batch[name].dtype for name in floating} == {dtype}


def test_energies_lose_their_reference_before_the_cast(tmp_path):
    """One float32 step at −100 keV is 8 meV: nothing of a label would be left of it."""
    atoms = [Atoms("Ba"), Atoms("Ba2", [[0, 0, 0], [0, 0, 3]])]
    for frame, small in zip(atoms, (0.001, -0.002), strict=True):
        frame.calc = SinglePointCalculator(frame, energy=-100941.53 * len(frame) + small)
    write(tmp_path / "ba.traj", atoms)
    structures = read(tmp_path / "ba.traj", as_properties(["energy"]))
    references = References({"Ba": -100941.53}).to(torch.float32)
    packed = pack(structures, as_properties(["energy"]), CUTOFF, references=references, dtype=torch.float32)
    torch.testing.assert_close(
        packed.batch([0, 1])["energy"], torch.tensor([0.001, -0.002]), rtol=1e-4, atol=0
    )
    assert structures[0].labels["energy"] == -100941.53 + 0.001


def test_references_and_energies_add_up(structures):
    references = References({"H": 1.0, "C": 10.0, "O": 100.0, "Cu": 1000.0, "Na": 1e4, "Cl": 1e5})
    with_, without = (pack(structures, ALL, CUTOFF, references=r).batch([0, 2]) for r in (references, None))
    shift = references(without["numbers"], without["batch"], 2)
    torch.testing.assert_close(with_["energy"] + shift, without["energy"])


def test_an_element_without_reference_is_named(structures):
    with pytest.raises(ValueError, match="No reference energy for O, Na, Cl, Cu"):
        pack(structures, ALL, CUTOFF, references=References({"H": 1.0, "C": 2.0}))


def test_a_part_of_a_set_gives_the_batches_of_its_structures(packed):
    part = Packed(packed.store, np.array([3, 0]))
    assert len(part) == 2
    assert part.num_atoms.tolist() == [4, 9]
    assert part.num_edges.tolist() == [packed.num_edges[3], packed.num_edges[0]]
    for name, tensor in part.batch([1, 0]).items():
        torch.testing.assert_close(tensor, packed.batch([0, 3])[name], rtol=0, atol=0, equal_nan=True)


def test_what_nobody_labels_in_a_part_is_absent_there(packed):
    assert packed.labelled == ("energy", "forces", "stress", "virial")
    part = Packed(packed.store, np.array([1, 3]))
    assert part.labelled == ()
    assert not set(part.batch([0])) & set(ALL)
    assert Packed(packed.store, np.array([0, 3])).labelled == ("energy", "forces")


def test_chunks_hold_the_labels_of_all_structures(structures, monkeypatch):
    monkeypatch.setattr("pesloss.data.storage.packed.CHUNK", 3)
    packed = pack(structures, ALL, CUTOFF)
    chunks, whole = list(packed.chunks()), packed.batch(range(4))
    assert [len(chunk["ptr"]) - 1 for chunk in chunks] == [3, 1]
    assert set(chunks[0]) == {name for name in whole if not name.startswith("edge")}
    for name in set(chunks[0]) - {"ptr", "batch"}:
        joined = torch.cat([chunk[name] for chunk in chunks])
        torch.testing.assert_close(joined, whole[name], rtol=0, atol=0, equal_nan=True)
    only = next(packed.chunks(("numbers", "energy")))
    assert set(only) == {"ptr", "batch", "index", "numbers", "energy"}
    assert not list(pack([], ALL, CUTOFF).chunks())


def test_a_structure_knows_where_it_comes_from(packed, path):
    assert packed.source(2) == f"{path}, structure 2"
    assert Packed(packed.store, np.array([3])).source(0) == f"{path}, structure 3"


def test_atoms_upon_each_other_are_refused(structures):
    close = [structures[0], replace(structures[3], positions=structures[3].positions * 0.001)]
    with pytest.raises(
        ValueError, match=r"mixed.xyz, structure 3: positions: atoms .* closer than min_distance"
    ):
        pack(close, ALL, CUTOFF)
    assert len(pack(close, ALL, CUTOFF, min_distance=0.0)) == 2


def test_atoms_may_lie_cells_apart_but_not_any_number_of_them(structures):
    slab = structures[3]
    far = slab.positions + slab.cell[0] * np.array([0, 0, 120, 0])[:, None]
    near, moved = (pack([s], ALL, CUTOFF).batch([0]) for s in (slab, replace(slab, positions=far)))
    assert near["edge_index"].shape == moved["edge_index"].shape
    assert moved["edge_shift"].abs().max() >= 119
    with pytest.raises(ValueError, match=r"structure 3: positions: neighbours lie .* cells apart.* wrap"):
        pack([replace(slab, positions=far + 10 * (far - slab.positions))], ALL, CUTOFF)


def test_what_cannot_be_packed(structures):
    with pytest.raises(TypeError, match=r"dtype must be a floating one .*torch.float32.*, got torch.int64"):
        pack(structures, ALL, CUTOFF, dtype=torch.int64)
    with pytest.raises(ValueError, match="A property cannot be called ptr"):
        pack(structures, {"ptr": PROPERTIES["energy"]}, CUTOFF)
    with pytest.raises(TypeError, match=r"torch\.bfloat16"):
        pack(structures, ALL, CUTOFF, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="cutoff must be a positive length"):
        pack(structures, ALL, -1.0)


@pytest.mark.parametrize("name", ["mlearn/Si_test.xyz.gz", "acac/train_300K.xyz"])
def test_batches_of_real_data(name):
    if not (SHARED / name).exists():
        pytest.skip(f"reference data {name} are not here")
    properties = as_properties(LABELS)
    structures = read(SHARED / name, properties, index=":20")
    batch = pack(structures, properties, CUTOFF).batch(range(20))
    centres, neighbours = batch["edge_index"]
    shift = torch.einsum("ei,eij->ej", batch["edge_shift"], batch["cell"][batch["batch"][centres]])
    vectors = batch["positions"][neighbours] - batch["positions"][centres] + shift
    assert (vectors.norm(dim=1) <= CUTOFF).all()
    assert torch.equal(batch["batch"][centres], batch["batch"][neighbours])
    assert batch["forces"].sum(0).abs().max() < 1e-2
