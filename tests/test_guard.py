"""A step that goes wrong is told, written down, and stopped at, skipped or undone: exactly."""

from __future__ import annotations

import os
import re
from pathlib import Path

import ase.io
import pytest
import torch

from pesloss import checkpoint as checkpoints
from pesloss.training import Fit, NonFiniteError, SpikeError, Trainer, launch
from pesloss.training.launch import RankError
from tests import files
from tests.fragile import settings, write
from tests.test_resume import assert_same, killed
from tests.trainings import EVERYTHING, prepared, rows, run, said, same, trained

WHO = r"data\.xyz, structure 4 \(\w*Ag\w*, dataset 'data'\)"
STATE = ("weights", "average", "model", "loss", "optimizer", "scheduler", "random")


def last(folder: Path) -> dict:
    return checkpoints.read(folder / "last.ckpt")


def fragile(folder: Path, fault: str, *more: str, **options) -> Fit:
    if not (folder.parent / "data.xyz").exists():
        write(folder.parent / "data.xyz")
    return prepared(folder, *settings(fault, *more), **options)


def without(fit: Fit, row: int = 4) -> Fit:
    """The same training, whose epochs lack the step that a structure is in."""
    position = fit.data.train.rows.tolist().index(row)
    every = fit._steps
    fit._steps = lambda epoch: [
        step for step in every(epoch) if not any(position in part.tolist() for part in step)
    ]
    return fit


def assert_same_state(folder: Path, other: Path) -> None:
    found, expected = last(folder), last(other)
    for part in STATE:
        assert same(found[part], expected[part]), part
    assert found["progress"]["step"] == expected["progress"]["step"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("prediction", r"Step 1: the loss is nan\. Term 'energy': prediction of 'energy' is not finite in "),
        (
            "gradient",
            r"Step 1: gradients are not finite, of network\.gain\. "
            r"Term 'energy': gradient of 'network\.gain' is not finite in ",
        ),
    ],
)
def test_the_culprit_is_named_and_written_down(tmp_path, fault, sentence):
    fit = fragile(tmp_path / "run", fault, "trainer.batch_size=30")
    with pytest.raises(NonFiniteError, match=rf"{sentence}\S+{WHO}") as caught:
        run(fit)
    assert f"python -m pesloss.replay {tmp_path}/run/postmortem/step_000001" in str(caught.value)
    written = checkpoints.read(tmp_path / "run/postmortem/step_000001/rank_0.ckpt")
    assert sum(len(part["index"]) for part in written["parts"]) == len(fit.data.train)
    assert last(tmp_path / "run")["progress"]["step"] == 0


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_label_that_overflows_is_named(tmp_path):
    """A stress of 1e300 is a number in the file, and infinite in single precision."""
    structures = files.structures(30)
    structures[4].calc.results["stress"][0] = 1e300
    ase.io.write(tmp_path / "data.xyz", structures, format="extxyz")
    fit = prepared(tmp_path / "run", "trainer.precision=float32", "trainer.batch_size=30", "check=false")
    with pytest.raises(
        NonFiniteError, match=r"Term 'stress': label of 'stress' is not finite in \S+data\.xyz, structure 4"
    ):
        run(fit)


@pytest.mark.parametrize("fault", ["prediction", "gradient"])
def test_a_skipped_step_is_as_if_its_batch_did_not_exist(tmp_path, fault):
    """Learned weights, moments, averages, buffers, random numbers, warm-up: bit for bit."""
    fit = fragile(tmp_path / "skipped", fault, *EVERYTHING, "trainer.on_nonfinite=skip")
    run(fit)
    other = without(fragile(tmp_path / "never", fault, *EVERYTHING))
    run(other)
    assert_same_state(tmp_path / "skipped", tmp_path / "never")
    assert fit.progress.skipped == 2
    for table in ("steps", "epochs"):
        found, expected = (rows(tmp_path / name / f"{table}.csv") for name in ("skipped", "never"))
        for row in found:
            row.pop("skipped", None), row.pop("seconds", None)
        assert found == [{k: v for k, v in row.items() if k != "seconds"} for row in expected]
    assert [row["skipped"] for row in rows(tmp_path / "skipped/epochs.csv")] == [1, 2]
    assert re.search(rf"{WHO}.* The step is skipped", said(fit).replace("\n", " "))


def test_with_a_checkpoint_after_each_step_rolling_back_is_skipping(tmp_path):
    for policy in ("skip", "roll_back"):
        run(
            fragile(
                tmp_path / policy,
                "gradient",
                *EVERYTHING,
                "trainer.save_minutes=0",
                f"trainer.on_nonfinite={policy}",
            )
        )
    found, expected = last(tmp_path / "roll_back"), last(tmp_path / "skip")
    for part in (*STATE, "progress"):
        found[part].pop("seconds", None) if part == "progress" else None
        expected[part].pop("seconds", None) if part == "progress" else None
        assert same(found[part], expected[part]), part


