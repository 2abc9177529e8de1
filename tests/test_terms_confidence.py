"""The class of error of an atom's force, and what is learned of it."""

import pytest
import torch

from pesloss.losses import PerStructure, RootMean, Sum, TotalLoss
from pesloss.losses.terms.confidence import ConfidenceTerm
from tests.batches import MISSING, make, take
from tests.laws import EXACT, assert_same


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given():
    """Predictions with errors of all sizes, and their batch."""
    batch = make(missing=False, weights=False)
    spread = torch.logspace(-9, 1, 25, dtype=torch.float64)[:, None]
    predictions = {"forces": batch["forces"] + spread * normal(25, 3), "forces_confidence": normal(25, 6)}
    predictions["forces"][3] = batch["forces"][3]
    return {name: p.requires_grad_() for name, p in predictions.items()}, batch


def edges(spacing, largest=2.0, bins=6, smallest=1e-18):
    """Upper edges."""
    if spacing == "linear":
        return [largest * (k + 1) / bins for k in range(bins)]
    return [smallest * (largest / smallest) ** ((k + 1) / bins) for k in range(bins)]


def by_hand(predictions, batch, spacing, beyond, weights=None):
    log_p = predictions["forces_confidence"].log_softmax(1)
    errors = (predictions["forces"] - batch["forces"]).abs().mean(1).tolist()
    upper, costs, number = edges(spacing), [], 0
    for i, error in enumerate(errors):
        if error != error or (error > upper[-1] and beyond == "ignore"):
            continue
        weight = 1.0 if weights is None else float(weights[i])
        if weight == 0:
            continue
        place = next((k for k, edge in enumerate(upper) if error <= edge), len(upper) - 1)
        costs.append(-weight * log_p[i, place])
        number += 1
    return sum(costs) / number


def loss_of(**options):
    return TotalLoss({"confidence": ConfidenceTerm(**{"bins": 6, "largest": 2.0, **options})})


@pytest.mark.parametrize("spacing", ["linear", "exponential"])
@pytest.mark.parametrize("beyond", ["ignore", "last"])
def test_it_is_the_surprise_at_the_bin_of_the_error(spacing, beyond):
    predictions, batch = given()
    batch["forces"][5, 1] = MISSING
    batch["forces_weight"] = normal(25, seed=3).abs()
    batch["forces_weight"][7] = 0
    found = loss_of(spacing=spacing, beyond=beyond)(predictions, batch)
    expected = by_hand(predictions, batch, spacing, beyond, batch["forces_weight"])
    logits = predictions["forces_confidence"]
    torch.testing.assert_close(found, expected, **EXACT)
    pulls = [torch.autograd.grad(each, logits)[0] for each in (found, expected)]
    torch.testing.assert_close(*pulls, **EXACT)


@pytest.mark.parametrize("beyond", ["ignore", "last"])
def test_forces_are_only_looked_at(beyond):
    predictions, batch = given()
    (gradient,) = torch.autograd.grad(loss_of(beyond=beyond)(predictions, batch), predictions["forces"])
    assert bool((gradient == 0).all())


def test_if_all_errors_are_too_large_there_is_nothing_to_learn():
    predictions, batch = given()
    predictions["forces"] = predictions["forces"] + 100
    loss = loss_of()
    total = loss(predictions, batch)
    (gradient,) = torch.autograd.grad(total, predictions["forces_confidence"])
    assert total == 0 and bool((gradient == 0).all())


def test_what_is_learned_is_the_share_of_errors_in_each_bin():
    batch = make([400], missing=False, weights=False)
    predictions = {"forces": batch["forces"] + 0.5 * normal(400, 3)}
    logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    loss, optimizer = loss_of(largest=1.5), torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        total = loss({**predictions, "forces_confidence": logits.expand(400, 6)}, batch)
        total.backward()
        return total

    optimizer.step(closure)
    errors = (predictions["forces"] - batch["forces"]).abs().mean(1)
    shares = torch.histc(errors, 6, 0, 1.5) / (errors <= 1.5).sum()
    torch.testing.assert_close(logits.detach().softmax(0), shares, rtol=0, atol=1e-4)


@pytest.mark.parametrize("reduction", [Sum(), RootMean(), PerStructure()])
def test_other_reductions_accumulate_exactly(reduction):
    predictions, batch = given()
    loss = loss_of(reduction=reduction)
    whole = loss(predictions, batch)
    joined = {**batch, **{f"x::{name}": p.detach() for name, p in predictions.items()}}
    parts = [take(joined, part) for part in ([0, 1, 2], [3, 4, 5, 6, 7])]
    made = [{name: part[f"x::{name}"].clone().requires_grad_() for name in predictions} for part in parts]
    step = loss.step(parts, made)
    shares = [loss(p, part, step) for p, part in zip(made, parts, strict=True)]
    torch.testing.assert_close(sum(shares), whole, **EXACT)
    found = [
        torch.autograd.grad(share, p["forces_confidence"])[0] for share, p in zip(shares, made, strict=True)
    ]
    assert_same([torch.cat(found)], list(torch.autograd.grad(whole, predictions["forces_confidence"])))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bins": 1}, "two bins or more"),
        ({"spacing": "linar"}, "did you mean 'linear'"),
        ({"beyond": "igonre"}, "did you mean 'ignore'"),
        ({"largest": 0.0}, "Edges rise"),
        ({"smallest": 3.0}, "Edges rise"),
    ],
)
def test_what_makes_no_sense_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        loss_of(**options)


def test_the_formula_says_every_number():
    said = ConfidenceTerm(bins=17, largest=0.25).formula()
    assert "17 linear bins" in said and "0.25" in said
