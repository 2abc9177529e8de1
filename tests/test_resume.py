"""A training that is killed at any moment and resumed ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

from pesloss import checkpoint as checkpoints
from pesloss.training import CSV, CheckpointError, Fit, Metrics
from pesloss.training.console import Watch
from pesloss.training.resume import changes
from tests.trainings import EVERYTHING, prepared, rows, run, said, same, trained

LONG = [*EVERYTHING, "trainer.epochs=3", "trainer.save_minutes=0"]


def kill(*_: object) -> None:
    """What no program can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def fork() -> int:
    with warnings.catch_warnings():
        # from Python 3.12 on, in a process with threads; the child has none of them and needs none
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def counted(function, number: int, before):
    """The function, with something else first when it is called for the n-th time."""
    calls = iter(range(1, 10**9))

    def wrapped(*args, **kwargs):
        if next(calls) == number:
            before()
        return function(*args, **kwargs)

    return wrapped


MOMENTS = {
    "in the first step": (Fit, "_optimize", 1),
    "within an epoch": (Fit, "_optimize", 5),
    "during validation": (Metrics, "update", 1),
    "during the second validation": (Metrics, "update", 2),
    "while a checkpoint is being written": (os, "fsync", 7),
    "before the folder of a checkpoint is synced": (os, "fsync", 10),
    "before the best checkpoint": (Fit, "_save_best", 2),
    "between the best and the last checkpoint": (Fit, "_tick", 12),
    "after an epoch is logged": (Watch, "epoch", 1),
    "between an epoch's row and its checkpoint": (Fit, "save", 5),
    "before a row is logged": (CSV, "log", 6),
}


def killed(folder: Path, owner: object, name: str, number: int, *overrides: str) -> None:
    """A training in a process of its own that is killed when a function is called for the n-th time."""
    child = fork()
    if child == 0:
        setattr(owner, name, counted(getattr(owner, name), number, kill))
        try:
            trained(folder, *overrides)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it was over before"


def final(folder: Path) -> dict[str, object]:
    """Everything a training leaves, but the time it took."""
    content = {name: checkpoints.read(folder / f"{name}.ckpt") for name in ("best", "last")}
    for state in content.values():
        state["progress"].pop("seconds")
        state["config"].pop("resume")
    tables = {name: rows(folder / f"{name}.csv") for name in ("steps", "epochs")}
    for row in tables["epochs"]:
        row.pop("seconds")
    return {**content, **tables, "files": sorted(path.name for path in folder.iterdir())}


