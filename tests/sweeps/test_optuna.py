"""A study by Optuna survives failed trials and dead processes, alone and with the app."""

from __future__ import annotations

import importlib.metadata
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import OmegaConf

from pesloss.building import BuildError
from pesloss.safety.hydra_targets import check
from pesloss.sweeps.sweepers import surviving
from tests.sweeps import mortal

optuna = pytest.importorskip("optuna", reason="needs hydra-optuna-sweeper")
pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
pytestmark = pytest.mark.filterwarnings("ignore", "ignore:.*SQLAlchemy")

WEIGHT = "loss.weights.forces=interval(0.1, 10)"
stored = pytest.mark.skipif(
    not importlib.metadata.version("sqlalchemy").startswith("1."), reason="Optuna 2 needs SQLAlchemy<2"
)


class Killed(BaseException):
    pass


class Answering(Launcher):
    """Answers each job by a function of the number that is swept, and remembers what it was asked.

    Args:
        answer: to the number of a job.
        lives: jobs until the process dies.
    """

    def __init__(self, answer, lives: int = 1000) -> None:
        self.answer, self.lives, self.asked = answer, lives, []

    def setup(self, **_) -> None:
        pass

    def launch(self, job_overrides, initial_job_idx):
        return [self._done(float(overrides[0].partition("=")[2])) for overrides in job_overrides]

    def _done(self, number: float) -> JobReturn:
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        self.asked.append(number)
        done = JobReturn(status=JobStatus.COMPLETED)
        try:
            done.return_value = self.answer(number)
        except RuntimeError as error:
            done.status, done.return_value = JobStatus.FAILED, error
        return done


def config(folder: Path, *overrides: str):
    given = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=6",
        "hydra.mode=MULTIRUN",
        f"hydra.sweep.dir={folder}",
        *overrides,
    ]
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        return compose("train", given, return_hydra_config=True)


def swept(folder: Path, launcher: Answering, *overrides: str, space: str = WEIGHT) -> list[float]:
    """What a study asks for, until it is over or killed."""

    def make(composed):
        plugin = Plugins.instance().instantiate_sweeper(
            hydra_context=HydraContext(config_loader=None, callbacks=None),
            task_function=lambda _: None,
            config=composed,
        )
        plugin.sweeper.launcher = launcher
        return plugin

    folder.mkdir(exist_ok=True)
    with suppress(Killed):
        surviving(make, config(folder, *overrides)).sweep([space])
    return launcher.asked


def square(number: float) -> float:
    return (number - 3) ** 2


def failing(number: float) -> float:
    raise RuntimeError("It diverged.")


def failing_above(limit: float):
    return lambda number: failing(number) if number > limit else square(number)


def results(folder: Path):
    return OmegaConf.load(folder / "optimization_results.yaml")


# --- trials that fail


def test_a_failed_trial_ends_only_itself(tmp_path):
    asked = swept(tmp_path, Answering(failing_above(5)))
    assert len(asked) == 6 and 0 < sum(number > 5 for number in asked) < 6
    assert results(tmp_path).best_value == min(square(number) for number in asked if number <= 5)


@pytest.mark.parametrize("said", ["sweep.fail_fast=true", "hydra.sweeper.max_failure_rate=0"])
def test_the_first_failure_ends_the_study_on_request(tmp_path, said):
    launcher = Answering(failing)
    with pytest.raises(RuntimeError, match="It diverged"):
        swept(tmp_path, launcher, said, "hydra.sweeper.n_jobs=1")
    assert len(launcher.asked) == 1


def test_a_study_without_any_result_ends_without_a_best_trial(tmp_path, caplog):
    assert len(swept(tmp_path, Answering(failing))) == 6
    assert "No trial has an objective" in caplog.text


def test_a_front_of_nothing_is_empty(tmp_path):
    two = ["hydra.sweeper.direction=[minimize,minimize]", "sweep.objective=[energy/mae,forces/mae_component]"]
    swept(tmp_path, Answering(failing), *two)
    assert results(tmp_path).solutions == []


# --- objectives


def test_several_objectives_give_a_front(tmp_path):
    two = ["hydra.sweeper.direction=[minimize,minimize]", "sweep.objective=[energy/mae,forces/mae_component]"]
    asked = swept(tmp_path, Answering(lambda number: [number, 1 / number]), *two)
    assert sorted(one["values"][0] for one in results(tmp_path).solutions) == sorted(asked)


