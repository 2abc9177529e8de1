"""Jobs of a queue: SLURM's, or processes of this machine that are started in the same way."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module

from pesloss.safety.hydra_targets import check
from tests.sweeps.mortal import jobs, swept

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs hydra-submitit-launcher")


def test_a_job_that_fails_is_one_of_the_sweep_that_ends(tmp_path):
    """The launcher itself raises the error of the first job that has failed."""
    queue = ["hydra/launcher=submitit_local", "seed=0,1,2"]
    told = swept(tmp_path, *queue, _0="raises", _1="killed")
    assert told.returncode == 1, told.stderr
    assert [job.state for job in jobs(tmp_path)] == ["failed", "failed", "finished"]
    assert "The machine is on fire." in told.stdout and "Its process was killed." in told.stdout


def test_a_queue_of_slurm_is_a_matter_of_settings():
    words = [
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.gpus_per_node=1",
        "hydra.launcher.timeout_min=240",
        "hydra.launcher.array_parallelism=8",
    ]
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        config = compose("train", words, return_hydra_config=True)
    check(config)
    assert config.hydra.launcher._target_.endswith("SlurmLauncher")
    assert config.hydra.launcher.submitit_folder.startswith("multirun/")