def test_rolling_back_returns_to_the_last_checkpoint_and_goes_on_with_the_next_batch(tmp_path, monkeypatch):
    fit = fragile(tmp_path / "run", "prediction", "trainer.batch_size=4", "trainer.on_nonfinite=roll_back")
    states, load = [], fit.guard._return

    def watched() -> str:
        told = load()
        states.append((last(fit.folder), fit.potential.network.embedding.weight.clone(), fit.progress.steps))
        return told

    monkeypatch.setattr(fit.guard, "_return", watched)
    run(fit)
    assert len(states) == 2 and fit.progress.skipped == 2
    for saved, weight, _ in states:
        assert torch.equal(saved["weights"]["network.embedding.weight"], weight)
    assert [row["step"] for row in rows(tmp_path / "run/steps.csv")] == [*range(1, fit.progress.step + 1)]
    assert "Weights, optimizer and loss are again those after step 0." in said(fit)


def test_too_many_bad_steps_stop_the_training(tmp_path):
    fit = fragile(
        tmp_path / "run",
        "prediction",
        "trainer.batch_size=2",
        "trainer.on_nonfinite=skip",
        "trainer.max_bad_steps=4",
    )
    fit.potential.network.register_forward_hook(
        lambda network, _, found: {name: value * float("nan") for name, value in found.items()}
    )
    with pytest.raises(NonFiniteError, match=r"It is bad step 5 in a row, more than max_bad_steps=4"):
        run(fit)
    assert len(list((tmp_path / "run/postmortem").iterdir())) == 3
    assert same(last(tmp_path / "run")["weights"], dict(fit.potential.state_dict()))


def spoil(fit: Fit, number: int) -> None:
    """The n-th step of the optimizer makes a weight infinite."""

    @torch.no_grad()
    def hook(*_: object) -> None:
        if fit.progress.step == number - 1 and not fit.progress.skipped:
            fit.potential.network.embedding.weight[29] = float("inf")

    fit.optimizer.register_step_post_hook(hook)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, policy):
    fit = prepared(
        tmp_path / "run", "trainer.save_minutes=0", f"trainer.on_nonfinite={policy}", "check=false"
    )
    spoil(fit, 2)
    with pytest.raises(
        NonFiniteError,
        match=r"after step 2 is not saved, because network\.embedding\.weight is not finite; the .* intact",
    ):
        run(fit)
    assert last(tmp_path / "run")["progress"]["step"] == 1


def test_a_state_that_is_not_finite_is_undone_by_rolling_back(tmp_path):
    fit = prepared(tmp_path / "run", "trainer.on_nonfinite=roll_back", "check=false")
    spoil(fit, len(fit._steps(0)))
    run(fit)
    assert fit.progress.skipped == 1 and fit.progress.epochs == 2
    assert "is not validated, because network.embedding.weight is not finite" in said(fit)


def test_a_validation_structure_is_named_and_written_down(tmp_path):
    write(tmp_path / "val.xyz", 4, num=6)
    files.write(tmp_path / "data.xyz", 24)
    fit = fragile(tmp_path / "run", "prediction", f"data.val={tmp_path}/val.xyz", "data.references=none")
    with pytest.raises(
        NonFiniteError,
        match=r"Epoch 1: forces/mae_component .* is nan.*"
        r"prediction of 'forces' is not finite in \S+val\.xyz, structure 4",
    ):
        run(fit)
    assert (tmp_path / "run/postmortem/epoch_000001/rank_0.ckpt").exists()
    assert not (tmp_path / "run/best.ckpt").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("policy", ["skip", "roll_back"])
@pytest.mark.parametrize("moment", [2, 4, 7])
def test_a_killed_training_with_bad_steps_ends_bit_for_bit_the_same(tmp_path, policy, moment):
    saves = "1000" if policy == "roll_back" else "0"
    more = [
        *EVERYTHING,
        f"trainer.on_nonfinite={policy}",
        f"trainer.save_minutes={saves}",
        "trainer.epochs=3",
    ]
    write(tmp_path / "data.xyz")
    trained(tmp_path / "whole", *settings("gradient", *more))
    killed(tmp_path / "cut", Fit, "_optimize", moment, *settings("gradient", *more))
    fit, _ = trained(tmp_path / "cut", *settings("gradient", *more), "resume=true")
    assert fit.progress.skipped == 3
    assert_same(tmp_path / "cut", tmp_path / "whole")


SPIKE = ["trainer.spike_factor=20", "trainer.batch_size=2"]


@pytest.fixture
def early(monkeypatch):
    """A spike is known after a few steps."""
    monkeypatch.setattr("pesloss.training.guard.LEAST", 3)


