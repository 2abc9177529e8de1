"""Jobs in several processes at once: whatever happens to one of them, the others go on."""

from __future__ import annotations

import pytest

from tests.sweeps.mortal import jobs, swept

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher")
AT_ONCE = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def test_a_killed_worker_takes_no_other_job_with_it(tmp_path):
    """Joblib gives up all its jobs when a worker dies."""
    told = swept(tmp_path, *AT_ONCE, "seed=0,1,2,3", _0="killed once", _1="killed", _2="raises")
    assert told.returncode == 1, told.stderr
    once, twice, failed, untouched = jobs(tmp_path)
    assert once.state == untouched.state == "finished" and once.attempts > 1
    assert twice.error == {"type": "ChildProcessError", "message": "Its process was killed."}
    assert failed.error == {"type": "RuntimeError", "message": "The machine is on fire."}
    assert "Its process was killed." in told.stdout and "Traceback" not in told.stderr

    told = swept(tmp_path, *AT_ONCE, "seed=0,1,2,3")
    assert told.returncode == 0, told.stderr
    again = jobs(tmp_path)
    assert {job.state for job in again} == {"finished"} and again[3].attempts == untouched.attempts
