"""A penalty of the model enters a step once, however many batches and ranks the step has."""

import pytest
import torch
from torch import nn

from pesloss.losses import PropertyTerm, TotalLoss
from pesloss.losses.terms.regularisers import ModelTerm, WeightPenalty
from tests.batches import make, parameters, predict, take
from tests.laws import EXACT, assert_same

PATTERNS = {
    "*": ["0.weight", "0.bias", "2.weight", "2.bias"],
    "0.*": ["0.weight", "0.bias"],
    "*.weight": ["0.weight", "2.weight"],
    "2.bias": ["2.bias"],
}
DEALS = [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 2, 3, 4], [5, 6, 7], []], [[i] for i in range(8)]]


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)).double()


def loss_of(term, attached):
    loss = TotalLoss({"energy": PropertyTerm("energy"), "weights": term}, weights={"weights": 0.3})
    loss.attach(attached)
    return loss


def total_and_gradients(loss, attached, batch, step=None):
    theta = parameters()
    total = loss(predict(theta, batch), batch, step)
    found = torch.autograd.grad(total, [theta["energy"], *attached.parameters()], allow_unused=True)
    return [total.detach(), *(torch.zeros(1) if gradient is None else gradient for gradient in found)]


@pytest.mark.parametrize("power", [1, 2, 3.5])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_is_the_sum_over_the_parameters_of_that_name(power, pattern):
    attached = model()
    values = attached.state_dict()
    expected = sum(abs(v) ** power for name in PATTERNS[pattern] for v in values[name].flatten().tolist())
    term = WeightPenalty(pattern, power, weight=1.0)
    assert term.cost(attached).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("deal", DEALS)
def test_accumulated_batches_count_it_once(deal):
    batch, attached = make(), model()
    loss = loss_of(WeightPenalty(), attached)
    parts = [take(batch, part) for part in deal]
    step = loss.step(parts)
    assert step.labels[1] == sum(map(bool, deal))
    whole = total_and_gradients(loss, attached, batch)
    shares = [total_and_gradients(loss, attached, part, step) for part in parts]
    assert_same([sum(values) for values in zip(*shares, strict=True)], whole)
    expected = loss_of(PropertyTerm("energy"), attached).evaluate(predict(parameters(), batch), batch)
    found = loss.evaluate(predict(parameters(), batch), batch)
    torch.testing.assert_close(found.values["energy"], expected.values["energy"])
    torch.testing.assert_close(found.values["weights"], WeightPenalty().cost(attached), **EXACT)


def test_an_empty_step_costs_nothing():
    attached = model()
    found = total_and_gradients(loss_of(WeightPenalty(), attached), attached, take(make(), []))
    assert all(bool((value == 0).all()) for value in found)


@pytest.mark.parametrize("power", [1, 1.5, 2])
def test_its_gradient_at_zero_is_zero(power):
    attached = nn.Linear(2, 2)
    nn.init.zeros_(attached.weight)
    WeightPenalty("weight", power).cost(attached).backward()
    assert attached.weight.grad.count_nonzero() == 0


def test_parameters_that_are_held_are_left_out():
    attached = model()
    attached[0].requires_grad_(False)
    term = WeightPenalty()
    torch.testing.assert_close(term.cost(attached), WeightPenalty("2.*").cost(attached))
    with pytest.raises(ValueError, match=r"Unknown pattern of trained parameters '0\.\*'"):
        WeightPenalty("0.*").attach(attached)


def test_a_regulariser_of_ones_own_is_one_method():
    class Bound(ModelTerm):
        """Spectral norm of the first layer."""

        def cost(self, model):
            return torch.linalg.matrix_norm(model[0].weight, 2)

        def formula(self):
            return "‖W₀‖"

    batch, attached = make(), model()
    found = loss_of(Bound(), attached).evaluate(predict(parameters(), batch), batch)
    expected = torch.linalg.svdvals(attached[0].weight)[0]
    torch.testing.assert_close(found.values["weights"], expected.detach())


def test_the_loss_neither_learns_nor_saves_the_model():
    loss = loss_of(WeightPenalty(), model())
    assert not list(loss.parameters()) and not any("weight" in key for key in loss.state_dict())


def test_smaller_weights_are_learned_with_a_larger_penalty():
    norms = []
    for weight in (0.0, 1e-3, 1e-1):
        attached, inputs = model(), torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(8, 3)
        term = WeightPenalty(weight=1.0)
        loss = TotalLoss({"energy": PropertyTerm("energy"), "weights": term}, weights={"weights": weight})
        loss.attach(attached)
        batch = make(missing=False, weights=False)
        optimizer = torch.optim.Adam(attached.parameters(), lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            loss({"energy": attached(inputs)[:, 0]}, batch).backward()
            optimizer.step()
        norms.append(term.cost(attached).item())
    assert norms[0] > norms[1] > norms[2]


def test_a_model_has_to_be_attached():
    loss = TotalLoss({"weights": WeightPenalty()})
    with pytest.raises(RuntimeError, match=r"call loss\.attach\(model\) first"):
        loss({}, make())


def test_a_name_that_no_parameter_has_gets_the_nearest():
    with pytest.raises(ValueError, match=r"'0\.weigth'; did you mean '0\.weight'"):
        loss_of(WeightPenalty("0.weigth"), model())


@pytest.mark.parametrize("power", [0.5, 0, -1, float("inf"), float("nan")])
def test_a_power_is_at_least_one(power):
    with pytest.raises(ValueError, match="power must be at least 1"):
        WeightPenalty(power=power)
