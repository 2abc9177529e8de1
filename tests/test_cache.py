"""Packed structures on disk are those of the files, whoever else packs, dies or writes beside them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pesloss.data import File, Files, Packed, Packing, Store
from pesloss.data.reading.files import as_files
from pesloss.data.storage.cache import cache_folder, open_or_write
from pesloss.data.storage.store import MANIFEST, DamagedError
from pesloss.losses.properties import as_properties
from tests import files

ROOT = Path(__file__).parent.parent
PROPERTIES = as_properties(["energy", "forces", "stress"])


@pytest.fixture
def path(tmp_path) -> Path:
    return files.write(tmp_path / "my.xyz", 12)


def packing(*paths: object, **options: object) -> Packing:
    names = ("properties", "cutoff", "min_distance", "group_by")
    own = {name: options.pop(name) for name in names if name in options}
    return Packing(
        tuple(as_files(list(paths), **options)), **{"properties": PROPERTIES, "cutoff": 3.0, **own}
    )


def cached(folder: Path, what: Packing) -> Store:
    return open_or_write(folder, what.key(), what.write_unchanged)


def equal(store: Store, other: Store) -> bool:
    return store.digest == other.digest and all(
        torch.equal(tensor.nan_to_num(7), Packed(other).batch(range(len(other)))[name].nan_to_num(7))
        for name, tensor in Packed(store).batch(range(len(store))).items()
    )


def no_writing(folder: Path) -> Store:
    raise AssertionError(f"{folder} is packed again")


# ---- what is stored ----


def test_what_is_opened_is_what_was_packed(path, tmp_path):
    store, memory = cached(tmp_path / "cache", packing(path)), packing(path).write()
    again = open_or_write(tmp_path / "cache", packing(path).key(), no_writing)
    assert equal(store, memory)
    assert equal(again, memory)
    assert again.report == memory.report
    assert str(again.report) == str(memory.report)
    assert {**again.about, "report": None} == {**memory.about, "report": None}
    assert again.num_bytes == memory.num_bytes > 0
    assert memory.folder is None
    assert again.folder == store.folder == tmp_path / "cache" / packing(path).key()


def test_labels_and_weights_that_turn_up_late_are_missing_before(tmp_path):
    first, late = files.structures(6), files.structures(6, seed=1)
    for atoms in first:
        atoms.calc.results.pop("energy", None)
        atoms.info.pop("weight", None)
    for atoms in late:
        atoms.info["weight"] = 0.5
        atoms.arrays["atom_weight"] = np.full(len(atoms), 3.0)
    late[-1].arrays["atom_weight"] = np.full((len(late[-1]), 3), [1.0, 2.0, 0.0])
    for name, atoms in {"first": first, "late": late}.items():
        files.ase.io.write(tmp_path / f"{name}.xyz", atoms)
    what = packing(tmp_path / "first.xyz", tmp_path / "late.xyz")
    store = cached(tmp_path / "cache", what)
    batch, atoms = Packed(store).batch(range(12)), int(store.atom_ptr[6])
    assert batch["energy"][:6].isnan().all()
    assert not batch["energy"][6:].isnan().all()
    assert batch["weight"].tolist() == [1.0] * 6 + [0.5] * 6
    assert (batch["atom_weight"][:atoms] == 1).all()
    assert (batch["atom_weight"][atoms : store.atom_ptr[11]] == 3).all()
    assert (batch["atom_weight"][store.atom_ptr[11] :] == torch.tensor([1.0, 2.0, 0.0])).all()
    assert equal(store, what.write())


def test_a_store_without_edges_or_labels_is_a_store(tmp_path):
    files.ase.io.write(tmp_path / "atom.xyz", files.Atoms("Cu"))
    store = cached(tmp_path / "cache", packing(tmp_path / "atom.xyz"))
    batch = Packed(store).batch([0, 0])
    assert batch["edge_index"].shape == (2, 0)
    assert batch["numbers"].tolist() == [29, 29]
    assert not set(batch) & set(PROPERTIES)


def test_a_property_of_any_name_is_stored(path, tmp_path):
    odd = replace(PROPERTIES["energy"], name="mtt::a/b c")
    what = packing(path, properties={odd.name: odd}, keys={odd.name: "energy"})
    assert Packed(cached(tmp_path / "cache", what)).labelled == (odd.name,)


@pytest.mark.parametrize("what", ["store", "part"])
def test_another_process_maps_the_files_too(path, tmp_path, what):
    store = cached(tmp_path / "cache", packing(path))
    given = store if what == "store" else Packed(store, np.arange(12), reference=np.ones(12))
    content = pickle.dumps(given)
    assert len(content) < 2000
    received = pickle.loads(content)
    assert equal(getattr(received, "store", received), store)
    if what == "part":
        ours, theirs = given.batch([3, 2])["energy"], received.batch([3, 2])["energy"]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    memory = packing(path).write()
    assert equal(pickle.loads(pickle.dumps(memory)), memory)


# ---- when it is packed again ----


@pytest.mark.parametrize(
    "options",
    [
        {"keys": {"energy": "total"}},
        {"units": {"energy": "kcal/mol"}},
        {"signs": {"forces": -1}},
        {"voigt": "vasp"},
        {"index": ":5"},
        {"cutoff": 3.5},
        {"min_distance": 0.2},
        {"group_by": {"my": "name"}},
        {"properties": as_properties(["energy"])},
        {"properties": {**PROPERTIES, "energy": replace(PROPERTIES["energy"], unit="kcal/mol")}},
    ],
    ids=str,
)
def test_an_option_that_changes_what_is_packed_changes_the_key(path, options):
    assert packing(path, **options).key() != packing(path).key()


def test_every_entry_of_a_file_but_its_sampling_is_in_the_key(path):
    plain = packing(path).key()
    assert packing(File(path, sampling=3.0)).key() == plain
    for entry in ({"weight": 2.0}, {"dataset": "other"}, {"format": "extxyz"}):
        assert packing(File(path, **entry)).key() != plain


def test_a_changed_file_is_packed_again(path, tmp_path):
    before = packing(path).key()
    files.write(path, 12, seed=1)
    assert packing(path).key() != before
    after = packing(path).key()
    os.utime(path, ns=(0, 0))
    assert packing(path).key() != after
    folder = tmp_path / "folder"
    folder.mkdir()
    empty = Packing((File(folder),), PROPERTIES, 3.0).key()
    (folder / "set.000").mkdir()
    (folder / "set.000" / "energy.npy").write_bytes(b"1")
    assert Packing((File(folder),), PROPERTIES, 3.0).key() != empty


def test_other_code_packs_again(path, monkeypatch):
    before = packing(path).key()
    monkeypatch.setattr("pesloss.data.storage.packing._code", lambda: "another version")
    assert packing(path).key() != before


def test_a_file_that_changes_while_it_is_read_is_not_kept(path, tmp_path, monkeypatch):
    def write(self: Packing, folder: Path | None = None) -> Store:
        store = original(self, folder)
        files.write(path, 13)
        return store

    original = Packing.write
    monkeypatch.setattr(Packing, "write", write)
    with pytest.raises(ValueError, match=r"my.xyz: changed while they were read; start again"):
        cached(tmp_path / "cache", packing(path))
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]


# ---- damage ----


def damaged(folder: Path, damage: str) -> None:
    if damage == "truncated":
        os.truncate(folder / "positions-3.bin", 17)
    elif damage == "missing":
        (folder / "neighbor.bin").unlink()
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    elif damage == "half a manifest":
        os.truncate(folder / MANIFEST, 40)
    else:
        (folder / MANIFEST).write_text(json.dumps({"something": "else"}))


@pytest.mark.parametrize("damage", ["truncated", "missing", "no manifest", "half a manifest", "foreign"])
def test_what_is_damaged_is_found_and_packed_again(path, tmp_path, damage):
    store = cached(tmp_path / "cache", packing(path))
    damaged(store.folder, damage)
    with pytest.raises(DamagedError, match="holds no packed structures"):
        Store.open(store.folder)
    assert equal(cached(tmp_path / "cache", packing(path)), packing(path).write())


def test_an_error_leaves_nothing_behind(tmp_path):
    (tmp_path / "bad.xyz").write_text("2\n\nCu 0 0 0\nCu 0 0 0.01\n")
    with pytest.raises(ValueError, match=r"bad.xyz, structure 0.*closer than min_distance"):
        cached(tmp_path / "cache", packing(tmp_path / "bad.xyz"))
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]


# ---- other processes ----

PACK = """
import sys, time
from pathlib import Path
from pesloss.data import Packing
from pesloss.data.storage.cache import open_or_write
from pesloss.data.reading.files import as_files
from pesloss.data.storage.store import Writer
from pesloss.losses.properties import as_properties

