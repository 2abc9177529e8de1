"""Gradients that are written down are those that autograd would record."""

import pytest
import torch

from pesloss.losses import TotalLoss, explicit
from pesloss.losses.explicit import explicit_terms
from tests.batches import make
from tests.laws import assert_same, forward, leaves
from tests.parts import LOSSES, PENALTIES, RESIDUAL_OF, RESIDUALS


@pytest.fixture
def recorded(monkeypatch):
    """Makes losses take the long way."""
    return lambda: monkeypatch.setattr(explicit, "explicit_terms", lambda *_: [])


def shortened(loss, batch):
    """Names of the terms that take the short way."""
    terms = explicit_terms(list(loss.by_name.values()), leaves(batch), batch)
    return [name for name, term in loss.by_name.items() if term in terms]


EXPLICIT = [name for name, made in LOSSES.items() if shortened(made(), make())]


@pytest.mark.parametrize("name", PENALTIES)
def test_a_slope_is_the_derivative_of_the_cost(name):
    penalty, generator = PENALTIES[name](), torch.Generator().manual_seed(0)
    residual = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    residual[::5] = 0
    residual[3] = 0.7
    label = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    leaf = residual.clone().requires_grad_()
    expected = penalty(leaf, label)
    costs, slope = penalty.slope(residual, label)
    torch.testing.assert_close(costs, expected.detach(), rtol=1e-14, atol=0)
    weights = torch.rand(40, *[1] * (expected.dim() - 1), generator=generator, dtype=torch.float64)
    for weight in (None, weights):
        weighted = expected if weight is None else expected * weight
        (gradient,) = torch.autograd.grad(weighted.sum(), leaf, retain_graph=True)
        sums, pull = penalty.weighted_slope(residual, label, weight)
        torch.testing.assert_close(sums, weighted.sum().detach(), rtol=1e-13, atol=0)
        torch.testing.assert_close(penalty.slope_factor * pull, gradient, rtol=1e-13, atol=1e-15)
        if weight is None:
            torch.testing.assert_close(slope, gradient, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", EXPLICIT)
def test_both_ways_lead_to_the_same(name, recorded):
    batch = make()
    short = forward(LOSSES[name](), leaves(batch), batch)
    recorded()
    assert_same(short, forward(LOSSES[name](), leaves(batch), batch))


@pytest.mark.parametrize("name", EXPLICIT)
def test_gradients_of_gradients_are_those_of_the_long_way(name, recorded):
    def second():
        batch, loss = make(), LOSSES[name]()
        predictions = leaves(batch)
        used = [predictions[prop] for prop in loss.required]
        first = torch.autograd.grad(loss(predictions, batch), used, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), used, allow_unused=True))

    short = [torch.zeros(()) if g is None else g for g in second()]
    recorded()
    assert_same(short, [torch.zeros(()) if g is None else g for g in second()])


@pytest.mark.parametrize(
    "name", ["squared, mean", "huber, per_structure", "l2_norm, root_mean", "weight inside"]
)
def test_the_usual_losses_take_the_short_way(name):
    loss = LOSSES[name]()
    assert shortened(loss, make()) == list(loss.by_name)


def test_a_loss_may_go_both_ways():
    loss = TotalLoss({"forces": {}, "energy": {"residual": "relative"}, "stress": {"penalty": "l2_norm"}})
    assert shortened(loss, make()) == ["forces", "stress"]


def test_what_autograd_has_to_see_takes_the_long_way():
    batch, loss = make(), LOSSES["squared, mean"]()
    predictions, terms = leaves(batch), list(loss.by_name.values())
    weighted = {**batch, "weight": batch["weight"].clone().requires_grad_()}
    labelled = {**batch, "forces": batch["forces"].clone().requires_grad_()}
    for each in (weighted, labelled):
        assert len(explicit_terms(terms, predictions, each)) < len(terms)
    (gradient,) = torch.autograd.grad(loss(predictions, weighted), weighted["weight"])
    assert bool((gradient != 0).any())
    with torch.no_grad():
        assert not explicit_terms(terms, predictions, batch)


@pytest.mark.parametrize("name", [name for name, made in RESIDUALS.items() if made().has_adjoint])
def test_an_adjoint_is_the_derivative_of_the_residual(name):
    batch, residual = make(missing=False), RESIDUALS[name]()
    prop = RESIDUAL_OF[name]
    prediction = leaves(batch)[prop]
    made = residual(prediction, batch[prop], batch)
    slope = torch.randn(made.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (expected,) = torch.autograd.grad((made * slope).sum(), prediction)
    torch.testing.assert_close(residual.adjoint(slope, batch), expected, rtol=1e-13, atol=1e-15)
