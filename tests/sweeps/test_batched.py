"""The launcher ``batched`` leaves the folders of a sweep that ran one job after another, but for rounding."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from pesloss.sweeps import told
from pesloss.sweeps.batched import Batch
from pesloss.sweeps.halving import Decisions
from pesloss.sweeps.running import Job
from pesloss.training import Fit
from tests.sweeps.forked import Ended, Moment, jobs, results, swept

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BATCHED = "hydra/launcher=batched"
WEIGHTS = ["loss.weights.forces=1,10", "loss.huber_delta=0.02,0.5", "trainer.save_minutes=0"]
OWN = {"console.txt"}
"""What only a job has that has no terminal of its own."""


def assert_alike(found: object, expected: object, where: str = "") -> None:
    """Equal, numbers but for rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_alike(found[name], value, f"{where}/{name}")
    elif isinstance(expected, list) and not (expected and isinstance(expected[0], str)):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_alike(found[i], value, f"{where}/{i}")
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9, msg=where)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-9), where
    else:
        assert found == expected, where


def assert_same_sweep(folder: Path, other: Path) -> None:
    found, expected = results(folder), results(other)
    for job in (*found.values(), *expected.values()):
        job["files"] = [name for name in job["files"] if name not in OWN]
        for state in ("best", "last"):
            job[state].pop("random", None)
    assert_alike(found, expected)


def finished(folder: Path, *overrides: str) -> str:
    """What a sweep says that ends without a failure."""
    ended = swept(folder, *overrides)
    assert ended.status == 0, ended.said
    return ended.said


def killed(folder: Path, *overrides: str, at: Moment) -> None:
    ended: Ended = swept(folder, *overrides, at=at)
    assert ended.status == -signal.SIGKILL, "it was over before"


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    finished(folder / "whole", *WEIGHTS)
    return folder


def test_a_batched_sweep_is_a_sweep(one_by_one):
    folder = one_by_one / "batched"
    said = finished(folder, *WEIGHTS, BATCHED)
    assert "sweep: 4 jobs, 0 done, 4 to do" in said and "sweep: 4 of 4 done" in said
    assert "one after another" not in said
    assert_same_sweep(folder, one_by_one / "whole")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("sweep/*/**/*")}
    assert "4 done, 0 to do" in finished(folder, *WEIGHTS, BATCHED)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("sweep/*/**/*")} == before


MOMENTS: dict[str, Moment] = {
    "before the third job is prepared": (Batch, "_prepare", 3),
    "in the first step": (Fit, "_optimize", 2),
    "when jobs are at different steps": (Fit, "_optimize", 11),
    "when jobs are at different epochs": (Fit, "save", 7),
    "between the ends of two jobs": (Job, "finish", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_batched_sweep_ends_the_same(one_by_one, moment):
    folder = one_by_one / moment.replace(" ", "_")
    killed(folder, *WEIGHTS, BATCHED, at=MOMENTS[moment])
    finished(folder, *WEIGHTS, BATCHED)
    assert_same_sweep(folder, one_by_one / "whole")


def test_a_batched_sweep_goes_on_one_by_one(one_by_one):
    """Launchers share their folders."""
    folder = one_by_one / "mixed"
    killed(folder, *WEIGHTS, BATCHED, at=(Fit, "_optimize", 11))
    finished(folder, *WEIGHTS)
    assert_same_sweep(folder, one_by_one / "whole")


def test_what_differs_otherwise_is_another_group(tmp_path):
    """Models, batches and data that differ; losses that ask for other labels; weights by gradient."""
    sweep = ["model.channels=4,6", "loss=energy_forces,energy", "weighting=fixed,conflict_free"]
    finished(tmp_path / "batched", *sweep, BATCHED)
    finished(tmp_path / "whole", *sweep)
    assert_same_sweep(tmp_path / "batched", tmp_path / "whole")


def test_stacks_may_be_small(one_by_one):
    folder = one_by_one / "small"
    finished(folder, *WEIGHTS, BATCHED, "hydra.launcher.copies=3")
    assert_same_sweep(folder, one_by_one / "whole")


def test_a_failing_job_leaves_the_others_alone(tmp_path):
    """Those whose training is not finite, that cannot be prepared, whose config cannot be computed."""
    values = ["optimizer.lr=1e-3,1e30", "loss.weights.forces=1,-1,${nowhere}", "trainer.clip_norm=null"]
    ended = swept(tmp_path, *values, BATCHED)
    assert ended.status == 1
    states = {tuple(job.swept.values()): job.state for job in jobs(tmp_path).values()}
    assert states.pop((1e-3, 1)) == "finished"
    assert list(states.values()) == ["failed"] * 5
    assert ended.said.count("Error in job") == 5 and "Jobs of the sweep without a result" in ended.said


HALVED = [
    "loss.weights.forces=0,0.01,1,100",
    "trainer.epochs=4",
    "sweep.halving.fractions=[0.25,0.5]",
    "trainer.save_minutes=0",
    BATCHED,
]


@pytest.fixture(scope="module")
def halved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("halved")
    finished(folder, *HALVED)
    return folder


def test_the_worst_settings_stop(halved):
    found = jobs(halved)
    states = sorted(job.state for job in found.values())
    assert "dropped" in states and "finished" in states
    decided = json.loads((halved / "sweep/halving.json").read_text())
    dropped = {name for at in decided.values() for name, job in at.items() if not job["kept"]}
    records = {path.parent.name: json.loads(path.read_text()) for path in halved.glob("sweep/*/job.json")}
    assert dropped == {name for name, job in records.items() if job["state"] == "dropped"}
    for name in dropped:
        done, total = records[name]["epochs"]
        assert done < total == 4 and "others were better" in records[name]["result"]["ended"]
    assert "0 to do" in finished(halved, *HALVED)


def test_jobs_one_by_one_cannot_be_halved(tmp_path):
    ended = swept(tmp_path, *HALVED[:-1])
    assert ended.status == 1 and "choose hydra/launcher=batched too" in ended.said


RUNGS: dict[str, Moment] = {
    "within an epoch": (Fit, "save", 9),
    "before a decision": (Decisions, "decide", 1),
    "when it is decided": (Batch, "drop", 1),
    "after one has stopped": (told, "ended", 1),
    "at the second": (Decisions, "decide", 2),
}


@pytest.mark.parametrize("moment", RUNGS)
def test_halving_survives(halved, tmp_path, moment):
    killed(tmp_path, *HALVED, at=RUNGS[moment])
    finished(tmp_path, *HALVED)
    assert_same_sweep(tmp_path, halved)
