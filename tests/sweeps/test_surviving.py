"""The same command goes on with its sweep: what is done stays as it is, and one failure ends one job."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from pesloss.report.sweep.reading import read_sweep
from pesloss.sweeps import surviving
from pesloss.sweeps.composing import Remembering
from pesloss.sweeps.job import check_objective, objective, with_objective
from pesloss.sweeps.records import Sweep, read
from pesloss.sweeps.running import Job
from pesloss.sweeps.surviving import JobError, Session, Surviving, surviving_sweeps
from pesloss.training import Fit
from tests.sweeps.forked import Sweeping, jobs, results, swept
from tests.trainings import same

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

WEIGHTS = "loss.weights.forces=1,10"
ONE, TEN = "loss.weights.forces=1", "loss.weights.forces=10"


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file of a folder was changed, and what it holds."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def folder_of(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"sweep/{name}-*")
    return found


def fail(*_: object) -> None:
    raise RuntimeError("The machine is on fire.")


LINE = (
    r"sweep: 2 of 4 done; loss\.weights\.forces=1 seed=1: forces/mae_component [\d.]+ meV/Å in [\d.]+ s; "
    r"best [\d.]+ meV/Å by loss\.weights\.forces=1 seed=[01]; \d+:\d\d left\n"
)
FIRST_STEP = (Fit, "_optimize", 1)


# --- the same command again


@needs_fork
def test_what_is_done_is_not_touched_and_what_is_new_is_trained(tmp_path):
    """In whatever order the command names the keys; a key may get more values."""
    first = swept(tmp_path, WEIGHTS, "seed=0,1")
    assert first.status == 0 and re.search(LINE, first.said), first.said
    before = {name: stamps(folder_of(tmp_path, name)) for name in jobs(tmp_path)}
    assert len(before) == 4 and f"{ONE},seed=0" in before
    again = swept(tmp_path, "seed=1,0", "logger=csv", "trainer.threads=2", "loss.weights.forces=10,1")
    assert again.status == 0 and "sweep: 4 jobs, 4 done, 0 to do, in sweep" in again.said
    more = swept(tmp_path, "loss.weights.forces=1,10,100", "seed=0,1")
    assert more.status == 0 and "sweep: 6 jobs, 4 done, 2 to do" in more.said
    assert len(jobs(tmp_path)) == 6
    for name, files in before.items():
        assert stamps(folder_of(tmp_path, name)) == files


@needs_fork
def test_a_key_that_begins_to_vary_leaves_what_is_done(tmp_path):
    """A job is known by its config, whatever its folder is called; the table knows the value it has."""
    swept(tmp_path, "seed=0,1")
    before = {name: stamps(folder_of(tmp_path, name)) for name in jobs(tmp_path)}
    more = swept(tmp_path, "seed=0,1", "trainer.batch_size=8,4")
    assert more.status == 0 and "sweep: 4 jobs, 2 done, 2 to do" in more.said
    for name, files in before.items():
        assert stamps(folder_of(tmp_path, name)) == files
    found = {tuple(job.swept.items()) for job in read_sweep(tmp_path / "sweep").jobs}
    assert found == {(("trainer.batch_size", b), ("seed", s)) for s in (0, 1) for b in (8, 4)}


@needs_fork
def test_what_changes_no_number_may_vary(tmp_path):
    """Jobs of one config are as many jobs as there are values."""
    swept(tmp_path, "trainer.threads=1,2")
    assert "sweep: 3 jobs, 2 done, 1 to do" in swept(tmp_path, "trainer.threads=1,2,3").said
    assert [job.swept for job in jobs(tmp_path).values()] == [{"trainer.threads": n} for n in (1, 2, 3)]


@needs_fork
def test_a_changed_setting_is_another_job(tmp_path):
    swept(tmp_path, "seed=0,1")
    before = stamps(tmp_path / "sweep")
    assert "2 jobs, 0 done" in swept(tmp_path, "seed=0,1", "model.cutoff=4.5").said
    folders = {path.parent.name for path in tmp_path.glob("sweep/*/job.json")}
    assert len(folders) == 4 and len({name.partition("-")[0] for name in folders}) == 2
    after = stamps(tmp_path / "sweep")
    assert all(after[path] == before[path] for path in before if path.endswith(".ckpt"))


@needs_fork
def test_changed_data_are_said(tmp_path):
    swept(tmp_path, "seed=0,1")
    before = stamps(tmp_path / "sweep")
    os.utime(tmp_path / "data.xyz", ns=(1, 1))
    said = swept(tmp_path, "seed=0,1").said
    assert f"seed=0 was trained on other data: {tmp_path / 'data.xyz'} changed since." in said
    assert {name for name, file in stamps(tmp_path / "sweep").items() if file != before.get(name)} <= {
        str(tmp_path / "sweep" / name) for name in ("sweep.json", "multirun.yaml")
    }


@needs_fork
def test_two_processes_share_a_sweep_and_do_nothing_twice(tmp_path):
    seeds = "seed=0,1,2,3"
    first, second = Sweeping(tmp_path, seeds), Sweeping(tmp_path, seeds)
    assert first.wait().status == second.wait().status == 0
    records = jobs(tmp_path).values()
    assert [(record.state, record.attempts) for record in records] == [("finished", 1)] * 4
    assert len({record.process["pid"] for record in records}) == 2


# --- failures


@needs_fork
def test_a_failure_is_shown_at_once_and_ends_one_job(tmp_path):
    ended = swept(tmp_path, "trainer.batch_size=0,8", "optimizer.lr=1e-3,1e300", "scheduler=constant")
    assert ended.status == 1
    records = jobs(tmp_path)
    states = {(r.swept["trainer.batch_size"], r.swept["optimizer.lr"]): r.state for r in records.values()}
    assert states == {
        (0, 1e-3): "failed",
        (0, 1e300): "failed",
        (8, 1e-3): "finished",
        (8, 1e300): "failed",
    }
    shown = ended.said.index("Error in job 0 (")
    sentence = ended.said[shown:].splitlines()[0]
    assert "trainer.batch_size=0 " in sentence and "optimizer.lr=0.001 " in sentence
    assert "batch_size must be a whole number of at least 1, got 0." in sentence
    assert shown < ended.said.index("sweep: 1 of 4 done, 2 failed")
    table = ended.said[ended.said.index("Jobs of the sweep without a result") :]
    assert "optimizer.lr=1e+300" in table and "is not finite" in " ".join(table.split())
    diverged = next(r for r in records.values() if r.swept["optimizer.lr"] == 1e300 and r.attempts)
    assert diverged.error is not None and diverged.result is None


@needs_fork
@pytest.mark.parametrize("wish", [True, False])
def test_what_failed_is_tried_again_if_that_is_wished(tmp_path, wish):
    assert swept(tmp_path, "seed=0,1", at=FIRST_STEP, instead=fail).status == 1
    failed = jobs(tmp_path)["seed=0"]
    assert failed.error == {"type": "RuntimeError", "message": "The machine is on fire."}
    before = stamps(folder_of(tmp_path, "seed=0"))
    again = swept(tmp_path, "seed=0,1", f"sweep.retry_failed={wish}")
    assert again.status == (0 if wish else 1)
    record = jobs(tmp_path)["seed=0"]
    assert (record.state, record.attempts) == (("finished", 2) if wish else ("failed", 1))
    if not wish:
        assert stamps(folder_of(tmp_path, "seed=0")) == before and "The machine is on fire." in again.said


@needs_fork
@pytest.mark.parametrize("batch", [[], ["hydra.sweeper.max_batch_size=1"]], ids=["together", "one by one"])
def test_fail_fast_begins_no_further_job(tmp_path, batch):
    wish = ["seed=0,1,2", "sweep.fail_fast=true", *batch]
    ended = swept(tmp_path, *wish, at=(Fit, "_optimize", 7), instead=fail)
    assert ended.status == 1 and [r.state for r in jobs(tmp_path).values()] == ["finished", "failed"]
    assert "were not begun" in ended.said
    assert swept(tmp_path, *wish).status == 0 and len(jobs(tmp_path)) == 3


@needs_fork
def test_the_next_batch_begins_after_a_failure(tmp_path):
    batches = ["seed=0,1,2", "hydra.sweeper.max_batch_size=1"]
    assert swept(tmp_path, *batches, at=FIRST_STEP, instead=fail).status == 1
    assert [r.state for r in jobs(tmp_path).values()] == ["failed", "finished", "finished"]


@needs_fork
@pytest.mark.parametrize("content", ["", '{"state": "fini', "[1]", '{"state": "done"}', '{"job": "mine"}'])
def test_a_record_that_is_none_is_said_and_the_others_go_on(tmp_path, content):
    swept(tmp_path, "seed=0,1", at=FIRST_STEP, instead=fail)
    path = folder_of(tmp_path, "seed=0") / "job.json"
    path.write_text(content)
    before = stamps(path.parent)
    ended = swept(tmp_path, "seed=0,1")
    assert ended.status == 1 and f"{path} is not the record of a job" in ended.said
    assert stamps(path.parent) == before and "Traceback" not in ended.said
    assert read(folder_of(tmp_path, "seed=1")).state == "finished"


@needs_fork
def test_a_folder_of_another_job_is_not_taken_for_ones_own(tmp_path):
    numbered = "hydra.sweep.subdir=${hydra.job.num}"
    assert swept(tmp_path, "seed=0,1", numbered).status == 0
    before = stamps(tmp_path / "sweep" / "0")
    ended = swept(tmp_path, "seed=1,2", numbered)
    assert ended.status == 1 and "holds a job with another config (" in ended.said
    assert stamps(tmp_path / "sweep" / "0") == before


# --- interruptions


@needs_fork
def test_control_c_saves_the_job_and_the_same_command_goes_on(tmp_path):
    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
        os.kill(os.getpid(), signal.SIGINT)

    ended = swept(tmp_path / "stopped", "seed=0,1", at=(Fit, "_optimize", 2), instead=interrupt)
    assert ended.status == 130 and "The same command goes on with the sweep." in ended.said
    assert [record.state for record in jobs(tmp_path / "stopped").values()] == ["interrupted"]
    assert swept(tmp_path / "stopped", "seed=0,1").status == 0
    swept(tmp_path / "whole", "seed=0,1")
    found, expected = results(tmp_path / "stopped"), results(tmp_path / "whole")
    for name, job in expected.items():
        assert all(same(found[name][part], job[part]) for part in ("best", "last", "steps", "result"))


# --- what a sweeper is told


RESULT = {
    "score": {"name": "forces/mae_component", "value": 21.3, "unit": "meV/Å", "epoch": 2},
    "seconds": 1.0,
    "ended": "all epochs are done",
    "metrics": {
        "val/energy/mae [meV/atom]": 1.2,
        "val/forces/mae_component [meV/Å]": 21.3,
        "val/forces/mae_component/element=C [meV/Å]": 1.0,
        "test/energy/rmse [meV/atom]": 3.0,
        "val/energy/rmse [meV/atom]": float("nan"),
    },
}


def test_the_objective_is_the_score_or_errors_on_the_validation_structures():
    assert objective(RESULT, None) == 21.3 and objective(RESULT, "energy/mae") == 1.2
    assert with_objective(RESULT, ["forces/mae_component", "energy/mae"])["objective"] == [21.3, 1.2]
    with pytest.raises(ValueError, match="energy/rmse on the validation structures is nan"):
        with_objective(RESULT, ["energy/mae", "energy/rmse"])
    with pytest.raises(ValueError, match="did you mean 'energy/mae'"):
        check_objective("energy/mea", ["energy/mae", "forces/rmse_component"])


@needs_fork
def test_an_unknown_objective_fails_before_the_first_step(tmp_path):
    ended = swept(tmp_path, "seed=0", "sweep.objective=[energy/mae,forces/mae]")
    (record,) = jobs(tmp_path).values()
    assert ended.status == 1 and "did you mean 'forces/mae_vector'" in record.error["message"]
    assert not list(tmp_path.glob("sweep/*/steps.csv"))


# --- any launcher


class Scripted(Launcher):
    """Does with each job what its seed says, once for each time it is asked.

    Args:
        acts: by seed, what happens to the job; nothing to a job without any.
    """

    def __init__(self, **acts: list[str]) -> None:
        self.acts, self.launched = acts, []

    def setup(self, **_) -> None:
        pass

    def launch(self, job_overrides, initial_job_idx):
        words = [dict(word.split("=", 1) for word in overrides) for overrides in job_overrides]
        self.launched.append([word["seed"] for word in words])
        return [self._act(word) for word in words]

    def _act(self, word: dict[str, str]) -> JobReturn:
        acts = self.acts.get(f"_{word['seed']}", [])
        act = acts.pop(0) if acts else "finish"
        made = JobReturn(status=JobStatus.COMPLETED)
        if act == "break":
            made.status, made.return_value = JobStatus.FAILED, OSError("No space left on device")
            return made
        if act == "raise":
            raise ConnectionError("The queue is gone.")
        folder = Path(word["hydra.sweep.dir"].strip("'")) / word["hydra.sweep.subdir"].strip("'")
        known = {"overrides": [f"seed={word['seed']}"], "swept": {"seed": int(word["seed"])}}
        job = Job.begin(folder, **known, config=folder.name.rpartition("-")[2], session="")
        assert job is not None
        if act == "die":
            job._lock.release()
            raise ConnectionError("A worker has died.")
        job.finish(RESULT)
        return made


@pytest.fixture
def sweep(tmp_path):
    """Launches jobs by their seeds; what a sweeper would be told."""
    module = initialize_config_module("pesloss.conf", version_base="1.3")
    with module:
        loader = GlobalHydra.instance().config_loader()
        words = [f"hydra.sweep.dir='{tmp_path}/sweep'", "hydra.mode=MULTIRUN"]
        config = compose("train", words, return_hydra_config=True)
        OmegaConf.set_struct(config, False)
        config.hydra.overrides.hydra = words
        config.hydra.job.config_name = "train"
        remembering = Remembering(loader)

        def launch(launcher, *seeds: int, sweeper: str = "hydra_plugins.other"):
            config.hydra.sweeper._target_ = sweeper
            config.hydra.launcher._target_ = "hydra_plugins.scripted"
            session = Session(["a", "command"])
            made = Surviving(launcher, remembering, config, session)
            return session, made.launch([[f"seed={seed}"] for seed in seeds], 0)

        yield launch


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(surviving, "WAITED", 0.01)


def test_results_come_from_the_records(sweep):
    launcher = Scripted()
    session, returns = sweep(launcher, 0, 1, 0)
    assert launcher.launched == [["0", "1"]], "a job that is asked for twice is launched once"
    assert [made.return_value for made in returns] == [21.3] * 3 and session.conclude() == 0
    assert [made.return_value for made in sweep(launcher, 1, 0)[1]] == [21.3] * 2
    assert len(launcher.launched) == 1


def test_a_job_that_could_not_begin_has_failed(sweep):
    session, returns = sweep(Scripted(_1=["break"]), 0, 1)
    assert returns[0].return_value == 21.3 and returns[1].status == JobStatus.FAILED
    with pytest.raises(JobError, match="No space left on device"):
        raise returns[1]._return_value
    assert session.conclude() == 1


def test_what_dies_is_launched_alone_and_what_never_began_again(sweep):
    launcher = Scripted(_1=["die"], _3=["die"])
    _, returns = sweep(launcher, 0, 1, 2, 3)
    assert [made.return_value for made in returns] == [21.3] * 4
    assert launcher.launched == [["0", "1", "2", "3"], ["1"], ["2", "3"], ["3"]]


def test_what_dies_twice_has_failed(sweep):
    session, returns = sweep(Scripted(_0=["die", "die"]), 0, 1)
    with pytest.raises(JobError, match=r"Its process was killed\."):
        raise returns[0]._return_value
    assert returns[1].return_value == 21.3 and session.conclude() == 1


def test_a_launcher_that_begins_nothing_says_why(sweep):
    with pytest.raises(ConnectionError, match="The queue is gone"):
        sweep(Scripted(_0=["raise"], _1=["raise"]), 0, 1)


def test_hydras_own_sweeper_goes_on_after_a_failure(sweep):
    """It would stop at the first that it is told of."""
    _, returns = sweep(Scripted(_0=["break"]), 0, 1, sweeper=surviving.BASIC_SWEEPER)
    assert [made.return_value for made in returns] == [None, 21.3]


def test_hydra_makes_launchers_and_sweepers_where_we_look():
    launcher, sweeper = Plugins.instantiate_launcher, Plugins.instantiate_sweeper
    names = ["self", "hydra_context", "task_function", "config"]
    assert (
        list(inspect.signature(launcher).parameters) == list(inspect.signature(sweeper).parameters) == names
    )
    with surviving_sweeps(["a", "command"]):
        assert launcher not in (Plugins.instantiate_launcher, Plugins.instantiate_sweeper)
        for ours, theirs in (
            (Plugins.instantiate_launcher, launcher),
            (Plugins.instantiate_sweeper, sweeper),
        ):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert (launcher, sweeper) == (Plugins.instantiate_launcher, Plugins.instantiate_sweeper)


def test_the_command_is_noted(tmp_path):
    Sweep(tmp_path).add([], command=["pesloss-train", "-m", "seed=0,1"], session="a")
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["command"] == ["pesloss-train", "-m", "seed=0,1"] and content["jobs"] == []


def test_a_job_whose_time_is_over_goes_on(tmp_path):
    ended = swept(tmp_path, "seed=0,1", "trainer.max_time=0.001")
    assert ended.status == 1
    assert {job.state for job in jobs(tmp_path).values()} == {"interrupted"}
    ended = swept(tmp_path, "seed=0,1")
    assert ended.status == 0 and {job.attempts for job in jobs(tmp_path).values()} == {2}
