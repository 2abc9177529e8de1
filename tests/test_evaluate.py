"""A checkpoint is evaluated on its own data as its training did, and on any other data."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig

import pesloss
from pesloss.evaluate import checkpoint_first, evaluate
from tests import files
from tests.test_train import app

ROOT = Path(__file__).parent.parent
TINY = ["model.channels=4", "model.layers=1", "trainer.epochs=1", "logger=csv"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder of a tiny training on a file beside it."""
    folder = tmp_path_factory.mktemp("evaluate")
    files.write(folder / "my.xyz", 24)
    data = ["data=extxyz", f"data.train={folder / 'my.xyz'}"]
    done = app(folder, *data, *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def evaluated(run: Path, folder: Path, *overrides: str) -> dict[str, dict[str, float]]:
    """What ``metrics.json`` holds after an evaluation in this process."""
    given = [f"checkpoint='{run}'", *overrides]
    place = [f"hydra.runtime.output_dir='{folder}'", "hydra.mode=RUN"]
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        HydraConfig.instance().set_config(compose("evaluate", [*given, *place], return_hydra_config=True))
        config = compose("evaluate", given)
    try:
        evaluate(config)
    finally:
        HydraConfig.instance().cfg = None
    return json.loads((folder / "metrics.json").read_text())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_on_its_own_data_it_is_the_table_of_the_training(run, tmp_path):
    trained = json.loads((run / "metrics.json").read_text())
    found = evaluated(run, tmp_path)
    assert any(name.startswith("train/") for name in found["metrics"])
    for kind in ("metrics", "baseline", "labels"):
        mine = {name: value for name, value in found[kind].items() if not name.startswith("train/")}
        assert mine == pytest.approx(trained[kind], rel=1e-9)
    rows = [row for split in ("train", "val", "test") for row in table(tmp_path / f"predictions_{split}.csv")]
    sources = sorted(int(row["source"].rpartition(" ")[2]) for row in rows)
    assert sources == list(range(24))


def test_other_data_need_no_training_file(run, tmp_path):
    files.write(tmp_path / "other.xyz", 9, seed=4)
    found = evaluated(run, tmp_path, "data=extxyz", f"data.test={tmp_path / 'other.xyz'}")
    assert all(name.startswith("test/") for name in found["metrics"])
    assert "test/forces/mae_component [meV/Å]" in found["baseline"]
    atoms = ase.io.read(tmp_path / "predictions_test.extxyz", ":")
    predicted = pesloss.load(run).predict(atoms)
    for one, expected, row in zip(atoms, predicted, table(tmp_path / "predictions_test.csv"), strict=True):
        assert one.info["pesloss_energy"] == pytest.approx(float(expected["energy"]), abs=1e-5)
        np.testing.assert_allclose(one.arrays["pesloss_forces"], expected["forces"], atol=1e-5)
        assert float(row["energy/prediction [eV]"]) == pytest.approx(float(expected["energy"]), abs=1e-5)
    assert (tmp_path / "parity_energy.png").exists()


def test_the_worst_structures_are_told_with_their_share_of_the_loss(run, tmp_path, capsys):
    evaluated(run, tmp_path, "splits=[test]", "batch_size=1")
    worst, rows = table(tmp_path / "worst_test.csv"), table(tmp_path / "predictions_test.csv")
    assert sum(float(row["share [%]"]) for row in worst) == pytest.approx(100, abs=0.5)
    by_source = {row["source"]: row for row in rows}
    column = "forces/max_vector [meV/Å]"
    assert all(row[column] == by_source[row["source"]][column] for row in worst)
    said = capsys.readouterr().out
    assert "Worst structures, test" in said and "share of the loss" in said and "last.ckpt" not in said


def test_learned_weights_are_those_it_began_with(run, tmp_path, capsys):
    content = torch.load(run / "best.ckpt", weights_only=True)
    content["config"]["loss"]["weighting"] = {"_target_": "pesloss.weighting.Uncertainty"}
    torch.save(content, tmp_path / "learned.ckpt")
    evaluated(tmp_path / "learned.ckpt", tmp_path, "splits=[test]")
    assert "What the loss has learned is in last.ckpt alone" in capsys.readouterr().out
    del content["config"]["loss"]["_target_"]
    torch.save(content, tmp_path / "unknown.ckpt")
    evaluated(tmp_path / "unknown.ckpt", tmp_path, "splits=[test]")
    said = " ".join(capsys.readouterr().out.split())
    assert "worst structures are those of the squared errors" in said
    assert "share of the squared errors, each property for an equal part" in said


def test_the_batch_size_changes_nothing(run, tmp_path):
    found = [
        evaluated(run, folder, "precision=float64", f"batch_size={size}", "splits=[test]")
        for size in (1, 64)
        if (folder := tmp_path / str(size)).mkdir() is None
    ]
    assert found[0]["metrics"] == pytest.approx(found[1]["metrics"], rel=1e-9, abs=1e-9)
    texts = [(tmp_path / size / "predictions_test.csv").read_text().splitlines()[0] for size in ("1", "64")]
    assert texts[0] == texts[1]


def test_what_the_data_lack_is_predicted_and_has_no_error(run, tmp_path):
    atoms = files.structures(4, seed=4)
    for one in atoms:
        one.calc = None
    ase.io.write(tmp_path / "bare.xyz", atoms)
    data = ["data=extxyz", f"data.test={tmp_path / 'bare.xyz'}"]
    found = evaluated(run, tmp_path, *data, "properties=[energy, forces, virial]")
    assert found["metrics"] == {}
    assert not list(tmp_path.glob("*.png"))
    for one, row in zip(
        ase.io.read(tmp_path / "predictions_test.extxyz", ":"),
        table(tmp_path / "predictions_test.csv"),
        strict=True,
    ):
        assert one.arrays["pesloss_forces"].shape == (len(one), 3) and "pesloss_virial" in one.info
        assert row["energy/prediction [eV]"] and not row["energy/label [eV]"]


def test_references_come_from_the_checkpoint(run, tmp_path):
    atoms = files.structures(6, seed=4)
    for one in atoms:
        one.calc.results["energy"] = one.calc.results.get("energy", 0.0) + 7.0 * len(one)
    ase.io.write(tmp_path / "shifted.xyz", atoms)
    found = evaluated(run, tmp_path, "data=extxyz", f"data.test={tmp_path / 'shifted.xyz'}")
    assert found["metrics"]["test/energy/bias [meV/atom]"] == pytest.approx(-7000, rel=0.2)


def test_an_unknown_element_has_no_reference(run, tmp_path):
    atoms = files.structures(1)
    atoms[0].symbols[0] = "Pt"
    ase.io.write(tmp_path / "platinum.xyz", atoms)
    data = ["data=extxyz", f"data.test={tmp_path / 'platinum.xyz'}"]
    with pytest.raises(ValueError, match="No reference energy for Pt"):
        evaluated(run, tmp_path, *data)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("splits=[tset]", "splits: Unknown split 'tset'; did you mean 'test'"),
        ("precision=float", "Unknown precision 'float'; did you mean 'float32'|'float64'"),
        ("batch_size=0", "batch_size must be a whole number of at least 1, got 0"),
        ("properties=[force]", "Unknown property of this potential 'force'; did you mean 'forces'"),
    ],
)
def test_a_wrong_value_gets_a_sentence(run, tmp_path, override, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        evaluated(run, tmp_path, override)


def test_the_checkpoint_may_stand_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loss=huber,it's").mkdir()
    assert checkpoint_first(["loss=huber,it's", "a=1"]) == [r"checkpoint='loss=huber,it\'s'", "a=1"]
    for unchanged in ([], ["--help"], ["checkpoint=a.ckpt"], ["-m", "checkpoint=a,b"]):
        assert checkpoint_first(unchanged) == unchanged


def test_from_the_command_line(run, tmp_path):
    files.write(tmp_path / "other.xyz", 3, seed=4)
    data = ["data=extxyz", "data.test=other.xyz"]
    done = app(tmp_path, str(run / "best.ckpt"), *data, "hydra.run.dir=out", module="evaluate")
    assert done.returncode == 0, done.stderr
    assert "meV/Å" in done.stdout and (tmp_path / "out/metrics.json").exists()
    assert not torch.load(run / "best.ckpt", weights_only=True)["means"].keys() - {
        "energy",
        "forces",
        "stress",
    }
    wrong = app(tmp_path, "nowhere.ckpt", module="evaluate")
    assert wrong.returncode == 1 and "There is no checkpoint nowhere.ckpt." in wrong.stderr


def test_help_does_not_wait_for_torch():
    code = "import sys, pesloss.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_data_that_have_changed_since_the_training_are_told(run, tmp_path, capsys):
    evaluated(run, tmp_path)
    assert "have changed" not in capsys.readouterr().out
    path = run.parent / "my.xyz"
    before = path.read_text()
    try:
        files.write(path, 24, seed=1)
        evaluated(run, tmp_path)
        assert "The data have changed since the training" in capsys.readouterr().out
    finally:
        path.write_text(before)
