"""From costs to a value: against loops in NumPy, with missing labels and every weight of a batch."""

import numpy as np
import pytest
import torch

from pesloss.losses import Mean, PropertyTerm, RootMean, Squared, TotalLoss
from tests import references
from tests.batches import ALL, make
from tests.laws import leaves
from tests.parts import PENALTIES, REDUCTIONS, RESIDUALS, fits

CASES = [
    (prop, residual, penalty, reduction)
    for prop, residual, penalties in (
        ("forces", "difference", ("huber", "l2_norm")),
        ("stress", "voigt", ("squared", "l2_norm")),
        ("energy", "per_atom", ("absolute",)),
        ("charges", "difference", ("squared",)),
    )
    for penalty in penalties
    for reduction in REDUCTIONS
    if fits(REDUCTIONS[reduction](), prop)
]


def built(prop, residual, penalty, reduction):
    return PropertyTerm(
        ALL[prop],
        residual=RESIDUALS[residual](),
        penalty=PENALTIES[penalty](),
        reduction=REDUCTIONS[reduction](),
    )


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_equals_numpy(case):
    batch = make()
    predictions = leaves(batch)
    found = TotalLoss({"term": built(*case)})(predictions, batch).detach()
    expected = references.term(batch, predictions[case[0]], *case)
    np.testing.assert_allclose(float(found), expected, rtol=1e-13)


def test_denominators():
    """One structure, three labels of four, weights 2, 0, 5 and 3 of the labelled and the missing one."""
    batch = make([1, 1, 1, 1], missing=False, weights=False)
    batch["energy"][3] = float("nan")
    batch["weight"] = torch.tensor([2.0, 0.0, 5.0, 3.0], dtype=torch.float64)
    counts = {
        name: PropertyTerm("energy", reduction=Mean(name)).count(batch).counts.tolist()
        for name in ("labels", "weights", "entries")
    }
    assert counts == {"labels": [2], "weights": [7], "entries": [4]}


@pytest.mark.parametrize("name", ["mean", "per_structure", "root_mean"])
def test_the_mean_of_a_constant_is_the_constant(name):
    batch = make(weights=False)
    predictions = {"forces": torch.where(batch["forces"].isnan(), 0, batch["forces"]) + 3.0}
    value = TotalLoss({"forces": {"penalty": "absolute", "reduction": name}})(predictions, batch)
    torch.testing.assert_close(value, torch.tensor(3.0**0.5 if name == "root_mean" else 3.0).double())


def test_a_root_of_zero_has_zero_gradient():
    batch = make(missing=False)
    predictions = {"forces": batch["forces"].clone().requires_grad_()}
    total = TotalLoss({"forces": {"reduction": "root_mean"}})(predictions, batch)
    total.backward()
    assert total == 0 and not predictions["forces"].grad.any()


def test_slope_is_the_derivative_of_the_value():
    sums = torch.tensor([2.7], dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([5.0], dtype=torch.float64)
    (expected,) = torch.autograd.grad(RootMean().value(sums, counts), sums)
    torch.testing.assert_close(RootMean().slope(sums.detach(), counts), expected)


def test_weights_of_low_precision_are_summed_in_high():
    batch = make(missing=False, weights=False)
    batch["forces_weight"] = torch.full((25,), 1.0, dtype=torch.bfloat16)
    batch["forces_weight"][0] = 256
    term = PropertyTerm("forces", penalty=Squared(), reduction=Mean("weights"))
    assert term.count(batch).counts.tolist() == [3 * (256 + 24)]


def test_an_unknown_denominator_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'weights'"):
        Mean("weight")
