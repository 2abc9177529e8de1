"""What was written of a bad step is enough to do it again, anywhere, to the last bit."""

from __future__ import annotations

import os
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from pesloss import checkpoint as checkpoints
from pesloss.building import BuildError
from pesloss.checkpoint import CheckpointError
from pesloss.checks.postmortem import diagnose, read, rebuilt
from pesloss.replay import NotReproducedError, files, replay
from pesloss.training import NonFiniteError, SpikeError
from tests import files as structures
from tests.fragile import write
from tests.test_guard import EVERYTHING, WHO, fragile, launched
from tests.test_train import TINY, app
from tests.trainings import run

PREPARED = ("loss=normal", "+loss/term@loss.terms.denoising=forces_denoising")


def failed(folder: Path, fault: str, *more: str) -> tuple[Path, list[dict[str, torch.Tensor]], str]:
    """Folder of the post-mortem of a training that stops, predictions of the bad step, and the sentence."""
    fit, made = fragile(folder, fault, *more), []
    fit.potential.register_forward_hook(lambda *args: made.append(args[-1]))
    begin = fit.guard.begin

    def forget() -> None:
        made.clear()
        begin()

    fit.guard.begin = forget
    with pytest.raises((NonFiniteError, SpikeError)) as caught:
        run(fit)
    (path,) = (folder / "postmortem").iterdir()
    return path, made, str(caught.value)


def again(path: Path, **options: object) -> None:
    replay(
        OmegaConf.create({"postmortem": str(path), "extxyz": None, "device": "cpu", "threads": 1, **options})
    )


@pytest.mark.parametrize(
    ("fault", "more"),
    [
        ("prediction", ("trainer.precision=float32",)),
        ("gradient", EVERYTHING),
        (
            "gradient",
            ("trainer.precision=float32", "loss=rmse", "trainer.accumulate=2", "trainer.batch_size=4"),
        ),
        ("prediction", ("trainer.precision=bfloat16",)),
        ("gradient", PREPARED),
        ("prediction", ("weighting=conflict_free", "trainer.batch_size=4")),
    ],
)
def test_a_step_is_repeated_to_the_last_bit_with_the_same_diagnosis(tmp_path, capsys, fault, more):
    """Random numbers of model and loss, buffers, learned weights, accumulated batches, any precision."""
    path, made, sentence = failed(tmp_path / "run", fault, *more)
    content = read(path / "rank_0.ckpt")
    case = rebuilt(content)
    if "loss=rmse" not in more:  # which looks ahead, and draws for it
        for (_, said), before in zip(case.predictions(), made, strict=False):
            for name, value in said.items():
                torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    found = diagnose(case).sentence(content["names"].__getitem__)
    assert f"{found[:1].upper()}{found[1:]}" in sentence and content["sentence"] in sentence
    again(path)
    told = capsys.readouterr().out
    assert told.rstrip().endswith("reproduced") and told.count(found) == 1 and "data.xyz, structure 4" in told


def test_the_operation_and_its_line_are_named(tmp_path, capsys):
    path, _, _ = failed(tmp_path / "run", "gradient")
    again(path)
    told = capsys.readouterr().out
    assert re.search(
        r"first NaN of a derivative is that of \w+Backward0, in .*fragile\.py, line \d+\): .*sqrt", told
    )