append = Writer.append
def slowly(*arguments):
    time.sleep(float(sys.argv[3]))
    append(*arguments)
    print("appended", flush=True)
Writer.append = slowly
packing = Packing(tuple(as_files(sys.argv[1])), as_properties(["energy", "forces", "stress"]), 3.0)
store = open_or_write(Path(sys.argv[2]), packing.key(), packing.write_unchanged)
print(store.digest, flush=True)
"""


def process(path: Path, cache: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PACK, str(path), str(cache), str(seconds)]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_pack_once_and_both_are_right(path, tmp_path):
    said = [
        p.communicate(timeout=120)[0].split("\n") for p in [process(path, tmp_path / "c", 0.05) for _ in "ab"]
    ]
    appended = sorted(lines.count("appended") for lines in said)
    assert appended == [0, 12]
    assert {lines[-2] for lines in said} == {packing(path).write().digest}


@pytest.mark.parametrize("after", [1, 6, 12])
def test_a_process_killed_while_it_packs_leaves_nothing_that_hurts(path, tmp_path, after):
    with process(path, tmp_path / "cache", 0.02) as killed:
        for _ in range(after):
            killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    assert list((tmp_path / "cache").glob("*.part")) or after == 12
    assert equal(cached(tmp_path / "cache", packing(path)), packing(path).write())
    assert not list((tmp_path / "cache").glob("*.part"))


def test_what_others_left_is_removed_but_not_what_they_write(path, tmp_path):
    other = files.write(tmp_path / "other.xyz", 3)
    cache = tmp_path / "cache"
    (cache / "dead.part").mkdir(parents=True)
    with process(other, cache, 1.0) as alive:
        while not list(cache.glob("*[!d].part")):
            time.sleep(0.01)
        cached(cache, packing(path))
        assert not (cache / "dead.part").exists()
        assert alive.communicate(timeout=120)[0].split("\n")[-2] == packing(other).write().digest
    assert alive.returncode == 0


WRITE = """
import sys
from pathlib import Path
import numpy as np
from pesloss.data import Neighbors, Report, Structure
from pesloss.data.storage.store import Writer
from pesloss.losses.properties import as_properties

