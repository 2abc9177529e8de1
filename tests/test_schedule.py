"""Weights that change as training goes on: by a plan, and by how fast each term falls."""

import pytest
import torch

import pesloss
from pesloss.losses import TotalLoss
from pesloss.weighting import Schedule, SoftAdapt
from tests.batches import make
from tests.laws import leaves

PRIOR = {"energy": 1.0, "forces": 5.0}
VALUES = torch.tensor([0.2, 3.0], dtype=torch.float64)
LABELS = torch.tensor([8, 75])


def made(weighting):
    weighting.setup(PRIOR)
    weighting.advance(epoch=0, step=0, learning_rate=1.0)
    return weighting


def weights_at(weighting, **where):
    weighting.advance(**{"epoch": 0, "step": 0, "learning_rate": 1.0, **where})
    return weighting(VALUES, LABELS).values.tolist()


def test_stages():
    """Before a point the last one holds, as when a second stage of training begins."""
    stages = made(Schedule({"energy": {0: 1.0, 10: 1000.0}}))
    assert [weights_at(stages, epoch=e) for e in (0, 9, 10, 99)] == [[1, 5], [1, 5], [1000, 5], [1000, 5]]


def test_along_the_learning_rate():
    """From 50 times the weight at the first rate to the weight itself at rate 0."""
    schedule = made(Schedule({"forces": {0: 1.0, 1: 50.0}}, by="learning_rate", between="linear"))
    assert weights_at(schedule, learning_rate=1.0) == [1, 250]
    assert weights_at(schedule, learning_rate=0.1) == pytest.approx([1, 5 * (1 + 49 * 0.1)])


def test_half_a_cosine():
    schedule = made(Schedule({"energy": {10: 0.0, 20: 4.0}}, by="step", between="cosine"))
    found = [weights_at(schedule, step=step)[0] for step in (0, 10, 15, 20, 30)]
    assert found == pytest.approx([0, 0, 2, 4, 4])


def test_normalized_weights_add_up_to_one():
    schedule = made(Schedule({"energy": {0: 1.0, 10: 3.0}}, between="linear", normalize=True))
    assert weights_at(schedule, epoch=5) == pytest.approx([2 / 7, 5 / 7])


def test_points_may_stand_in_any_order():
    assert weights_at(made(Schedule({"energy": {10: 3.0, 0: 2.0}})), epoch=0) == [2, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"factors": {"energy": {0: 1.0}}, "by": "epochs"}, "did you mean 'epoch'"),
        ({"factors": {"energy": {0: 1.0}}, "between": "lin"}, "did you mean 'linear'"),
        ({"factors": {"energy": {}}}, "at least one point"),
        ({"factors": {"energy": {0: -1.0}}}, "not negative"),
    ],
)
def test_plans_that_are_none(options, words):
    with pytest.raises(ValueError, match=words):
        pesloss.build({"_target_": "pesloss.weighting.Schedule", **options})


def test_a_plan_for_a_term_that_does_not_exist():
    with pytest.raises(ValueError, match="did you mean 'energy'"):
        made(Schedule({"enrgy": {0: 1.0}}))


@pytest.mark.parametrize(
    "weighting", [Schedule({"energy": {0: 1.0}}), SoftAdapt()], ids=lambda w: type(w).__name__
)
def test_a_loss_that_was_never_told_where_training_stands_does_not_train(weighting):
    batch = make()
    loss = TotalLoss({"energy": {}, "forces": {}}, weighting=weighting)
    with pytest.raises(RuntimeError, match=r"call loss.place\(\) before"):
        loss(leaves(batch), batch)
    loss.eval()
    assert loss(leaves(batch), batch).isfinite()


def test_a_plan_for_a_term_that_was_removed_is_none():
    """As for a sweep that takes a term away."""
    weighting = Schedule({"energy": {0: 2.0}})
    loss = TotalLoss({"energy": {}, "forces": {}}, weights={"energy": 0.0}, weighting=weighting)
    loss.place()
    batch = make()
    assert loss.evaluate(leaves(batch), batch).weights.keys() == {"forces"}


