"""One training, whatever starts its processes: the same weights, metrics and folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pesloss import checkpoint as checkpoints
from pesloss.processes import Process, started_by_launcher
from pesloss.training import Trainer
from pesloss.training.launch import RankError, launch, make_fabric
from tests import files
from tests.test_train import TINY, app
from tests.trainings import rows, trained

ROOT = Path(__file__).parent.parent
LOSSES = ("huber", "uncertainty", "rmse")
COMMON = ["trainer.batch_size=6", "trainer.ema_decay=0.9", "trainer.clip_norm=0.5"]
"""25 training structures of 31 in batches of 6 and a last one of 1: a rank, or two, without data."""


def train_all(fabric, folder: str) -> None:
    """A training for each of the losses in this process, which may be one of several."""
    for loss in LOSSES:
        path = Path(folder) / f"{loss}{fabric.world_size}"
        trained(path, f"loss={loss}", *COMMON, fabric=fabric, num=31)


def fail(fabric) -> None:
    Trainer(epochs=-fabric.world_size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The same trainings on one process, on two and on three."""
    path = tmp_path_factory.mktemp("ranks")
    files.write(path / "data.xyz", 31)
    for world in (1, 2, 3):
        settings = Trainer(devices=world, precision="float64", accelerator="cpu")
        launch(settings, train_all, str(path))
    return path


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_ranks_end_in_the_same_weights(folder, loss, world):
    """Missing labels, learned and averaged weights, a last batch that leaves ranks without data."""
    one, many = (checkpoints.read(folder / f"{loss}{n}/last.ckpt") for n in (1, world))
    assert one["progress"]["step"] == many["progress"]["step"] and len(many["random"]) == world
    for part in ("model", "weights", "loss"):
        for name, value in one[part].items():
            torch.testing.assert_close(many[part][name], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_ranks_log_the_same_numbers(folder, loss, world):
    for table, tolerance in (("steps", 1e-9), ("epochs", 1e-9)):
        one, many = (rows(folder / f"{loss}{n}/{table}.csv") for n in (1, world))
        for a, b in zip(one, many, strict=True):
            a.pop("seconds", None), b.pop("seconds", None)
            assert a == pytest.approx(b, rel=tolerance, abs=1e-11)


def accumulated(tmp_path: Path, loss: str) -> None:
    trained(tmp_path, f"loss={loss}", *COMMON, "trainer.batch_size=2", "trainer.accumulate=3", num=31)


@pytest.mark.parametrize("loss", LOSSES)
def test_accumulation_ends_in_the_same_weights(folder, loss):
    accumulated(folder / f"{loss}_parts", loss)
    one, parts = (checkpoints.read(folder / f"{loss}{n}/last.ckpt") for n in ("1", "_parts"))
    for name, value in one["model"].items():
        torch.testing.assert_close(parts["model"][name], value, rtol=1e-10, atol=1e-10)


def validate(fabric, folder: str) -> None:
    """Metrics of one model, whose share of the structures each process evaluates."""
    from pesloss.training import Metrics, predict
    from tests.trainings import prepared

    fit = prepared(Path(folder) / f"eval{fabric.world_size}", *COMMON, fabric=fabric, num=31)
    fit.potential.load_state_dict(checkpoints.read(Path(folder) / "huber1/best.ckpt")["model"])
    metrics = Metrics(fit.loss.required)
    for batch, predictions in predict(
        fit.potential,
        fit.data.train,
        fit.required,
        batch_size=5,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    ):
        metrics.update(predictions, batch)
    found = {name: metric.value for name, metric in metrics.compute().items()}
    Path(folder, f"metrics{fabric.world_size}-{fabric.global_rank}.json").write_text(json.dumps(found))


def test_metrics_do_not_depend_on_ranks(folder):
    for world in (1, 3):
        settings = Trainer(devices=world, precision="float64", accelerator="cpu")
        launch(settings, validate, str(folder))
    expected = json.loads((folder / "metrics1-0.json").read_text())
    for rank in range(3):
        assert json.loads((folder / f"metrics3-{rank}.json").read_text()) == pytest.approx(
            expected, rel=1e-12
        )


def test_an_error_of_a_process_is_told_in_its_words():
    settings = Trainer(devices=2, accelerator="cpu")
    with pytest.raises(RankError, match=r"^epochs must be a whole number of at least 1, got -2"):
        launch(settings, fail)
    assert "MASTER_PORT" not in os.environ


def numbered(environment: dict[str, str], folder: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Processes as a launcher starts them, each with its number."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "pesloss.train", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**settings, **{k: v.format(rank=rank) for k, v in environment.items()}},
            **pipes,
        )
        for rank in range(2)
    ]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


