"""A training is exact under accumulation, repeatable, selects fairly, and stops loudly."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
import torch

from pesloss import checkpoint as checkpoints
from pesloss.training import Alone, CheckpointError, Interrupted, Metrics, NonFiniteError, Trainer
from pesloss.training.alone import learned_from
from pesloss.training.metrics import scores
from pesloss.training.stops import Signals
from pesloss.training.trainer import seconds
from tests.trainings import prepared, rows, run, said, trained


def errors(fit, part):
    metrics = Metrics(fit.compared)
    for batch, predictions in fit.predict(part):
        metrics.update(predictions, batch)
    return metrics.compute()


@pytest.mark.parametrize("loss", ["huber", "rmse", "uncertainty"])
def test_accumulated_batches_train_as_one(tmp_path, loss):
    """Ragged structures, missing labels, structure weights, learned weights."""
    plain = (f"loss={loss}", "trainer.clip_norm=null")
    whole, _ = trained(tmp_path / "whole", *plain)
    parts, _ = trained(tmp_path / "parts", *plain, "trainer.batch_size=4", "trainer.accumulate=2")
    for key, value in whole.potential.state_dict().items():
        torch.testing.assert_close(parts.potential.state_dict()[key], value, rtol=1e-10, atol=1e-10)
    for a, b in zip(rows(tmp_path / "whole/steps.csv"), rows(tmp_path / "parts/steps.csv"), strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, second, other = (trained(tmp_path / n, f"seed={s}")[0] for n, s in (("a", 0), ("b", 0), ("c", 1)))
    state = first.potential.state_dict()
    assert all(torch.equal(value, second.potential.state_dict()[key]) for key, value in state.items())
    assert not all(torch.equal(value, other.potential.state_dict()[key]) for key, value in state.items())


def test_what_is_logged_adds_up_to_the_total(tmp_path):
    trained(tmp_path / "run", "loss=uncertainty", "trainer.batch_size=4", "trainer.accumulate=2")
    for row in rows(tmp_path / "run/steps.csv"):
        terms = [name.removeprefix("value/") for name in row if name.startswith("value/")]
        total = sum(row[f"weight/{name}"] * row[f"value/{name}"] for name in terms) + row["regulariser"]
        assert total == pytest.approx(row["loss"], rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("score", ["forces/mae_component", "energy/rmse"])
def test_the_best_checkpoint_has_the_best_score(tmp_path, score):
    fit, fitted = trained(tmp_path / "run", f"trainer.score={score}", "trainer.epochs=4")
    table = rows(tmp_path / "run/epochs.csv")
    column = next(name for name in table[0] if name.startswith(f"val/{score} ["))
    found = [row[column] for row in table]
    assert fitted.best_score == min(found) and fitted.best_epoch == 1 + found.index(min(found))
    assert errors(fit, fit.data.val)[score].value == pytest.approx(fitted.best_score, rel=1e-12)


def test_a_checkpoint_is_tensors_and_plain_data(tmp_path):
    fit, fitted = trained(tmp_path / "run", "loss=uncertainty", "optimizer=adamw")
    best = checkpoints.read(tmp_path / "run/best.ckpt")
    assert best["progress"]["epochs"] == fitted.best_epoch
    assert best["config"]["loss"]["form"] == "likelihood" and best["heads"] == ["energy"]
    assert set(best["references"]) == {"Cu", "Au"} and "torch" in best["versions"]
    last = checkpoints.read(tmp_path / "run/last.ckpt")
    assert last["progress"]["epochs"] == 2 and last["terms"] == ["energy", "forces", "stress"]
    fit.loss.load_state_dict(last["loss"])


def test_log_variances_have_a_group_without_weight_decay(tmp_path):
    fit = prepared(tmp_path / "run", "loss=uncertainty", "optimizer=adamw", "loss.learning_rate=0.05")
    model, learned = fit.optimizer.param_groups
    assert model["weight_decay"] == 0.01 and learned["weight_decay"] == 0.0 and learned["initial_lr"] == 0.05


def test_only_what_the_loss_needs_is_computed(tmp_path):
    fit = prepared(tmp_path / "run", "loss=energy")
    _, predictions = next(fit.predict(fit.data.train))
    assert set(predictions) == {"energy"}
    assert fit.score == "energy/mae"


def test_metrics_do_not_depend_on_batches(tmp_path):
    few, many = (prepared(tmp_path / f"{n}", f"trainer.eval_batch_size={n}") for n in (3, 100))
    found, expected = errors(few, few.data.test), errors(many, many.data.test)
    assert found.keys() == expected.keys() and set(scores(few.loss.required)) <= set(found)
    for name, metric in found.items():
        assert metric.value == pytest.approx(expected[name].value, rel=1e-12)


def test_a_nan_stops_the_training_and_names_its_structure(tmp_path):
    fit = prepared(tmp_path / "run")
    fit.potential.network.register_forward_hook(
        lambda network, _, found: {name: value * math.nan for name, value in found.items()}
    )
    with pytest.raises(NonFiniteError, match=r"Term 'energy': prediction of 'energy' .*data.xyz, structure"):
        run(fit)
    last = checkpoints.read(tmp_path / "run/last.ckpt")
    assert last["progress"]["step"] == 0 and not (tmp_path / "run/best.ckpt").exists()


def test_a_nan_on_the_validation_structures_stops_the_training(tmp_path):
    """No score is better than NaN, so that it would be kept as the best."""
    fit = prepared(tmp_path / "run")
    fit.potential.register_forward_hook(
        lambda potential, _, found: (
            None if potential.training else {k: v * math.nan for k, v in found.items()}
        )
    )
    with pytest.raises(NonFiniteError, match=r"Epoch 1: forces/mae_component of the validation .* is nan"):
        run(fit)
    assert not (tmp_path / "run/best.ckpt").exists()


def test_a_gradient_that_is_not_finite_is_named(tmp_path):
    fit = prepared(tmp_path / "run")
    fit.potential.network.embedding.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match=r"gradients are not finite, of network\.embedding\.weight"):
        run(fit)


def test_a_term_without_labels_is_an_error_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"term 'dipole' of weight 1, but no training structure has a label"):
        prepared(tmp_path / "run", "loss=response")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+loss.config_type_weights.crystl=2", "loss.config_type_weights: .*did you mean 'crystal'"),
        ("+loss.dataset_weights.dat=2", "loss.dataset_weights: Unknown dataset 'dat'; did you mean 'data'"),
        ("trainer.score=forces/mea_component", "Unknown score .*did you mean 'forces/mae_component'"),
        ("trainer.precision=float16", "Unknown precision 'float16'; did you mean"),
        ("trainer.batch_size=0", "batch_size must be a whole number of at least 1, got 0"),
        ("trainer.batch_size=null", "A batch is either of a number of structures"),
        ("trainer.clip_norm=-1", "clip_norm must be positive"),
        ("trainer.ema_decay=1", "ema_decay must lie between 0 and 1"),
        ("trainer.max_time=soon", "max_time must be a time such as 12:00:00"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_right_one(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path / "run", override)


def test_weights_of_config_types_act(tmp_path):
    plain, _ = trained(tmp_path / "plain")
    weighted, _ = trained(tmp_path / "weighted", "+loss.config_type_weights.crystal=0")
    assert not torch.equal(*(fit.potential.network.embedding.weight for fit in (plain, weighted)))


@pytest.mark.parametrize("scheduler", ["cosine", "plateau", "exponential", "constant"])
def test_schedules_lower_the_learning_rate(tmp_path, scheduler):
    trained(tmp_path / "run", f"scheduler={scheduler}")
    rates = [row["learning_rate"] for row in rows(tmp_path / "run/epochs.csv")]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("scheduler", ["cosine", "exponential", "plateau"])
def test_a_warm_up_scales_what_the_schedule_says(tmp_path, scheduler):
    steps = {}
    for warmup in (0, 6):
        trained(tmp_path / f"{warmup}", f"scheduler={scheduler}", f"trainer.warmup_steps={warmup}")
        steps[warmup] = [row["learning_rate"] for row in rows(tmp_path / f"{warmup}/steps.csv")]
    factors = [min(1.0, (i + 1) / 6) for i in range(len(steps[0]))]
    expected = [rate * factor for rate, factor in zip(steps[0], factors, strict=True)]
    assert steps[6] == pytest.approx(expected, rel=1e-12) and 0 < steps[6][0] < steps[6][5]


def test_the_average_of_the_weights_is_validated_and_kept(tmp_path):
    """Against the recursion, from the weights after every step."""
    decay, history = 0.8, []
    fit = prepared(tmp_path / "run", f"trainer.ema_decay={decay}", "trainer.epochs=3")
    update = fit.average.update_parameters

    def watched(model):
        history.append(model.network.embedding.weight.detach().clone())
        update(model)

    fit.average.update_parameters = watched
    run(fit)
    expected = history[0]
    for weight in history[1:]:
        expected = decay * expected + (1 - decay) * weight
    last = checkpoints.read(tmp_path / "run/last.ckpt")
    torch.testing.assert_close(last["model"]["network.embedding.weight"], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last["weights"]["network.embedding.weight"], history[-1], rtol=0, atol=0)
    best = checkpoints.read(tmp_path / "run/best.ckpt")["model"]
    assert all(torch.equal(value, best[name]) for name, value in fit.potential.state_dict().items())


def test_the_training_stops_when_the_score_stands_still(tmp_path):
    fit, fitted = trained(
        tmp_path / "run",
        "trainer.patience=2",
        "trainer.epochs=50",
        "optimizer.lr=1e-30",
        "scheduler=constant",
    )
    assert fit.progress.epochs == fitted.best_epoch + 2 and "no better forces/mae" in fitted.ended


def test_the_training_stops_when_its_time_is_over(tmp_path):
    fit, fitted = trained(tmp_path / "run", "trainer.max_time=0.001", "trainer.epochs=50")
    assert fit.progress.step == 1 and "max_time" in fitted.ended
    assert checkpoints.read(tmp_path / "run/last.ckpt")["progress"]["steps"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_step_and_saves(tmp_path, number):
    fit = prepared(tmp_path / "run", "trainer.epochs=50")

    def interrupt(network, *_):
        if fit.progress.step == 4 and network.training:
            os.kill(os.getpid(), number)

    fit.potential.network.register_forward_hook(interrupt)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"Stopped by .* resume=.*run") as caught:
        run(fit)
    assert caught.value.status == 128 + number and signal.getsignal(number) == before
    assert checkpoints.read(tmp_path / "run/last.ckpt")["progress"]["step"] == 5


def test_a_signal_during_validation_waits_for_its_end(tmp_path):
    fit = prepared(tmp_path / "run", "trainer.epochs=50")
    fit.potential.network.register_forward_pre_hook(
        lambda network, _: None if network.training else os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(Interrupted, match="after 1 epochs and 0 steps"):
        run(fit)


def test_a_later_signal_is_obeyed_at_once_an_echo_is_not(monkeypatch):
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.number == signal.SIGTERM
        monkeypatch.setattr(signals, "_since", signals._since - 2)
        with pytest.raises(Interrupted, match="at once by a second SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)


def test_matrix_products_may_be_of_bfloat16(tmp_path):
    """Weights, energies and the loss stay float32."""
    exact, _ = trained(tmp_path / "32", "trainer.precision=float32")
    rough, _ = trained(tmp_path / "16", "trainer.precision=bfloat16")
    a, b = (fit.potential.network.embedding.weight for fit in (exact, rough))
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0.1, atol=0.02)


def test_a_model_that_does_not_allow_bfloat16_is_not_rounded(tmp_path, monkeypatch):
    monkeypatch.setattr("pesloss.models.painn.PaiNN.allows_bfloat16", False)
    with pytest.raises(ValueError, match="precision=bfloat16, but PaiNN does not allow it"):
        prepared(tmp_path / "run", "trainer.precision=bfloat16")


def test_validation_can_be_left_out(tmp_path):
    _, fitted = trained(tmp_path / "run", "data.val_fraction=0", "data.test_fraction=0")
    assert fitted.best_score is None and fitted.best_epoch == 2


@pytest.mark.parametrize("path", ["gone/last.ckpt", "file/last.ckpt"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"last.ckpt could not be written .*; there is none before it"):
        checkpoints.save(tmp_path / path, {"epoch": 1})


def test_an_unwritable_folder_is_known_before_the_first_step(tmp_path):
    fit = prepared(tmp_path / "run", "~logger")
    fit.folder = Path(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="could not be written"):
        run(fit)
    assert fit.progress.step == 0


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    """The limit on the size of files stands in for the size of the disk."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.ckpt"
    checkpoints.save(path, {"epoch": 1})
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"could not be written .*the checkpoint before it, .* is intact"
        ):
            checkpoints.save(path, {"epoch": 2, "weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoints.read(path) == {"epoch": 1} and list(tmp_path.iterdir()) == [path]


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path):
    (tmp_path / "last.ckpt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        checkpoints.read(tmp_path / "last.ckpt")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        checkpoints.read(tmp_path / "best.ckpt")


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_predictions_and_their_gradients_keep_the_precision(tmp_path, precision):
    """A runtime that rounds what the model says rounds the gradient as well."""
    fit = prepared(tmp_path / "run", f"trainer.precision={precision}")
    batch = fit.data.train.batch(torch.arange(4))
    predictions = learned_from(fit, Alone(fit).model, batch)
    assert {value.dtype for value in predictions.values()} == {fit.trainer.dtype}
    if precision != "bfloat16":
        for name, value in fit.potential(batch, fit.required).items():
            assert torch.equal(value, predictions[name])


def test_a_trainer_knows_its_precision():
    assert Trainer(precision="float64").dtype is torch.float64
    assert Trainer(precision="bfloat16").dtype is torch.float32


@pytest.mark.parametrize(
    ("text", "expected"), [("2:00", 120), ("1-00:00:01", 86401), (5400, 5400), ("0:1.5", 1.5)]
)
def test_times_are_written_as_slurm_does(text, expected):
    assert seconds(text) == expected


def test_where_the_structures_are_kept_is_said(tmp_path):
    """Above all that a cache could not be written."""
    (tmp_path / "file").write_text("")
    fit = prepared(tmp_path / "run", f"data.cache={tmp_path / 'file' / 'cache'}")
    assert "packed structures: " in said(fit) and "cannot be written" in said(fit)


def test_a_resumed_run_says_where_it_stands(tmp_path):
    trained(tmp_path / "run")
    fit = prepared(tmp_path / "run", "resume=true", "trainer.epochs=3")
    assert "resumed after 2 epochs and 0 steps" in said(fit)


def test_products_of_bfloat16_are_of_positions_that_are_not_rounded(tmp_path):
    fit, seen = prepared(tmp_path / "run", "trainer.precision=bfloat16"), []
    fit.potential.network.register_forward_pre_hook(
        lambda network, arguments: seen.append(arguments[0]["positions"]) if network.training else None
    )
    run(fit)
    assert {positions.dtype for positions in seen} == {torch.float32}
    assert not all(torch.equal(positions, positions.bfloat16().float()) for positions in seen)