@pytest.mark.parametrize(
    "given",
    [
        ["hydra.sweeper.direction=[minimize,minimize]"],
        ["sweep.objective=[energy/mae,forces/mae_component]"],
        ["sweep.objective=[energy/mae]"],
        ["hydra.sweeper.direction=[minimize]", "sweep.objective=[energy/mae,forces/mae_component]"],
    ],
)
def test_as_many_directions_as_objectives(tmp_path, given):
    launcher = Answering(square)
    with pytest.raises(ValueError, match="Give as many of one as of the other"):
        swept(tmp_path, launcher, *given)
    assert not launcher.asked


# --- the same command again


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_command_suggests_the_same_trials(tmp_path, sampler):
    given = [f"hydra/sweeper/sampler={sampler}", "hydra.sweeper.n_trials=14"]
    whole = swept(tmp_path, Answering(square), *given)
    assert swept(tmp_path, Answering(square, lives=12), *given) == whole[:12]
    assert swept(tmp_path, Answering(square), *given) == whole
    assert swept(tmp_path, Answering(square), *given, "seed=1") != whole


DATABASE = "hydra.sweeper.storage='sqlite:///{}/study.db'"


@stored
@pytest.mark.parametrize("lives", [0, 1, 4, 6])
def test_a_stored_study_gets_what_is_missing(tmp_path, lives):
    storage = DATABASE.format(tmp_path)
    first = swept(tmp_path / "sweep", Answering(square, lives), storage)
    second = swept(tmp_path / "sweep", Answering(square), storage)
    batches = lives - lives % 2  # the first of two may have been answered and not been told
    assert second[: lives % 2] == first[batches:]
    assert len(second) == 6 - batches and len({*first, *second}) == 6
    assert swept(tmp_path / "sweep", Answering(square), storage) == []
    assert results(tmp_path / "sweep").best_value == min(map(square, {*first, *second}))
    assert len(swept(tmp_path / "sweep", Answering(square), storage, "hydra.sweeper.n_trials=8")) == 2


@stored
def test_a_trial_that_was_killed_is_the_next(tmp_path):
    given = [DATABASE.format(tmp_path), "hydra.sweeper.n_jobs=1"]
    asked = swept(tmp_path / "sweep", Answering(square), *given)
    other = [DATABASE.format(tmp_path), "hydra.sweeper.n_jobs=1", "hydra.sweeper.study_name=other"]
    assert swept(tmp_path / "sweep", Answering(square, lives=3), *other) == asked[:3]
    assert swept(tmp_path / "sweep", Answering(square), *other)[0] == asked[3]


@stored
@pytest.mark.parametrize("retry", [True, False])
def test_failed_trials_of_a_stored_study_are_tried_again(tmp_path, retry):
    given = [DATABASE.format(tmp_path), f"sweep.retry_failed={retry}"]
    failed = {number for number in swept(tmp_path, Answering(failing_above(5)), *given) if number > 5}
    again = swept(tmp_path, Answering(square), *given)
    assert failed and set(again) == (failed if retry else set())
    assert swept(tmp_path, Answering(square), *given) == []


@stored
def test_a_study_that_another_process_works_at_is_shared(tmp_path):
    """Its trials are left to it, and each process asks for what is missing."""
    given = [DATABASE.format(tmp_path), "hydra.sweeper.n_jobs=1"]
    shared: list[float] = []

    def start_another(number: float) -> float:
        if not shared:
            shared.append(number)
            shared.extend(swept(tmp_path, Answering(square), *given))
        return square(number)

    swept(tmp_path, Answering(start_another, lives=1), *given)
    assert len(set(shared)) == len(shared) == 6


@stored
def test_trials_of_another_sweep_are_left_to_it(tmp_path):
    given = [DATABASE.format(tmp_path), "hydra.sweeper.study_name=common", "hydra.sweeper.n_jobs=1"]
    swept(tmp_path / "a", Answering(square, lives=2), *given)
    assert len(swept(tmp_path / "b", Answering(square), *given)) == 3


@stored
@pytest.mark.parametrize("other", ["loss.weights.forces=choice(1, 10)", "loss.weights.forces=range(1, 10)"])
def test_another_search_space_needs_another_study(tmp_path, other):
    swept(tmp_path, Answering(square), DATABASE.format(tmp_path), space="loss.weights.forces=choice(1, 2)")
    with pytest.raises(ValueError, match="began with another search space or other directions"):
        swept(tmp_path, Answering(square), DATABASE.format(tmp_path), "hydra.sweeper.n_trials=8", space=other)


