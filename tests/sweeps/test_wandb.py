"""One run of Weights & Biases a job, finished whatever becomes of it; the records are the same without."""

from __future__ import annotations

import pytest

from tests.sweeps.mortal import jobs, swept
from tests.wandb_files import runs

pytest.importorskip("wandb")


def without_times(record):
    times = ("seconds", "time", "ended")
    metrics = {key: value for key, value in record.result["metrics"].items() if "time" not in key}
    return {key: value for key, value in record.result.items() if key not in times} | {"metrics": metrics}


def test_each_job_is_a_run_of_its_own_and_the_records_are_the_same_without(tmp_path):
    settings = ["trainer.devices=1,2", "trainer.batch_size=4"]  # two processes know nothing of Hydra
    watched, plain = tmp_path / "watched", tmp_path / "plain"
    told = swept(watched, *settings, "logger=wandb", _0="raises")
    assert told.returncode == 1, told.stderr
    failed, done = runs(watched)
    assert (failed.name, done.name) == ("pesloss trainer.devices=1", "pesloss trainer.devices=2")
    (sweep,) = watched.glob("multirun/*/sweep.json")
    assert failed.group == done.group == sweep.parent.name
    assert failed.exit_code == 1 and done.exit_code == 0
    assert failed.steps == [1, 2, 3] and len(done.steps) > 3

    assert swept(watched, *settings, "logger=wandb").returncode == 0
    before, after, other = runs(watched)
    assert before.id == after.id == failed.id and other == done
    assert swept(plain, *settings).returncode == 0
    found, expected = ([without_times(job) for job in jobs(folder)] for folder in (watched, plain))
    assert found == expected


def test_ctrl_c_finishes_the_run(tmp_path):
    told = swept(tmp_path, "seed=0,1", "logger=wandb", _0="interrupted")
    assert told.returncode == 130, told.stderr
    (run,) = runs(tmp_path)
    assert run.exit_code is not None and run.name == "pesloss seed=0"
