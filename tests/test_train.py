"""The app as a person starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pesloss.cli import resumed_arguments
from tests import files

ROOT = Path(__file__).parent.parent
TINY = ["model.channels=4", "model.layers=1", "trainer.epochs=2", "logger=csv"]


def app(
    folder: Path, *arguments: str, module: str = "train", warnings: str = "error", **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python -m pesloss.train``, or another app, in a folder that is not the checkout."""
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", **environment}
    command = [sys.executable, "-W", warnings, "-m", f"pesloss.{module}", *arguments]
    options = {"cwd": folder, "env": {**os.environ, **settings}, "timeout": 300, "check": False}
    return subprocess.run(command, capture_output=True, text=True, **options)


def trained(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = folder / "my.xyz"
    if not path.exists():
        files.write(path, 24)
    done = app(folder, *arguments, "data=extxyz", "data.train=my.xyz", *TINY)
    assert done.returncode == 0, done.stderr
    return done


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["model"]


def test_help_does_not_wait_for_torch(tmp_path):
    code = "import sys, pesloss.train; sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert run.returncode == 0
    help_text = app(tmp_path, "--help").stdout
    (losses,) = [line for line in help_text.splitlines() if line.startswith("loss: ")]
    assert {"energy", "huber", "mace_universal", "uncertainty"} <= set(
        losses.removeprefix("loss: ").split(", ")
    )


def test_a_run_leaves_everything_in_its_folder(tmp_path):
    files.write(tmp_path / "other.xyz", 6, seed=5)
    done = trained(tmp_path, "loss=uncertainty", "data.test=other.xyz", "hydra.run.dir=out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "best.ckpt",
        "last.ckpt",
        "metrics.json",
        "steps.csv",
        "epochs.csv",
        "learning_curves.png",
    } <= names
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["metrics"]["test/forces/mae_component [meV/Å]"] > 0
    assert "epoch 2/2" in done.stdout and "meV/Å³" in done.stdout


def test_jobs_of_one_sweep_share_no_state(tmp_path):
    trained(tmp_path, "-m", "loss=uncertainty,huber", "hydra.sweep.dir=sweep")
    trained(tmp_path, "loss=huber", "hydra.run.dir=alone")
    (job,) = (tmp_path / "sweep").glob("loss=huber-*")
    alone, swept = weights(tmp_path / "alone"), weights(job)
    assert all(torch.equal(alone[key], swept[key]) for key in alone)


def test_weights_and_biases_gets_a_run_a_job(tmp_path):
    path = files.write(tmp_path / "my.xyz", 24)
    done = app(
        tmp_path,
        "-m",
        "data=extxyz",
        f"data.train={path}",
        *TINY[:3],
        "loss=huber,normal",
        "hydra.sweep.dir=sweep",
        WANDB_MODE="offline",
        WANDB_SILENT="true",
    )
    assert done.returncode == 0, done.stderr
    for loss in ("huber", "normal"):
        assert len(list(tmp_path.glob(f"sweep/loss={loss}-*/wandb/offline-run-*/*.wandb"))) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.weights.force=3", "No 'force' in loss.weights; did you mean 'forces'?"),
        ("loss=uncertainy", "No 'uncertainy' in the group 'loss'; did you mean 'uncertainty'?"),
        ("los=huber", "did you mean 'loss'?"),
        ("model.chanels=8", "No 'chanels' in model; did you mean 'channels'?"),
        ("loss/term@loss.terms.forces=force", "did you mean 'forces'?"),
        ("data=extxyz", "'data.train' has no value yet"),
    ],
)
def test_a_typo_gets_the_nearest_name(tmp_path, override, message):
    done = app(tmp_path, override)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.terms.forces.penalty=hubr", "Unknown penalty 'hubr'; did you mean 'huber'?"),
        ("+loss.terms.forces.weigth=2", "has no parameter 'weigth'; did you mean 'weight'?"),
        ("loss.weights.forces=abc", "takes a number, got 'abc'"),
        ("data.train=nowhere.xyz", "nowhere.xyz"),
    ],
)
def test_a_wrong_value_gets_a_sentence(tmp_path, override, message):
    done = app(
        tmp_path,
        "data=extxyz",
        *(["data.train=my.xyz"] if "data.train" not in override else []),
        *TINY,
        override,
    )
    assert done.returncode != 0 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_resumed_by_its_folder(tmp_path):
    trained(tmp_path, "loss=huber", "loss.huber_delta=0.5", "hydra.run.dir=out")
    again = app(tmp_path, "loss=huber", "data=extxyz", "data.train=my.xyz", *TINY, "hydra.run.dir=out")
    assert (
        again.returncode == 1 and "out holds a training already. resume=true goes on with it" in again.stderr
    )
    (tmp_path / "out").rename(tmp_path / "Ann's out=1")
    done = app(tmp_path, "resume=Ann's out=1", "trainer.epochs=3")
    (tmp_path / "Ann's out=1").rename(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "resumed after 2 epochs" in done.stdout and "changed: trainer.epochs: 2 -> 3" in done.stdout
    assert len((tmp_path / "out/epochs.csv").read_text().splitlines()) == 4
    saved = torch.load(tmp_path / "out/last.ckpt", weights_only=True)
    assert saved["config"]["loss"]["huber_delta"] == 0.5 and saved["progress"]["epochs"] == 3


@pytest.mark.parametrize("devices", [1, 2])
def test_a_terminated_run_says_how_to_go_on(tmp_path, devices):
    files.write(tmp_path / "my.xyz", 24)
    settings = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
        "PYTHONUNBUFFERED": "1",
    }
    command = ["data=extxyz", "data.train=my.xyz", *TINY, "trainer.epochs=100000", "hydra.run.dir=out"]
    command += [f"trainer.devices={devices}", "trainer.accelerator=cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pesloss.train", *command],
        cwd=tmp_path,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "Stopped by SIGTERM" in error and "Traceback" not in error
    words = error.rpartition("python -m pesloss.train ")[2].split()
    done = app(tmp_path, *words, "trainer.epochs=4", "trainer.max_time=0.1")
    assert done.returncode == 0 and "resumed after" in done.stdout, done.stderr


