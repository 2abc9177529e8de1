"""A training is exact under accumulation, repeatable, selects fairly, and stops loudly."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console

from pesloss.report import conclude
from pesloss.training import CSV, NonFiniteError, Trainer, prepare
from pesloss.training import checkpoint as checkpoints
from tests import files

TINY = [
    "model.channels=4",
    "model.layers=1",
    "trainer.epochs=2",
    "logger=csv",
    "trainer.precision=float64",
    "trainer.batch_size=8",
]


def trained(tmp_path: Path, *overrides: str, name: str = "run", num: int = 30):
    """A tiny training in float64; its Fit and how it ended."""
    path = tmp_path / "data.xyz"
    if not path.exists():
        files.write(path, num)
    folder = tmp_path / name
    folder.mkdir()
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        loggers = [] if "~logger" in overrides else ["logger=csv"]
        config = compose("train", ["data=extxyz", f"data.train={path}", *TINY, *loggers, *overrides])
    fit = prepare(OmegaConf.to_container(config, resolve=True), folder, Console(file=io.StringIO()))
    with fit.loggers:
        fit.loggers.start(folder, {})
        return fit, fit.run(Console(file=io.StringIO()))


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("loss", ["huber", "rmse", "uncertainty"])
def test_accumulated_batches_train_as_one(tmp_path, loss):
    """Ragged structures, missing labels, structure weights, learned weights."""
    whole, _ = trained(tmp_path, f"loss={loss}", "trainer.clip_norm=null", name="whole")
    parts, _ = trained(
        tmp_path,
        f"loss={loss}",
        "trainer.clip_norm=null",
        "trainer.batch_size=4",
        "trainer.accumulate=2",
        name="parts",
    )
    for key, value in whole.potential.state_dict().items():
        torch.testing.assert_close(parts.potential.state_dict()[key], value, rtol=1e-10, atol=1e-10)
    for a, b in zip(rows(tmp_path / "whole/steps.csv"), rows(tmp_path / "parts/steps.csv"), strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, _ = trained(tmp_path, name="first")
    second, _ = trained(tmp_path, name="second")
    other, _ = trained(tmp_path, "seed=1", name="other")
    state = first.potential.state_dict()
    assert all(torch.equal(value, second.potential.state_dict()[key]) for key, value in state.items())
    assert not all(torch.equal(value, other.potential.state_dict()[key]) for key, value in state.items())


def test_what_is_logged_adds_up_to_the_total(tmp_path):
    trained(tmp_path, "loss=uncertainty")
    for row in rows(tmp_path / "run/steps.csv"):
        terms = [name.removeprefix("value/") for name in row if name.startswith("value/")]
        total = sum(row[f"weight/{name}"] * row[f"value/{name}"] for name in terms) + row["regulariser"]
        assert total == pytest.approx(row["loss"], rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("score", ["forces/mae", "energy/rmse"])
def test_the_best_checkpoint_has_the_best_score(tmp_path, score):
    fit, fitted = trained(tmp_path, f"trainer.score={score}", "trainer.epochs=4")
    column = next(name for name in rows(tmp_path / "run/epochs.csv")[0] if name.startswith(f"val/{score}"))
    scores = [row[column] for row in rows(tmp_path / "run/epochs.csv")]
    assert fitted.best_score == min(scores) and fitted.best_epoch == 1 + scores.index(min(scores))
    errors = fit.evaluate(fit.data.val)
    name, kind = score.split("/")
    assert getattr(errors[name], kind) == pytest.approx(fitted.best_score, rel=1e-12)


def test_a_checkpoint_is_tensors_and_plain_data(tmp_path):
    fit, fitted = trained(tmp_path, "loss=uncertainty", "optimizer=adamw")
    saved = checkpoints.read(tmp_path / "run/best.ckpt")
    assert saved["epoch"] == fitted.best_epoch and saved["config"]["loss"]["form"] == "likelihood"
    assert set(saved["references"]) == {"Cu", "Au"} and "torch" in saved["versions"]
    fit.loss.load_state_dict(saved["loss"])


def test_log_variances_have_a_group_without_weight_decay(tmp_path):
    fit, _ = trained(tmp_path, "loss=uncertainty", "optimizer=adamw", "loss.learning_rate=0.05")
    model, learned = fit.optimizer.param_groups
    assert model["weight_decay"] == 0.01 and learned["weight_decay"] == 0.0 and learned["initial_lr"] == 0.05


def test_only_what_the_loss_needs_is_computed(tmp_path):
    fit, _ = trained(tmp_path, "loss=energy")
    _, predictions = next(fit.predict(fit.data.train))
    assert set(predictions) == {"energy"}
    assert fit.score == "energy/mae"


def test_metrics_do_not_depend_on_batches(tmp_path):
    fit, _ = trained(tmp_path, "trainer.eval_batch_size=3")
    other, _ = trained(tmp_path, "trainer.eval_batch_size=100", name="other")
    for name, errors in fit.evaluate(fit.data.test).items():
        assert errors[:3] == pytest.approx(other.evaluate(other.data.test)[name][:3], rel=1e-12)


def test_a_nan_stops_the_training_and_names_its_structure(tmp_path):
    fit, _ = trained(tmp_path)
    before = (tmp_path / "run/last.ckpt").read_bytes()
    fit.data.train.structures["energy"][:] = float("inf")
    with pytest.raises(
        NonFiniteError, match=r"term 'energy': label of 'energy' is not finite in structures .*data.xyz"
    ):
        fit.run(Console(file=io.StringIO()))
    assert (tmp_path / "run/last.ckpt").read_bytes() == before


def test_a_gradient_that_is_not_finite_is_named(tmp_path):
    fit, _ = trained(tmp_path)
    fit.potential.network.embedding.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match=r"gradients are not finite, of network\.embedding\.weight"):
        fit.run(Console(file=io.StringIO()))


def test_a_term_without_labels_is_an_error_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"term for 'dipole', but no training structure has a label"):
        trained(tmp_path, "loss=response")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+loss.config_type_weights.crystl=2",
            "loss.config_type_weights: Unknown config_type 'crystl'; did you mean 'crystal'",
        ),
        ("+loss.dataset_weights.dat=2", "loss.dataset_weights: Unknown dataset 'dat'; did you mean 'data'"),
        ("trainer.score=force/mae", "Unknown score 'force/mae'; did you mean 'forces/mae'"),
        ("trainer.precision=float16", "Unknown precision 'float16'; did you mean"),
        ("trainer.batch_size=0", "batch_size must be a whole number of at least 1, got 0"),
        ("trainer.clip_norm=-1", "clip_norm must be positive"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_right_one(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, override)


def test_weights_of_config_types_act(tmp_path):
    plain, _ = trained(tmp_path)
    weighted, _ = trained(tmp_path, "+loss.config_type_weights.crystal=0", name="weighted")
    assert not torch.equal(*(fit.potential.network.embedding.weight for fit in (plain, weighted)))


@pytest.mark.parametrize("scheduler", ["cosine", "plateau", "exponential", "constant"])
def test_schedules_run(tmp_path, scheduler):
    trained(tmp_path, f"scheduler={scheduler}")
    rates = [row["learning_rate"] for row in rows(tmp_path / "run/epochs.csv")]
    assert rates == sorted(rates, reverse=True)


def test_the_report_is_complete(tmp_path):
    fit, fitted = trained(tmp_path)
    metrics = conclude(fit, fitted, console := Console(file=io.StringIO(), width=120))
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {
        *(f"parity_{name}.png" for name in ("energy", "forces", "stress")),
        "learning_curves.png",
    }
    assert "meV/Å" in console.file.getvalue()


def test_validation_can_be_left_out(tmp_path):
    fit, fitted = trained(tmp_path, "data.val_fraction=0", "data.test_fraction=0")
    assert fitted.best_score is None and fitted.best_epoch == 2
    assert conclude(fit, fitted, Console(file=io.StringIO()))["errors"] == {}


def test_a_run_without_tables_has_no_curves(tmp_path):
    fit, fitted = trained(tmp_path, "~logger")
    conclude(fit, fitted, Console(file=io.StringIO()))
    assert not (tmp_path / "run/learning_curves.png").exists()


def test_numbers_are_closed_after_an_error(tmp_path):
    logger = CSV()
    logger.start(tmp_path, {})
    logger.log("steps", {"loss": 1.0})
    logger.finish(failed=True)
    assert rows(tmp_path / "steps.csv") == [{"loss": 1.0}]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    checkpoints.save(path, {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoints.save(path, {"epoch": lambda: 2})
    assert checkpoints.read(path) == {"epoch": 1} and list(tmp_path.iterdir()) == [path]


def test_a_trainer_knows_its_precision():
    assert Trainer(precision="float64").dtype is torch.float64
