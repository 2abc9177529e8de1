"""Losses that change from step to step: the same however a step is dealt out, killed or resumed."""

import pytest
import torch

from pesloss.losses import PropertyTerm, QuantileHuber, Standardized, TotalLoss
from tests.batches import make, parameters, predict, take
from tests.trainings import prepared, rows, run, trained

CHANGING = {
    "schedule": ["loss=normal", "weighting=schedule", "+loss.weighting.factors.forces={0: 5.0, 2: 1.0}"],
    "soft adapt": ["loss=normal", "weighting=soft_adapt", "loss.weighting.frequency=1"],
    "quantile huber": [
        "loss=normal",
        "loss.terms.forces.penalty={_target_: pesloss.losses.QuantileHuber, start: 0.5}",
    ],
    "stage two": ["loss=mace_stage_two", "loss.weights.stress=0"],
}


def quantile() -> TotalLoss:
    return TotalLoss({"forces": PropertyTerm("forces", penalty=QuantileHuber(0.8, 0.7))}, monitor=True)


def deltas(loss, steps):
    """Delta after each step, of which each is a list of batches."""
    theta, found = parameters(), []
    for number, batches in enumerate(steps):
        step = loss.step(batches)
        for batch in batches:
            loss(predict(theta, batch), batch, step).backward()
        loss.advance(step=number + 1)
        found.append(float(loss.terms["forces"].penalty.delta))
    return found


def test_delta_does_not_depend_on_how_a_step_is_dealt_out():
    batch = make()
    whole = deltas(quantile(), [[batch]] * 3)
    parts = [take(batch, [0, 1, 2]), take(batch, []), take(batch, [3, 4, 5, 6, 7])]
    assert deltas(quantile(), [parts] * 3) == pytest.approx(whole, rel=1e-14)
    assert len(set(whole)) == 3


def test_a_step_without_labels_leaves_delta():
    batch = make()
    loss = quantile()
    deltas(loss, [[batch]])
    before = float(loss.terms["forces"].penalty.delta)
    batch["forces"] = torch.full_like(batch["forces"], torch.nan)
    assert deltas(loss, [[batch]]) == [before]


def test_evaluating_is_no_step():
    batch, loss = make(), quantile()
    loss.eval()
    loss(predict(parameters(), batch), batch)
    loss.train()
    loss.advance(step=1)
    assert float(loss.terms["forces"].penalty.delta) == 0.7


def test_the_share_in_the_linear_zone_is_that_of_the_labels():
    batch, loss = make(), quantile()
    predictions = predict(parameters(), batch)
    loss(predictions, batch)
    loss.advance(step=1)
    label, weight = batch["forces"], batch["weight"][batch["batch"]] * batch["forces_weight"]
    counts = ~label.isnan() & (weight != 0)[:, None]
    beyond = (predictions["forces"] - label).abs() > 0.7
    expected = (beyond & counts).sum() / counts.sum()
    assert float(loss.monitored()["forces/linear_share"]) == pytest.approx(float(expected))


def test_nothing_is_kept_unless_asked_for():
    batch, loss = make(), TotalLoss({"forces": {"penalty": "huber"}}, huber_delta=0.5)
    loss(predict(parameters(), batch), batch)
    loss.advance(step=1)
    assert loss.monitored() == {}


def test_the_app_logs_the_share(tmp_path):
    trained(tmp_path / "run", "loss=huber", "loss.monitor=true", "loss.weights.stress=0")
    shares = [row["forces/linear_share"] for row in rows(tmp_path / "run" / "steps.csv")]
    assert all(0 < share <= 1 for share in shares)


def test_the_app_fits_scales_to_the_training_structures(tmp_path):
    part = "{_target_: pesloss.losses.Standardized, by: element}"
    options = ["loss=normal", "loss.weights.stress=0", f"loss.terms.forces.residual={part}"]
    fit = prepared(tmp_path / "run", *options)
    residual = fit.loss.terms["forces"].residual
    assert isinstance(residual, Standardized)
    labels = torch.cat([chunk["forces"] for chunk in fit.data.train.chunks(["forces"])])
    numbers = torch.cat([chunk["numbers"] for chunk in fit.data.train.chunks(["numbers"])])
    for number in numbers.unique().tolist():
        known = labels[numbers == number].double()
        expected = known[~known.isnan()].square().mean().sqrt()
        expected = torch.where(expected > 0, expected, 1)  # gold at rest has no forces
        torch.testing.assert_close(residual.sigma[number], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CHANGING)
def test_a_stopped_training_goes_on_as_if_it_had_not(name, tmp_path):
    options = [*CHANGING[name], "trainer.epochs=3", "scheduler=constant"]
    if name != "stage two":
        options.append("loss.weights.stress=0")
    straight, _ = trained(tmp_path / "straight", *options)
    trained(tmp_path / "stopped", *options, "trainer.epochs=2")
    resumed = prepared(tmp_path / "stopped", *options, "resume=true")
    run(resumed)
    for key, value in straight.potential.state_dict().items():
        torch.testing.assert_close(resumed.potential.state_dict()[key], value, rtol=0, atol=0)
    for key, value in straight.loss.state_dict().items():
        torch.testing.assert_close(resumed.loss.state_dict()[key], value, rtol=0, atol=0)


def test_a_scale_that_is_given_is_not_fitted():
    batch = make()
    residual = Standardized(scale=3.0)
    loss = TotalLoss({"forces": {"residual": residual}})
    loss.pre_fit([batch])
    assert float(residual.sigma) == 3.0


def test_the_app_follows_a_schedule(tmp_path):
    trained(tmp_path / "run", *CHANGING["schedule"], "loss.weights.stress=0", "trainer.epochs=3")
    found = {row["epoch"]: row["weight/forces"] for row in rows(tmp_path / "run" / "steps.csv")}
    assert found == {1: 5.0, 2: 5.0, 3: 1.0}