def test_a_spike_is_repeated(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pesloss.training.guard.LEAST", 3)
    spikes = ("trainer.spike_factor=20", "trainer.on_spike=stop", "trainer.batch_size=2", "seed=1")
    path, _, sentence = failed(tmp_path / "run", "spike", *spikes)
    assert re.search(rf"the longest gradients are those of \S+{WHO}", sentence)
    again(path)
    assert capsys.readouterr().out.rstrip().endswith("reproduced")


def test_a_validation_is_repeated(tmp_path, capsys):
    write(tmp_path / "val.xyz", 4, num=6)
    structures.write(tmp_path / "data.xyz", 24)
    val = ("data.references=none", f"data.val={tmp_path}/val.xyz")
    path, _, _ = failed(tmp_path / "run", "prediction", *val)
    again(path)
    assert capsys.readouterr().out.rstrip().endswith("reproduced")


def test_a_rank_is_repeated_alone(tmp_path, capsys):
    write(tmp_path / "data.xyz")
    launched(tmp_path, 2, "trainer.on_nonfinite=skip", "trainer.epochs=1")
    (path,) = (tmp_path / "run2/postmortem").iterdir()
    again(path)
    told = capsys.readouterr().out
    assert re.search(
        rf"Then \(process \d of 2\): .*gradient of 'network\.gain' is not finite in \S+{WHO}", told
    )
    assert told.rstrip().endswith("reproduced")


def test_structures_are_written_with_labels_and_predictions(tmp_path):
    path, _, _ = failed(tmp_path / "run", "prediction", "trainer.batch_size=30")
    again(path, extxyz=str(tmp_path / "bad.xyz"))
    found = ase.io.read(tmp_path / "bad.xyz", ":", format="extxyz")
    originals = ase.io.read(tmp_path / "data.xyz", ":")
    assert len(found) == len(read(path / "rank_0.ckpt")["names"])
    for atoms in found:
        (original,) = (originals[int(n)] for n in re.findall(r"structure (\d+)", atoms.info["source"]))
        np.testing.assert_allclose(atoms.positions, original.positions, atol=1e-7)
        if "energy" in original.calc.results:
            assert atoms.get_potential_energy() == pytest.approx(original.get_potential_energy(), abs=1e-6)
        assert np.isinf(atoms.info["pesloss_energy"]) == ("Ag" in atoms.symbols)


def test_from_the_command_line(tmp_path):
    """By the command that the error tells; what was mended is told by the exit status."""
    atoms = structures.structures(24)
    for one in atoms[:24:6]:
        one.calc.results["stress"][0] = 1e300
    ase.io.write(tmp_path / "my.xyz", atoms, format="extxyz")
    data = ["data=extxyz", "data.train=my.xyz", "hydra.run.dir=out", "check=false", *TINY]
    done = app(tmp_path, *data, warnings="default")
    assert done.returncode == 1 and "label of 'stress' is not finite in my.xyz, structure" in done.stderr
    words = done.stderr.rpartition("python -m pesloss.replay ")[2].split()
    repeated = app(tmp_path, *words, "extxyz=bad.xyz", module="replay")
    assert repeated.returncode == 0, repeated.stderr
    assert "reproduced" in repeated.stdout and "What structures add" in repeated.stdout
    assert len(ase.io.read(tmp_path / "bad.xyz", ":")) == 16
    (path,) = files(tmp_path / words[0])
    content = checkpoints.read(path)
    for part in content["parts"]:
        part["stress"][part["stress"].isinf()] = 0
    checkpoints.save(path, content)
    mended = app(tmp_path, str(path), module="replay")
    assert mended.returncode == 2, mended.stderr
    assert "not reproduced (finite here: it came from the machine)" in mended.stderr
    assert "Traceback" not in mended.stderr


def test_what_is_no_post_mortem_is_said_to_be_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no post-mortem in .*; below it: none"):
        again(tmp_path)
    (tmp_path / "postmortem/step_000003").mkdir(parents=True)
    checkpoints.save(tmp_path / "postmortem/step_000003/rank_0.ckpt", {"config": {}})
    with pytest.raises(FileNotFoundError, match=r"below it: \S+postmortem/step_000003"):
        again(tmp_path)
    with pytest.raises(CheckpointError, match="is not the post-mortem of a step: it lacks heads, "):
        again(tmp_path / "postmortem/step_000003")


def test_a_file_makes_only_what_may_be_made(tmp_path):
    path, _, _ = failed(tmp_path / "run", "prediction")
    content = checkpoints.read(path / "rank_0.ckpt")
    content["config"]["model"] = {"_target_": "os.system", "command": f"touch {tmp_path}/done"}
    checkpoints.save(path / "rank_0.ckpt", content)
    with pytest.raises(BuildError, match=r"target 'os\.system' is not allowed"):
        again(path)
    assert not os.path.exists(tmp_path / "done")


def test_nothing_is_reproduced_where_everything_is_finite(tmp_path, capsys):
    path, _, _ = failed(tmp_path / "run", "prediction")
    content = checkpoints.read(path / "rank_0.ckpt")
    for part in content["parts"]:
        part["numbers"][part["numbers"] == 47] = 29
    checkpoints.save(path / "rank_0.ckpt", content)
    with pytest.raises(NotReproducedError, match="not reproduced"):
        again(path)
    assert "Now: everything is finite." in capsys.readouterr().out
