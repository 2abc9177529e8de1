"""What the report reads of a sweep: every job once, in its state, whatever became of it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock

from pesloss.report.sweep import ErrorName, compare, read_sweep, settings_of
from pesloss.sweeps.settings import is_seed
from tests.report import made

FORCES = "val/forces/mae_component [meV/Å]"


def states(folder) -> list[str]:
    return [job.state for job in read_sweep(folder).jobs]


def test_every_planned_job_is_there_in_its_state(tmp_path):
    sweep = read_sweep(made.sweep(tmp_path / "s"))
    assert len(sweep.jobs) == 36 and sum(sweep.counts.values()) == 36
    # nobody holds the lock of the one that says it runs: it was killed
    expected = {"finished": 31, "dropped": 1, "running": 0, "interrupted": 2, "failed": 1, "not begun": 1}
    assert sweep.counts == expected
    assert sweep.keys == list(made.KEYS)
    assert sweep.command == list(made.COMMAND)


def test_a_job_runs_while_its_lock_is_held(tmp_path):
    folder = made.sweep(tmp_path / "s", {"seed": made.SEEDS}, ends={0: "running", 1: "running"})
    (folder / "job-0001" / ".lock").touch()
    with FileLock(folder / "job-0000" / ".lock"):
        assert states(folder) == ["running", "interrupted", "finished"]
    assert states(folder) == ["interrupted", "interrupted", "finished"]


def test_jobs_are_found_without_the_list_of_the_sweep(tmp_path):
    folder = made.sweep(tmp_path / "s")
    (folder / "sweep.json").unlink()
    assert len(read_sweep(folder).jobs) == 35  # all that have begun


def test_a_damaged_record_is_a_failure(tmp_path):
    folder = made.sweep(tmp_path / "s", {"seed": made.SEEDS}, ends={})
    (folder / "job-0000" / "job.json").write_text("{")
    first, *others = read_sweep(folder).jobs
    assert first.state == "failed" and "job.json" in first.error and first.swept == {"seed": 1}
    assert {job.state for job in others} == {"finished"}


def test_no_sweep_is_an_error_that_says_what_one_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no sweep in .*neither a sweep\.json"):
        read_sweep(tmp_path)


def test_half_a_row_of_a_curve_is_left_out(tmp_path):
    folder = made.sweep(tmp_path / "s", {"seed": made.SEEDS}, ends={}, epochs=5)
    with (folder / "job-0000" / "epochs.csv").open("a") as file:
        file.write("48,6,1.2")
    first, second, _ = (job.curves() for job in read_sweep(folder).jobs)
    assert first["epoch"] == second["epoch"] == [1, 2, 3, 4, 5]
    (folder / "job-0002" / "epochs.csv").unlink()
    assert read_sweep(folder).jobs[2].curves() == {}


def test_means_and_spreads_are_those_of_numpy(tmp_path):
    sweep = read_sweep(made.sweep(tmp_path / "s"))
    for setting in settings_of(sweep)[:9]:
        values = np.array([job.errors[FORCES] for job in setting.jobs])
        mean = setting.mean(FORCES)
        assert mean is not None and mean.num == len(values) == 3
        np.testing.assert_allclose([mean.value, mean.spread], [values.mean(), values.std(ddof=1)], rtol=1e-13)


def test_settings_are_jobs_that_differ_in_seeds_alone(tmp_path):
    keys = {"a": (1, 2), "b.seed": (1, 2), "init_seed": (1, 2), "seed": (1, 2)}
    settings = settings_of(read_sweep(made.sweep(tmp_path / "s", keys, ends={})))
    assert [setting.values for setting in settings] == [{"a": 1}, {"a": 2}]
    assert [len(setting.jobs) for setting in settings] == [8, 8]
    assert not is_seed("seeds") and not is_seed("seed.other")


def test_only_finished_seeds_count(tmp_path):
    ends = {0: "failed", 1: "dropped", 3: "dropped", 4: "interrupted", 5: "not begun"}
    folder = made.sweep(tmp_path / "s", {"a": (1, 2), "seed": made.SEEDS}, ends=ends)
    finished, dropped = settings_of(read_sweep(folder))
    assert [job.state for job in finished.counted] == ["finished"]
    assert dropped.is_dropped and [job.state for job in dropped.counted] == ["dropped"]
    comparison = compare(read_sweep(folder))
    assert [member.values for member in comparison.front] == [finished.values]
    assert comparison.mean(dropped, ErrorName.of(FORCES)) is None


def test_reading_needs_no_torch(tmp_path):
    made.sweep(tmp_path / "s")
    code = (
        "import sys; from pathlib import Path; from pesloss.report.sweep import compare, read_sweep\n"
        "from pesloss.report.sweep.files import write; import pesloss.report.sweep.terminal\n"
        f"folder = Path({str(tmp_path / 's')!r}); write(compare(read_sweep(folder)), folder)\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_not_a_number_is_no_mean(tmp_path):
    folder = made.sweep(tmp_path / "s", {"a": (1, 2), "seed": (1, 2)}, ends={})
    path = folder / "job-0000" / "job.json"
    record = json.loads(path.read_text())
    record["result"]["metrics"][FORCES] = float("nan")
    path.write_text(json.dumps(record))
    first, _ = settings_of(read_sweep(folder))
    mean = first.mean(FORCES)
    assert mean is not None and (mean.num, mean.spread) == (1, None)