def test_a_compiled_training_ends_in_the_same_weights(tmp_path):
    for name in ("eager", "compiled"):
        settings = [f"trainer.compile={name == 'compiled'}", "trainer.precision=float64", "trainer.epochs=1"]
        path = files.write(tmp_path / "my.xyz", 24)
        done = app(
            tmp_path,
            *("data=extxyz", f"data.train={path}", *TINY, *settings, f"hydra.run.dir={name}"),
            warnings="default",  # the compiler has some of its own
            TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"),
        )
        assert done.returncode == 0, done.stderr
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert not all(torch.equal(value, compiled[name]) for name, value in eager.items())
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a=1"], ["a=1"]),
        (["a=1", "resume=true"], ["a=1", "resume=true"]),
        (["resume={run}"], ["loss=huber", "loss.huber_delta=0.5", "x=1"]),
        (["resume={run}/last.ckpt", "x=2"], ["loss=huber", "loss.huber_delta=0.5", "x=2"]),
        (["loss=mae", "resume={run}"], ["x=1", "loss=mae"]),
    ],
)
def test_the_arguments_of_a_resumed_run(tmp_path, given, expected):
    old = ["loss=huber", "loss.huber_delta=0.5", "x=1", "resume=true"]
    torch.save({"overrides": old}, tmp_path / "last.ckpt")
    found = resumed_arguments([argument.format(run=tmp_path) for argument in given])
    ours = [f"hydra.run.dir='{tmp_path}'", "resume=true"] if "{run}" in "".join(given) else []
    assert found == [*expected, *ours]


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    done = app(tmp_path, "resume=nowhere")
    assert done.returncode == 1 and "There is no training to resume in nowhere" in done.stderr