random, bare = np.random.default_rng(0), np.zeros(100, bool)
for num in (300, 3000):
    folder = Path(sys.argv[1]) / str(num)
    folder.mkdir()
    writer = Writer(as_properties(["forces"]), Neighbors(3.0), folder, min_distance=0.0)
    for row in range(num):
        geometry = random.uniform(0, 12, (100, 3)), np.zeros((3, 3)), bare[:3]
        labels = {"forces": random.normal(size=(100, 3))}
        writer.append(Structure(1 + bare, *geometry, labels, {}, bare, row=row))
    writer.finish(Report(()))
"""

READ = """
import sys
from pathlib import Path
import torch
from pesloss.data import Packed, Store, batches
part = Packed(Store.open(Path(sys.argv[1])), dtype=torch.float32)
for indices in batches(part, 50, shuffle=True):
    part.batch(indices)
for chunk in part.chunks():
    chunk["forces"].sum()
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))
"""


def ran(script: str, argument: Path) -> str:
    command = [sys.executable, "-c", script, str(argument)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts pages as Linux tells them")
def test_memory_does_not_grow_with_the_number_of_structures(tmp_path):
    ran(WRITE, tmp_path)
    sizes = [Store.open(tmp_path / name).num_bytes for name in ("300", "3000")]
    assert sizes[1] - sizes[0] > 25_000_000
    kibibytes = [int(ran(READ, tmp_path / name)) for name in ("300", "3000")]
    assert abs(kibibytes[1] - kibibytes[0]) < 5000


# ---- where it is ----


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("PESLOSS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PESLOSS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "pesloss"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "pesloss"


def test_a_config_says_where_the_cache_is(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PESLOSS_CACHE", str(tmp_path / "auto"))
    for cache, folder in (("auto", tmp_path / "auto"), (tmp_path / "here", tmp_path / "here")):
        data = Files(path, cache=cache).load(PROPERTIES, 3.0, torch.float64)
        assert data.store.folder.parent == folder
        assert data.storage == f"0.0 MB in {data.store.folder}"
    data = Files(path, cache=None).load(PROPERTIES, 3.0, torch.float64)
    assert data.store.folder is None
    assert data.storage == "0.0 MB in memory"


def test_a_cache_that_cannot_be_written_is_done_without(path, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    data = Files(path, cache=tmp_path / "file").load(PROPERTIES, 3.0, torch.float64)
    assert data.store.folder is None
    assert data.storage.startswith(
        f"0.0 MB in memory, because the cache {tmp_path / 'file'} cannot be written"
    )
    with pytest.raises(FileNotFoundError, match=r"There is no file .*yours.xyz"):
        Files(tmp_path / "yours.xyz").load(PROPERTIES, 3.0, torch.float64)