@stored
def test_a_grid_is_not_stored(tmp_path):
    with pytest.raises(ValueError, match="leave hydra/sweeper=optuna out"):
        swept(tmp_path, Answering(square), DATABASE.format(tmp_path), "hydra/sweeper/sampler=grid")


def test_a_database_that_optuna_cannot_use_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.1.9")
    with pytest.raises(ImportError, match=r"SQLAlchemy<2, as Optuna 2 does, and 2\.1\.9 is"):
        swept(tmp_path, Answering(square), DATABASE.format(tmp_path))


def test_a_config_names_no_function_to_call(tmp_path):
    space = "hydra.sweeper.custom_search_space=subprocess.run"
    with pytest.raises(BuildError, match=r"custom_search_space: target 'subprocess\.run' is not allowed"):
        check(config(tmp_path, space))
    check(config(tmp_path, space), [space])  # typed on the command line
    check(config(tmp_path))


# --- with the app

STUDY = [
    "hydra/sweeper=optuna",
    "hydra.sweeper.n_trials=3",
    "hydra.sweeper.n_jobs=1",
    "loss.weights.forces=tag(log, interval(0.1, 100))",
]


def result_of(folder: Path):
    (path,) = folder.glob("multirun/*/optimization_results.yaml")
    return OmegaConf.load(path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """A study whose first command had trials without a result."""
    folder = tmp_path_factory.mktemp("study")
    told = mortal.swept(folder, *STUDY, _0="raises", _1="nan")
    assert told.returncode == 1, told.stderr
    assert [job.state for job in mortal.jobs(folder)] == ["failed", "failed", "finished"]
    assert "The machine is on fire." in told.stdout and "is nan, at its best epoch" in told.stdout
    assert result_of(folder).best_value == mortal.jobs(folder)[2].result["objective"]
    told = mortal.swept(folder, *STUDY)
    assert told.returncode == 0, told.stderr
    assert {job.state for job in mortal.jobs(folder)} == {"finished"}
    return folder


def test_a_killed_study_ends_as_if_nothing_had_happened(tmp_path, uninterrupted):
    assert mortal.swept(tmp_path, *STUDY, _1="killed").returncode == -signal.SIGKILL
    assert mortal.swept(tmp_path, *STUDY).returncode == 0
    assert [job.attempts for job in mortal.jobs(tmp_path)] == [1, 2, 1]
    objectives = [[job.result["objective"] for job in mortal.jobs(at)] for at in (tmp_path, uninterrupted)]
    assert objectives[0] == objectives[1] and result_of(tmp_path) == result_of(uninterrupted)


@stored
def test_a_killed_study_goes_on_from_its_database(tmp_path):
    storage = "hydra.sweeper.storage=sqlite:///study.db"
    assert mortal.swept(tmp_path, *STUDY, storage, _1="killed").returncode == -signal.SIGKILL
    assert mortal.swept(tmp_path, *STUDY, storage).returncode == 0
    assert [job.attempts for job in mortal.jobs(tmp_path)] == [1, 2, 1]
    study = optuna.load_study(None, f"sqlite:///{tmp_path}/study.db")
    assert [trial.value for trial in study.trials] == [j.result["objective"] for j in mortal.jobs(tmp_path)]


def test_a_front_of_energy_and_forces(tmp_path):
    names = "sweep.objective=[energy/mae,forces/mae_component]"
    two = ["hydra.sweeper.direction=[minimize,minimize]", names, "hydra/sweeper/sampler=nsgaii"]
    told = mortal.swept(tmp_path, *STUDY, "hydra.sweeper.n_trials=2", *two)
    assert told.returncode == 0, told.stderr
    found = [job.result["objective"] for job in mortal.jobs(tmp_path)]
    for solution in result_of(tmp_path).solutions:
        assert solution["values"] in found


def test_a_study_of_failures_ends_in_their_table(tmp_path):
    told = mortal.swept(tmp_path, *STUDY, "hydra.sweeper.n_trials=1", _0="raises")
    assert told.returncode == 1 and "The machine is on fire." in told.stdout
    assert "No trial has an objective" in told.stdout and "No trials are completed" not in told.stderr
