"""The record of a job is whole or the one before it, and a folder belongs to one process at a time."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict

import pytest

from pesloss.sweeps import records, running
from pesloss.sweeps.records import (
    Planned,
    RecordError,
    Sweep,
    changed_files,
    file_stamps,
    of_config,
    read,
)
from pesloss.sweeps.running import Job, is_running

ABOUT = {"overrides": ["seed=1"], "swept": {"seed": 1}, "config": "1a2b3c4d", "session": "s"}
RESULT = {
    "score": {"name": "forces/mae_component", "value": 21.3, "unit": "meV/Å", "epoch": 2},
    "objective": 21.3,
    "seconds": 1.5,
    "ended": "all epochs are done",
    "metrics": {"val/forces/mae_component [meV/Å]": 21.3},
}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(running, "SHORTLY", 0.01)
    monkeypatch.setattr(running, "LONGER", 0.01)


def begun(folder) -> Job:
    job = Job.begin(folder, **ABOUT)
    assert job is not None
    return job


def test_a_job_from_its_beginning_to_its_result(tmp_path):
    assert read(tmp_path) is None and not is_running(tmp_path)
    job = begun(tmp_path)
    assert read(tmp_path).state == "running" and is_running(tmp_path)
    job.progress(1, 2)
    assert read(tmp_path).epochs == [1, 2]
    data = tmp_path / "my.xyz"
    data.write_text("1")
    job.finish({**RESULT, "files": file_stamps([data, tmp_path / "none.xyz"])})
    record = read(tmp_path)
    assert record.result == RESULT and record.state == "finished" and not is_running(tmp_path)
    assert record.epochs == [1, 2] and record.process["pid"] == os.getpid() and changed_files(record) == []
    data.write_text("12")
    assert changed_files(record) == [str(data)]
    assert json.loads((tmp_path / "job.json").read_text()) == json.loads(json.dumps(asdict(record)))


def test_a_job_belongs_to_one_process_and_ends_once(tmp_path):
    job = begun(tmp_path)
    assert Job.begin(tmp_path, **ABOUT) is None
    job.finish(RESULT)
    before = (tmp_path / "job.json").read_bytes()
    assert Job.begin(tmp_path, **ABOUT) is None
    assert (tmp_path / "job.json").read_bytes() == before


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted"), (SystemExit(3), "failed")],
)
def test_what_ends_a_job_is_recorded_and_it_may_begin_again(tmp_path, error, state):
    with pytest.raises(type(error)), begun(tmp_path):
        raise error
    record = read(tmp_path)
    assert record.state == state and record.ended is not None and not is_running(tmp_path)
    assert begun(tmp_path).record.attempts == 2


@pytest.mark.parametrize("end", ["finish", "drop"])
def test_results_of_what_was_dropped_are_kept(tmp_path, end):
    getattr(begun(tmp_path), end)(RESULT)
    assert read(tmp_path).has_ended and read(tmp_path).result == RESULT


def test_an_error_is_told_in_a_sentence(tmp_path):
    begun(tmp_path).fail(FileNotFoundError(2, "No such file or directory", "my.xyz"))
    assert read(tmp_path).error == {
        "type": "FileNotFoundError",
        "message": "No such file or directory: 'my.xyz'.",
    }


def test_a_dead_process_holds_no_lock(tmp_path):
    code = (
        "import os, pathlib, sys; from pesloss.sweeps.running import Job; "
        f"Job.begin(pathlib.Path(sys.argv[1]), **{ABOUT!r}); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert read(tmp_path).state == "running" and not is_running(tmp_path)
    assert begun(tmp_path).record.attempts == 2


def test_where_files_cannot_be_locked_the_process_itself_is_looked_for(tmp_path, monkeypatch):
    def refuse(*_, **__) -> None:
        raise NotImplementedError

    monkeypatch.setattr(running.FileLock, "acquire", refuse)
    job = begun(tmp_path)
    (tmp_path / ".lock").touch()
    assert is_running(tmp_path)
    gone = records.replace(job.record, process={**job.record.process, "pid": 2**22 + 1})
    records.write(tmp_path / records.RECORD, records.asdict(gone))
    assert not is_running(tmp_path)
    job.finish(RESULT)
    assert read(tmp_path).state == "finished"


def test_progress_may_be_told_by_another_process(tmp_path):
    """Of the processes that train together, another one may be the first."""
    job = begun(tmp_path)
    pickle.loads(pickle.dumps(job)).progress(2, 2)
    job.finish(RESULT)
    assert read(tmp_path).epochs == [2, 2]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '{"state": "finished"}',
        '{"state": "done", "overrides": [], "swept": {}, "config": ""}',
        '{"state": "finished", "overrides": [], "swept": {}, "config": ""}',
        '{"state": "finished", "overrides": [], "swept": {}, "config": "", "result": {"score": 1}}',
        '{"state": "failed", "overrides": "seed=1", "swept": {}, "config": ""}',
        "[" * 10000,
    ],
)
def test_what_is_no_record_is_said_in_a_sentence(tmp_path, content):
    (tmp_path / "job.json").write_text(content)
    with pytest.raises(RecordError, match=r"job\.json is not the record of a job that pesloss writes \("):
        read(tmp_path)
    with pytest.raises(RecordError):
        Job.begin(tmp_path, **ABOUT)
    assert (tmp_path / "job.json").read_text() == content and not is_running(tmp_path)


def test_a_record_of_a_later_version_may_say_more(tmp_path):
    begun(tmp_path).finish(RESULT)
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "green"}))
    assert read(tmp_path).result == RESULT


def test_a_job_with_another_config_is_refused(tmp_path):
    begun(tmp_path).finish(RESULT)
    with pytest.raises(RecordError, match=r"holds a job with another config \(seed=1\)"):
        of_config(tmp_path, "another")


def test_more_may_vary_when_a_job_is_asked_for_again(tmp_path):
    sweep = Sweep(tmp_path)
    for swept in ({"seed": 1}, {"model": "painn"}):
        sweep.add([Planned("job", [], swept)], command=[], session="")
    assert sweep.jobs() == [Planned("job", [], {"model": "painn", "seed": 1})]
    assert sweep.by_config() == {}
    begun(tmp_path / "job")
    assert sweep.by_config() == {ABOUT["config"]: sweep.jobs()}


def test_a_sweep_keeps_its_jobs_and_knows_which_were_asked_for_last(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    assert sweep.jobs() == [] and sweep.session == ""
    first, second = (Planned(f"seed={n}", [f"seed={n}"], {"seed": n}, "a") for n in (1, 2))
    sweep.add([first, second], command=["pesloss-train"], session="a")
    again = Planned("seed=2", ["seed=2"], {"seed": 2}, "b")
    sweep.add([again], command=["pesloss-train"], session="b")
    assert sweep.jobs() == [first, again] and sweep.jobs("b") == [again] and sweep.session == "b"
    with pytest.raises(ValueError, match="no"), begun(sweep.folder / "seed=2"):
        raise ValueError("no")
    assert sweep.has_failed("s") is False and isinstance(sweep.record(again), records.Record)
    (sweep.folder / "sweep.json").write_text("{")
    assert sweep.jobs() == []
    sweep.add([again], command=["pesloss-train"], session="b")
    assert sweep.jobs() == [again]