@pytest.mark.parametrize("policy", ["warn", "skip", "stop", "roll_back"])
def test_a_spike_is_told_with_its_term_and_structures(tmp_path, early, policy):
    fit = fragile(tmp_path / "run", "spike", *SPIKE, f"trainer.on_spike={policy}", "seed=1")
    sentence = (
        r"gradient's length is \S+, \S+ times the usual \S+\. Of the gradient's length term 'energy' has .*"
        rf"the longest gradients are those of \S+{WHO}"
    )
    if policy == "stop":
        with pytest.raises(SpikeError, match=sentence):
            run(fit)
        return
    run(fit)
    assert re.search(sentence, said(fit).replace("\n", " "))
    assert (fit.progress.skipped == 0) == (policy == "warn")


def test_a_skipped_spike_is_as_if_its_batch_did_not_exist(tmp_path, early):
    guarded = ("trainer.spike_factor=20", "trainer.on_spike=skip")
    fit = fragile(tmp_path / "skipped", "spike", *EVERYTHING, *guarded)
    fit.guard.load({"norms": torch.ones(3)})
    run(fit)
    assert fit.progress.skipped == 2
    run(without(fragile(tmp_path / "never", "spike", *EVERYTHING)))
    assert_same_state(tmp_path / "skipped", tmp_path / "never")


def test_a_warning_changes_nothing(tmp_path, early):
    fit = fragile(tmp_path / "warned", "spike", *EVERYTHING, "trainer.spike_factor=20")
    run(fit)
    run(fragile(tmp_path / "plain", "spike", *EVERYTHING))
    assert "The step is taken." in said(fit)
    assert_same_state(tmp_path / "warned", tmp_path / "plain")


def test_what_is_usual_is_saved(tmp_path):
    trained(tmp_path / "run", "trainer.spike_factor=20", "check=false")
    norms = [row["gradient_norm"] for row in rows(tmp_path / "run/steps.csv")]
    assert last(tmp_path / "run")["guard"]["norms"].tolist() == norms
    again = prepared(tmp_path / "run", "trainer.spike_factor=20", "check=false", "resume=true")
    assert list(again.guard._norms) == norms
    other = prepared(tmp_path / "run", "trainer.spike_factor=20", "check=false", "loss=mae", "resume=true")
    assert not other.guard._norms


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.on_nonfinite=skp", "on_nonfinite: Unknown policy 'skp'; did you mean 'skip'"),
        ("trainer.on_nonfinite=warn", "on_nonfinite: Unknown policy 'warn'"),
        ("trainer.on_spike=rollback", "on_spike: Unknown policy 'rollback'; did you mean 'roll_back'"),
        ("trainer.on_spike=skip", "on_spike=skip does nothing without spike_factor"),
        ("trainer.spike_factor=1", "spike_factor must be larger than 1"),
        ("trainer.max_bad_steps=0", "max_bad_steps must be a whole number of at least 1"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_the_right_one(override, message):
    name, _, value = override.removeprefix("trainer.").partition("=")
    with pytest.raises(ValueError, match=message):
        Trainer(**{name: int(value) if value.isdigit() else value})


RANKS = [*EVERYTHING[:-1], "trainer.batch_size=6"]


def train_ranks(fabric, folder: str, *more: str) -> None:
    """A training in this process, one of several."""
    trained(Path(folder) / f"run{fabric.world_size}", *settings("gradient", *RANKS, *more), fabric=fabric)


def launched(folder: Path, world: int, *more: str) -> None:
    launch(Trainer(devices=world, precision="float64", accelerator="cpu"), train_ranks, str(folder), *more)


@pytest.mark.parametrize("across", [True, False])
def test_all_ranks_skip_what_one_of_them_sees(tmp_path, across):
    write(tmp_path / "data.xyz")
    more = ["trainer.on_nonfinite=skip", f"+loss.across_ranks={across}"]
    for world in (1, 2):
        launched(tmp_path, world, *more)
    one, two = (last(tmp_path / f"run{world}") for world in (1, 2))
    assert one["progress"]["skipped"] == two["progress"]["skipped"] == 2
    assert one["progress"]["step"] == two["progress"]["step"]
    if across:
        for part in ("weights", "model", "loss"):
            for name, value in one[part].items():
                if name != "network.seen":
                    torch.testing.assert_close(two[part][name], value, rtol=1e-3, atol=1e-3)
    assert len(list((tmp_path / "run2").glob("postmortem/*/rank_*.ckpt"))) == 2


def test_the_rank_that_is_to_blame_is_heard(tmp_path):
    write(tmp_path / "data.xyz")
    with pytest.raises(RankError, match=rf"gradient of 'network\.gain' is not finite in \S+{WHO}"):
        launched(tmp_path, 2)
    (path,) = (tmp_path / "run2").glob("postmortem/*/rank_*.ckpt")
    assert 4 in torch.cat([part["index"] for part in checkpoints.read(path)["parts"]])
