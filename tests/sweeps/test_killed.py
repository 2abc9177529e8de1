"""A sweep that is killed at any moment and started again ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pesloss.report import final as report
from pesloss.sweeps import records, told
from pesloss.sweeps.records import Sweep
from pesloss.sweeps.running import Job
from pesloss.sweeps.surviving import Surviving
from pesloss.training import Fit, Metrics
from tests.sweeps.forked import Moment, results, swept
from tests.trainings import same

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

JOBS = ["loss.weights.forces=1,10", "loss=uncertainty", "trainer.save_minutes=0", "trainer.batch_size=4"]

MOMENTS: dict[str, Moment] = {
    "before the sweep is noted": (Sweep, "add", 1),
    "while the sweep is being noted": (os, "fsync", 1),
    "before the first job": (Job, "begin", 1),
    "while the first job is being noted": (os, "fsync", 2),
    "before the first checkpoint": (Fit, "save", 1),
    "in the first step": (Fit, "_optimize", 1),
    "within an epoch of the second job": (Fit, "_optimize", 17),
    "while a checkpoint is being written": (os, "fsync", 9),
    "during the second validation": (Metrics, "update", 2),
    "before the errors are told": (report, "as_dict", 1),
    "between the end of a job and its record": (Job, "finish", 2),
    "between two jobs": (told, "ended", 1),
    "before the second job": (Surviving, "_launched", 2),
    "after the last job": (told, "ended", 2),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    whole = swept(folder / "whole", *JOBS)
    assert whole.status == 0 and "sweep: 2 of 2 done" in whole.said
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_sweep_ends_bit_for_bit_the_same(uninterrupted, moment):
    folder = uninterrupted / moment.replace(" ", "_")
    killed = swept(folder, *JOBS, at=MOMENTS[moment])
    assert killed.status == -signal.SIGKILL, "it was over before"
    again = swept(folder, *JOBS)
    assert again.status == 0, again.said
    assert_same(folder, uninterrupted / "whole")


def test_a_sweep_may_be_killed_again_and_again(uninterrupted):
    """Each life is a little longer than the one before."""
    folder = uninterrupted / "often"
    for step in (1, 5, 9, 14, 20):
        swept(folder, *JOBS, at=(Fit, "_optimize", step))
    swept(folder, *JOBS)
    assert_same(folder, uninterrupted / "whole")
    assert max(records.read(path.parent).attempts for path in folder.glob("sweep/*/job.json")) > 2


def assert_same(folder: Path, other: Path) -> None:
    found, expected = results(folder), results(other)
    assert list(found) == list(expected)
    for name, job in expected.items():
        for part, value in job.items():
            assert same(found[name][part], value), (name, part)