APP = ["data=extxyz", "data.train=my.xyz", *TINY, "trainer.accelerator=cpu"]
SRUN = {
    "SLURM_JOB_ID": "4217",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "127.0.0.1",
    "SLURM_PROCID": "{rank}",
    "SLURM_LOCALID": "{rank}",
    "SLURM_NODEID": "0",
}


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """The app alone, with two devices, under torchrun, and as srun would start it."""
    folder = tmp_path_factory.mktemp("launched")
    files.write(folder / "my.xyz", 24)
    for name, extra in (("alone", []), ("devices", ["trainer.devices=2"])):
        done = app(folder, *APP, *extra, f"hydra.run.dir=out/{name}")
        assert done.returncode == 0, done.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    for name, extra in (
        ("torchrun", ["hydra.run.dir=out/torchrun"]),
        ("sweep", ["-m", "loss.weights.forces=1", "seed=0,1", "hydra.sweep.dir=out/sweep"]),
        ("more of it", ["-m", "loss.weights.forces=1", "seed=2,1,0", "hydra.sweep.dir=out/sweep"]),
    ):
        done = subprocess.run(
            [*torchrun, "-m", "pesloss.train", *extra, *APP],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, name + done.stdout + done.stderr
    port = {"MASTER_PORT": str(free_port())}
    for process in numbered({**SRUN, **port}, folder, *APP, "hydra.run.dir=out/srun"):
        assert process.wait(300) == 0, process.stdout.read()
        process.stdout.close()
    return folder


@pytest.mark.parametrize("name", ["devices", "torchrun", "srun", "sweep/seed=0-*"])
def test_whatever_starts_the_processes_the_weights_are_the_same(launched, name):
    (folder,) = launched.glob(f"out/{name}")
    one, many = (checkpoints.read(path / "last.ckpt") for path in (launched / "out/alone", folder))
    for key, value in one["model"].items():
        torch.testing.assert_close(many["model"][key], value, rtol=2e-3, atol=2e-4)  # float32
    assert len(many["random"]) == 2


def test_a_run_has_one_folder_whatever_its_ranks(launched):
    assert {path.name for path in (launched / "out").iterdir()} == {
        "alone",
        "devices",
        "torchrun",
        "srun",
        "sweep",
    }
    assert {path.name for path in launched.iterdir()} == {"my.xyz", "out"}
    alone = {path.name for path in (launched / "out/alone").iterdir()}
    for name in ("devices", "torchrun", "srun"):
        assert {path.name for path in (launched / "out" / name).iterdir()} == alone
        assert len(rows(launched / "out" / name / "epochs.csv")) == 2


def test_ranks_agree_on_what_is_left_of_a_sweep(launched):
    jobs = sorted(launched.glob("out/sweep/seed=*"))
    assert [job.name.partition("-")[0] for job in jobs] == ["seed=0", "seed=1", "seed=2"]
    alone = {path.name for path in (launched / "out/alone").iterdir()}
    for job in jobs:
        assert {path.name for path in job.iterdir()} == alone | {"job.json", ".lock"}
        record = json.loads((job / "job.json").read_text())
        assert (record["state"], record["attempts"]) == ("finished", 1)
        assert len(checkpoints.read(job / "last.ckpt")["random"]) == 2


def test_devices_must_not_contradict_the_launcher(monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"trainer.devices=3, but the launcher has started 2 processes"):
        make_fabric(Trainer(devices=3, accelerator="cpu"))


def test_a_step_of_srun_says_which_process_this_is():
    step = {name: value.format(rank=1) for name, value in SRUN.items()}
    assert started_by_launcher(step) == Process(rank=1, local_rank=1, world_size=2, per_node=2)
    assert started_by_launcher({**step, "SLURM_STEP_NUM_TASKS": "1"}) is None
