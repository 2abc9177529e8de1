"""Jobs that train together end as they would alone, but for rounding."""

from __future__ import annotations

import csv
import io
import shlex
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pesloss import checkpoint
from pesloss.sweeps.computing import Compiled, InTurn, Stacked
from pesloss.sweeps.together import Together
from pesloss.training import Fit, NonFiniteError
from pesloss.training.console import Watch
from pesloss.training.stops import Signals
from tests.fragile import TARGET
from tests.test_potential import keep_machine_code
from tests.trainings import EVERYTHING, prepared, trained

FACTORS = "+loss.weighting.factors.forces='{0: 1, 4: 100}'"
JOBS = {
    "weights and deltas": [
        f"loss.weights.forces={w} loss.huber_delta={d}" for w in (0.1, 30) for d in (0.01, 1)
    ],
    "learned weights": ["loss=uncertainty", "loss=uncertainty loss.learning_rate=0.1 loss.weights.forces=2"],
    "first weights": ["seed=1 trainer.shuffle_seed=0", "seed=2 trainer.shuffle_seed=0"],
    "everything": [" ".join([*EVERYTHING, f"optimizer.lr={lr}"]) for lr in (1e-3, 1e-2)],
    "schedules": [f"weighting=schedule {FACTORS} loss.weighting.by={by}" for by in ("step", "epoch")],
    "soft adapt": ["weighting=soft_adapt loss.weighting.frequency=1", "weighting=soft_adapt", "loss=mae"],
    "weights by gradient": ["weighting=conflict_free", "weighting=conflict_free loss.huber_delta=0.3"],
    "optimizers": ["optimizer=adamw", "optimizer=amsgrad", "optimizer=adamw optimizer.weight_decay=0.3"],
    "averages": ["trainer.ema_decay=0.9", "trainer.ema_decay=0.5 trainer.warmup_steps=4"],
    "accumulated roots": [f"loss=rmse trainer.accumulate=2 trainer.clip_norm={c}" for c in (10, 0.1)],
    "lengths": ["trainer.epochs=1", "trainer.epochs=3", "trainer.patience=1 trainer.epochs=3 optimizer.lr=1"],
}
"""By what they differ in; each in words of the command line."""


def together(fits: list[Fit], computing) -> dict[Fit, object]:
    """How each of several trainings ended."""
    ended = {}
    watches = {fit: Watch(fit.trainer.epochs, 1, Console(file=io.StringIO())) for fit in fits}
    for fit in fits:
        fit.loggers.start(fit.folder, fit.about["config"], fit.progress.step)
    with Signals() as signals:
        Together(watches, computing, signals, ended.__setitem__).advance()
    for fit in fits:
        with fit.loggers:
            pass
    return ended


def many(folder: Path, jobs: list[str], *overrides: str) -> list[Fit]:
    """Trainings that are prepared in folders of their own, on the same structures."""
    folder.mkdir(exist_ok=True)
    fits = [prepared(folder / str(i), *overrides, *shlex.split(job)) for i, job in enumerate(jobs)]
    for fit in fits:
        fit.data = fits[0].data
    return fits


