"""A checkpoint becomes the potential that was trained, and nothing in it is executed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import pesloss
from pesloss.building import BuildError
from pesloss.checkpoint import CheckpointError
from pesloss.models.trained import Trained
from tests import trained as tiny
from tests.structures import to_batch


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("run"), steps=5)


def changed(path: Path, folder: Path, **entries) -> Path:
    content = torch.load(path, weights_only=True)
    torch.save({**content, **entries}, folder / "changed.ckpt")
    return folder / "changed.ckpt"


def test_energies_are_those_of_the_potential_and_the_references(path):
    model = pesloss.load(path)
    atoms = [tiny.crystal(), tiny.cluster()]
    batch = to_batch(atoms, tiny.CUTOFF)
    expected = model.potential(batch, ["energy", "forces", "stress"])
    found = model.predict(atoms)
    for i, one in enumerate(atoms):
        total = float(expected["energy"][i]) + len(one) * tiny.REFERENCES["Cu"]
        assert found[i]["energy"] == pytest.approx(total, abs=1e-10)
        np.testing.assert_allclose(found[i]["stress"], expected["stress"][i].numpy(), atol=1e-12)
        np.testing.assert_allclose(
            found[i]["forces"], expected["forces"][batch["batch"] == i].numpy(), atol=1e-12
        )


def test_a_structure_alone_is_as_in_a_batch(path):
    model = pesloss.load(path)
    names = ["energy", "forces", "charges", "dipole", "virial"]
    alone = model.predict(tiny.cluster(), names)
    together = model.predict([tiny.crystal(), tiny.cluster()], names)[1]
    assert set(alone) == set(names) and alone["charges"].shape == (5,)
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, atol=1e-10)


def test_a_run_folder_is_its_best_checkpoint(path):
    model = pesloss.load(path.parent)
    assert model.elements == ("Cu",) and model.cutoff == tiny.CUTOFF and model.dtype == torch.float64
    assert list(model.properties) == ["energy", "forces", "stress"] and "model" in model.config


def test_another_precision_leaves_the_model_as_it_was(path):
    model = pesloss.load(path)
    single = model.to(torch.float32)
    assert single.dtype == torch.float32 and model.dtype == torch.float64
    exact, rounded = (m.predict(tiny.crystal())["forces"] for m in (model, single))
    assert exact.dtype == np.float64 and rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, exact, atol=1e-4)


def test_what_it_cannot_predict_is_refused(path):
    model = pesloss.load(path)
    with pytest.raises(ValueError, match="Unknown property of this potential 'force'; did you mean 'forces'"):
        model.predict(tiny.crystal(), ["force"])
    with pytest.raises(ValueError, match="not trained on H, O; it knows Cu"):
        model.predict(molecule("H2O"), ["forces"])


def test_what_is_no_checkpoint_is_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nowhere\.ckpt"):
        pesloss.load(tmp_path / "nowhere.ckpt")
    with pytest.raises(FileNotFoundError, match=r"best\.ckpt"):
        pesloss.load(tmp_path)
    (tmp_path / "text.ckpt").write_text("energy")
    with pytest.raises(CheckpointError, match=r"text\.ckpt cannot be read as a checkpoint"):
        pesloss.load(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}, "config": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="it lacks heads, properties, model, references, elements"):
        pesloss.load(tmp_path / "other.ckpt")
    with pytest.raises(BuildError, match="not allowed"):
        pesloss.load(changed(path, tmp_path, config={"model": {"_target_": "os.system", "command": "true"}}))
    narrower = {"model": {**tiny.MODEL, "channels": 4}}
    with pytest.raises(RuntimeError, match="size mismatch"):
        pesloss.load(changed(path, tmp_path, config=narrower))


def test_nothing_of_the_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"config": Evil()}))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        pesloss.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


def test_properties_of_ones_own_are_kept_in_the_checkpoint(path, tmp_path):
    own = {"name": "charges", "rows": "atom", "shape": [], "unit": "e", "extensive": False}
    model = pesloss.load(changed(path, tmp_path, properties=["energy", own]))
    assert model.properties["charges"].rows == "atom"
    assert set(model.predict(Atoms("Cu"))) == {"energy", "charges"}


def test_loading_does_not_wait_for_what_only_training_needs(path):
    code = (
        f"import sys, pesloss; pesloss.load({str(path)!r}); "
        "sys.exit(any(name in sys.modules for name in ('lightning_fabric', 'matplotlib', 'wandb')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tiny.ROOT).returncode == 0


def test_the_device_is_chosen_when_loading(path):
    model: Trained = pesloss.load(path, device="meta" if not torch.cuda.is_available() else "cuda")
    assert model.device.type in ("meta", "cuda")