def trajectory(soft, losses, interval="epoch"):
    """Weights after each interval, whose losses are given."""
    found = []
    for count, values in enumerate(losses):
        soft(torch.tensor(values, dtype=torch.float64), LABELS)
        soft.advance(**{"epoch": 0, "step": 0, "learning_rate": 1.0, interval: count + 1})
        found.append(soft.current.clone())
    return torch.stack(found)


LOSSES = [[1.0, 2.0], [0.5, 1.9], [0.4, 1.5], [0.39, 1.0], [0.3, 0.9], [0.2, 0.8]]


def by_hand(losses, weights, frequency, beta=1.1):
    """The scheme again, in a loop; updates after each cycle of changes."""
    weights, cycle, found = torch.tensor(weights, dtype=torch.float64), [], []
    total, before = weights.sum(), weights
    for count, values in enumerate(losses):
        values = torch.tensor(values, dtype=torch.float64)
        if count:
            change = values - before
            a = weights * torch.exp(beta * change / change.norm())
            cycle.append(a / a.sum())
        before = values
        if (count + 1) % frequency == 0 and cycle:
            weights, cycle = total * sum(cycle) / len(cycle), []
        found.append(weights)
    return torch.stack(found)


@pytest.mark.parametrize("frequency", [1, 2, 3])
def test_soft_adapt_by_hand(frequency):
    found = trajectory(made(SoftAdapt(frequency=frequency)), LOSSES)
    torch.testing.assert_close(found, by_hand(LOSSES, [1.0, 5.0], frequency))
    torch.testing.assert_close(found.sum(1), torch.full((6,), 6.0, dtype=torch.float64))


def test_a_term_that_falls_slowly_gains():
    falls = [[1 - 0.1 * k, 1 - 0.01 * k] for k in range(6)]
    found = trajectory(made(SoftAdapt(frequency=1)), falls)
    assert (found[-1, 1] / found[-1, 0]) > 5


def test_steps_of_an_epoch_are_averaged():
    soft, means = made(SoftAdapt(frequency=1)), made(SoftAdapt(frequency=1))
    for epoch, values in enumerate(LOSSES):
        for step in (-0.1, 0.1):
            soft(torch.tensor(values, dtype=torch.float64) + step, LABELS)
            soft.advance(epoch=epoch, step=0, learning_rate=1.0)
        soft.advance(epoch=epoch + 1, step=0, learning_rate=1.0)
    torch.testing.assert_close(soft.current, trajectory(means, LOSSES)[-1])


def test_shares_of_an_accumulated_step_add_up():
    soft, means = made(SoftAdapt(frequency=1)), made(SoftAdapt(frequency=1))
    for epoch, values in enumerate(LOSSES):
        for share in (0.25, 0.75):
            soft(share * torch.tensor(values, dtype=torch.float64), LABELS)
        soft.advance(epoch=epoch + 1, step=0, learning_rate=1.0)
    torch.testing.assert_close(soft.current, trajectory(means, LOSSES)[-1])


def test_soft_adapt_goes_on_from_its_state():
    whole, first, second = (made(SoftAdapt(frequency=2)) for _ in range(3))
    trajectory(first, LOSSES[:3])
    second.load_state_dict(first.state_dict())
    for count, values in enumerate(LOSSES[3:], 4):
        second(torch.tensor(values, dtype=torch.float64), LABELS)
        second.advance(epoch=count, step=0, learning_rate=1.0)
    torch.testing.assert_close(second.current, trajectory(whole, LOSSES)[-1], rtol=0, atol=0)


def test_from_a_config():
    weighting = {
        "_target_": "pesloss.weighting.Schedule",
        "factors": {"energy": {0: 1.0, 5: 2.0}},
        "between": "linear",
    }
    node = {"_target_": "pesloss.NormalLoss", "terms": {"energy": {}}, "weighting": weighting}
    loss = pesloss.build(node)
    loss.advance(epoch=3)
    batch = make()
    assert float(loss.evaluate(leaves(batch), batch).weights["energy"]) == pytest.approx(1.6)