def table(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        found = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def assert_alike(folder: Path, other: Path, tolerance: float = 1e-9) -> None:
    """Numbers of every step and epoch, and everything in the checkpoints."""
    for name in ("steps.csv", "epochs.csv"):
        found, expected = table(folder / name), table(other / name)
        assert len(found) == len(expected) and len(found) > 0
        for a, b in zip(found, expected, strict=True):
            assert a == pytest.approx(b, rel=tolerance, abs=1e-10)
    for name in (checkpoint.BEST, checkpoint.LAST):
        a, b = checkpoint.read(folder / name), checkpoint.read(other / name)
        for part in ("model", "weights", "loss"):
            for key, value in b.get(part, {}).items():
                torch.testing.assert_close(a[part][key], value, rtol=tolerance, atol=1e-10)
        assert a["progress"]["best_epoch"] == b["progress"]["best_epoch"]


def stacked() -> Stacked:
    return Stacked(say=pytest.fail)


def check(folder: Path, computing, jobs: list[str], *overrides: str, tolerance: float = 1e-9) -> None:
    """Jobs together are jobs alone."""
    fits = many(folder / "together", jobs, *overrides)
    ended = together(fits, computing)
    for i, (fit, job) in enumerate(zip(fits, jobs, strict=True)):
        _, alone = trained(folder / f"alone{i}", *overrides, *shlex.split(job))
        assert ended[fit].ended == alone.ended
        assert_alike(fit.folder, folder / f"alone{i}", tolerance)


@pytest.mark.parametrize(
    ("jobs", "computing"),
    [*((jobs, stacked) for jobs in JOBS), ("everything", InTurn), ("weights by gradient", InTurn)],
)
def test_jobs_together_are_jobs_one_after_another(tmp_path, jobs, computing):
    check(tmp_path, computing(), JOBS[jobs])


@pytest.mark.parametrize("jobs", ["weights and deltas", "learned weights", "schedules"])
def test_a_hundred_steps_together_are_a_hundred_steps_alone(tmp_path, jobs):
    check(tmp_path, stacked(), JOBS[jobs][:2], "trainer.epochs=34", tolerance=1e-6)
    assert len(table(tmp_path / "together/0/steps.csv")) > 100


def compiled_together(folder: Path) -> None:
    check(folder, Compiled("aot_eager"), ["loss=uncertainty", "loss=mae optimizer.lr=0.01"])
    compiled = compile_counter()
    assert compiled == 2, "one graph for training, one for validation"


def compile_counter() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_one_compiled_function_serves_all_jobs(tmp_path):
    """In a process without type checks, which cannot be compiled."""
    folder = str(tmp_path / "inductor")
    with ProcessPoolExecutor(1, get_context("spawn"), keep_machine_code, (folder,)) as pool:
        pool.submit(compiled_together, tmp_path).result()


def test_stress_and_derived_properties_together(tmp_path):
    check(tmp_path, stacked(), [f"loss=normal loss.weights.stress={w}" for w in (1, 100)])


def test_a_job_whose_loss_is_not_finite_leaves_the_others_alone(tmp_path):
    jobs = ["optimizer.lr=1e-3", "optimizer.lr=1e30", "optimizer.lr=1e-2"]
    overrides = ["trainer.clip_norm=null"]
    fits = many(tmp_path / "together", jobs, *overrides)
    ended = together(fits, stacked())
    assert isinstance(ended[fits[1]], NonFiniteError)
    for i in (0, 2):
        trained(tmp_path / f"alone{i}", *overrides, jobs[i])
        assert_alike(fits[i].folder, tmp_path / f"alone{i}")


def test_a_model_that_cannot_be_stacked_is_computed_in_turn(tmp_path):
    """It draws random numbers, which each copy would have to draw from a state of its own."""
    said = []
    fits = many(tmp_path / "together", ["optimizer.lr=1e-3", "optimizer.lr=1e-2"], f"model._target_={TARGET}")
    ended = together(fits, Stacked(said.append))
    assert len(said) == 1 and "random" in said[0]
    assert [outcome.ended for outcome in ended.values()] == ["all epochs are done"] * 2


def test_the_first_step_is_undone_before_it_is_computed_in_turn(tmp_path):
    """Nothing of a step that was computed half is left: buffers of model and loss."""
    fits = many(tmp_path / "together", ["loss=uncertainty", "loss=uncertainty loss.weights.forces=5"])
    computing = Stacked(lambda text: None)
    computing._together, whole = lambda asked: (whole(asked), 1 / 0), computing._together
    together(fits, computing)
    trained(tmp_path / "alone", "loss=uncertainty")
    assert_alike(fits[0].folder, tmp_path / "alone")


def test_one_that_is_behind_catches_up(tmp_path):
    """As after a kill: checkpoints of the jobs are of different epochs."""
    jobs = ["optimizer.lr=1e-3", "optimizer.lr=1e-2"]
    for i, epochs in enumerate((1, 2)):
        (tmp_path / "together").mkdir(exist_ok=True)
        trained(tmp_path / f"together/{i}", f"trainer.epochs={epochs}", "scheduler=constant", jobs[i])
    long = ["trainer.epochs=4", "scheduler=constant"]
    together(many(tmp_path / "together", jobs, *long, "resume=true"), stacked())
    for i, job in enumerate(jobs):
        trained(tmp_path / f"alone{i}", *long, job)
        assert table(tmp_path / f"together/{i}/steps.csv") == [
            pytest.approx(row, rel=1e-9, abs=1e-10) for row in table(tmp_path / f"alone{i}/steps.csv")
        ]
