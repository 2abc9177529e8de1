"""What a loss is made of, and the handle for every delta."""

import pytest
import torch

from pesloss.losses import Huber, PropertyTerm, TotalLoss, UncertaintyLoss
from tests.batches import make
from tests.laws import assert_same, forward, leaves

OPEN = {"energy": {"residual": "per_atom", "penalty": "huber"}, "forces": {"penalty": "scaled_huber"}}


def delta_of(loss, term):
    return float(loss.by_name[term].penalty.delta)


def test_one_delta_for_all():
    loss = TotalLoss(OPEN, huber_delta=0.2)
    assert delta_of(loss, "energy") == delta_of(loss, "forces") == 0.2


def test_a_delta_by_term():
    loss = TotalLoss(OPEN, huber_delta={"energy": 0.01, "forces": 1})
    assert (delta_of(loss, "energy"), delta_of(loss, "forces")) == (0.01, 1)


def test_a_delta_that_is_given_stays():
    loss = TotalLoss({**OPEN, "stress": {"penalty": Huber(0.5)}}, huber_delta=0.2)
    assert delta_of(loss, "stress") == 0.5


def test_the_handle_is_the_penalty_spelt_out():
    batch = make()
    predictions = leaves(batch)
    spelt = {
        "energy": {"residual": "per_atom", "penalty": Huber(0.2)},
        "forces": {"penalty": Huber(0.2, scale=True)},
    }
    found = forward(TotalLoss(OPEN, huber_delta=0.2), predictions, batch)
    assert_same(found, forward(TotalLoss(spelt), predictions, batch))


@pytest.mark.parametrize(
    ("terms", "delta", "message"),
    [
        (OPEN, None, "Term 'energy' has a Huber penalty without a delta"),
        (OPEN, {"energy": 0.1}, "Term 'forces' has a Huber penalty without a delta"),
        (OPEN, {"energy": 0.1, "force": 0.1}, "did you mean 'forces'"),
        (OPEN, {"energy": 0.1, "forces": 0}, "finite delta > 0"),
        (OPEN, -0.1, "finite delta > 0"),
        ({"energy": {}}, 0.1, "huber_delta=0.1 acts on nothing"),
        ({"energy": {"penalty": Huber(0.1)}}, 0.1, "acts on nothing"),
        ({"energy": {}}, {"energy": 0.1}, "term with an open Huber penalty 'energy'"),
    ],
)
def test_a_delta_that_is_missing_or_acts_on_nothing(terms, delta, message):
    with pytest.raises(ValueError, match=message):
        TotalLoss(terms, huber_delta=delta)


def test_one_penalty_cannot_have_two_deltas():
    shared = Huber()
    terms = {name: PropertyTerm(name, penalty=shared) for name in ("energy", "forces")}
    with pytest.raises(ValueError, match="share a Huber penalty"):
        TotalLoss(terms, huber_delta={"energy": 0.1, "forces": 0.2})


def test_a_term_of_weight_zero_needs_no_delta():
    assert set(TotalLoss(OPEN, huber_delta={"energy": 0.1}, weights={"forces": 0}).by_name) == {"energy"}
    assert set(
        TotalLoss(OPEN, huber_delta={"energy": 0.1, "forces": 0.1}, weights={"forces": 0}).by_name
    ) == {"energy"}


def test_arguments_are_a_term():
    batch = make()
    predictions = leaves(batch)
    found = forward(TotalLoss({"energy": {"residual": "per_atom", "weight": 2.0}}), predictions, batch)
    expected = TotalLoss({"energy": PropertyTerm("energy", residual="per_atom")}, weights={"energy": 2.0})
    assert_same(found, forward(expected, predictions, batch))


def test_weights_of_term_and_loss_multiply():
    loss = TotalLoss({"energy": {"weight": 2.0}, "forces": {"weight": 5.0}}, weights={"energy": 3.0})
    assert loss.weighting.prior.tolist() == [6.0, 5.0]


def test_a_property_may_have_two_terms():
    loss = TotalLoss({"energy": {}, "mae": {"property": "energy", "penalty": "absolute"}})
    assert set(loss.required) == {"energy"} and len(loss.by_name) == 2


def test_what_is_no_term_is_refused():
    with pytest.raises(TypeError, match=r"'energy' must be a Term|TotalLoss"):
        TotalLoss({"energy": "squared"})


def test_a_root_of_a_mean_needs_the_predictions_of_its_step():
    loss, batch = TotalLoss({"energy": {"reduction": "root_mean"}}), make()
    step = loss.step([batch], [leaves(batch)])._replace(sums=None)
    with pytest.raises(ValueError, match="made without predictions"):
        loss(leaves(batch), batch, step)


def test_only_what_is_learned_has_groups():
    assert TotalLoss({"energy": {}}).parameter_groups() == []
    (group,) = UncertaintyLoss({"energy": {}}).parameter_groups()
    assert group["weight_decay"] == 0 and group["lr"] == 0.01


def test_a_step_has_no_graph():
    loss, batch = TotalLoss({"energy": {"reduction": "root_mean"}}), make()
    assert not any(
        part.requires_grad for part in loss.step([batch], [leaves(batch)]) if isinstance(part, torch.Tensor)
    )