def assert_same(folder: Path, other: Path) -> None:
    found, expected = final(folder), final(other)
    assert found["files"] == expected["files"]
    for name in ("steps", "epochs"):
        assert found[name] == expected[name]
    for name in ("best", "last"):
        for part in expected[name]:
            assert same(found[name][part], expected[name][part]), (name, part)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trainings")
    trained(folder / "whole", *LONG)
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_training_ends_bit_for_bit_the_same(uninterrupted, moment):
    folder = uninterrupted / moment.replace(" ", "_")
    killed(folder, *MOMENTS[moment], *LONG)
    trained(folder, *LONG, "resume=true")
    assert_same(folder, uninterrupted / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_training_may_be_killed_again_and_again(uninterrupted):
    """By somebody else, whenever."""
    folder, lives = uninterrupted / "often", 0
    while lives < 40:
        child = fork()
        if child == 0:
            try:
                trained(folder, *LONG, "resume=true")
            finally:
                os._exit(0)
        time.sleep(0.25 + 0.05 * lives)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        lives += 1
        if os.WIFEXITED(status):
            break
    assert lives > 1
    assert_same(folder, uninterrupted / "whole")


def test_more_epochs_go_on_where_the_new_schedule_is(tmp_path):
    """A cosine to epoch 6 that is resumed after 3 has the learning rates of one that began as such."""
    trained(tmp_path / "long", "trainer.epochs=6")
    trained(tmp_path / "run", "trainer.epochs=3")
    fit, _ = trained(tmp_path / "run", "trainer.epochs=6", "resume=true")
    rates = {n: [row["learning_rate"] for row in rows(tmp_path / n / "epochs.csv")] for n in ("long", "run")}
    assert rates["run"][3:] == pytest.approx(rates["long"][3:], rel=1e-9)
    assert "changed: trainer.epochs: 3 -> 6" in said(fit)


def test_a_changed_learning_rate_is_that_of_the_new_config(tmp_path):
    trained(tmp_path / "run", "scheduler=constant")
    fit, _ = trained(
        tmp_path / "run", "scheduler=constant", "optimizer.lr=0.5", "trainer.epochs=3", "resume=true"
    )
    assert rows(tmp_path / "run/epochs.csv")[-1]["learning_rate"] == 0.5
    assert fit.optimizer.state_dict()["state"][0]["step"] == 9  # moments are kept


def test_a_changed_loss_says_which_terms_are_kept_new_and_dropped(tmp_path):
    trained(tmp_path / "run", "loss=uncertainty", "loss.weights.stress=0")
    saved = checkpoints.read(tmp_path / "run/last.ckpt")
    changed = ("loss=uncertainty", "loss.weights.energy=0")
    fresh = prepared(tmp_path / "fresh", *changed).loss.state_dict()["weighting.log_variance"]
    fit = prepared(tmp_path / "run", *changed, "resume=true")
    for sentence in ("terms kept: ['forces']", "new terms: ['stress']", "terms dropped: ['energy']"):
        assert sentence in said(fit)
    old = saved["loss"]["weighting.log_variance"]
    new = fit.loss.state_dict()["weighting.log_variance"]
    assert saved["terms"] == ["energy", "forces"] and list(fit.loss.by_name) == ["forces", "stress"]
    assert new[0] == old[1] != fresh[0] and new[1] == fresh[1]
    learned = len(list(fit.potential.parameters()))
    moments = fit.optimizer.state_dict()["state"][learned]["exp_avg"]
    assert moments[0] == saved["optimizer"]["state"][learned]["exp_avg"][1] and moments[1] == 0
    run(fit)


def test_another_weighting_starts_anew_and_says_so(tmp_path):
    trained(tmp_path / "run", "loss=huber")
    fit = prepared(tmp_path / "run", "loss=uncertainty", "trainer.epochs=3", "resume=true")
    assert "the weighting has changed" in said(fit)
    run(fit)


def test_another_model_is_refused(tmp_path):
    trained(tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"can be resumed with the model it began with only.*size mismatch"
    ):
        prepared(tmp_path / "run", "model.channels=6", "resume=true")


def test_a_changed_order_takes_the_epoch_again(tmp_path):
    trained(tmp_path / "run", "trainer.max_time=0.001")
    fit = prepared(tmp_path / "run", "trainer.batch_size=6", "resume=true")
    assert "order of the structures has changed (batch_size), so that 1 steps" in said(fit)
    assert fit.progress.steps == 0 and fit.progress.step == 1


def test_another_score_forgets_the_best(tmp_path):
    trained(tmp_path / "run")
    fit = prepared(tmp_path / "run", "trainer.score=energy/rmse", "resume=true")
    assert fit.progress.best_score is None and "scores before this point do not count" in said(fit)


def test_random_numbers_go_on(tmp_path):
    """A model with dropout would draw on them."""
    trained(tmp_path / "run")
    after = torch.rand(3)
    torch.manual_seed(5)
    prepared(tmp_path / "run", "resume=true")
    assert torch.equal(torch.rand(3), after)


def test_a_folder_with_a_training_is_not_overwritten_unasked(tmp_path):
    trained(tmp_path / "run")
    before = (tmp_path / "run/last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"holds a training already. resume=true goes on"):
        prepared(tmp_path / "run")
    assert (tmp_path / "run/last.ckpt").read_bytes() == before
    fit = prepared(tmp_path / "run", "resume=false")
    assert fit.progress.step == 0 and not (tmp_path / "run/best.ckpt").exists()


def test_resuming_what_is_done_changes_nothing(tmp_path):
    trained(tmp_path / "run")
    before = final(tmp_path / "run")
    trained(tmp_path / "run", "resume=true")
    assert same(final(tmp_path / "run"), before)


def test_a_file_that_cannot_be_resumed_is_refused(tmp_path):
    trained(tmp_path / "run")
    (tmp_path / "run/best.ckpt").replace(tmp_path / "run/last.ckpt")
    with pytest.raises(CheckpointError, match="is not a checkpoint that can be resumed: it has no"):
        prepared(tmp_path / "run", "resume=true")


def test_changes_name_what_differs():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None, "resume": None}
    assert changes(old, {"a": {"b": 2, "c": [1, 2]}, "e": 0, "resume": True}) == {
        "a.b": "a.b: 1 -> 2",
        "d": "d: None -> absent",
        "e": "e: absent -> 0",
    }
