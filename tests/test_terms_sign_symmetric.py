"""Labels up to a sign: flipping them changes nothing."""

from itertools import pairwise

import pytest
import torch

from pesloss.losses import Huber, PerStructure, PropertyTerm, QuantileHuber, RootMean, TotalLoss
from pesloss.losses.terms.sign_symmetric import SignSymmetricTerm
from tests.batches import make
from tests.laws import EXACT, assert_same, forward, leaves

NAME = "magnetic_moments"
PARTS = {
    "squared": {},
    "huber": {"penalty": Huber(0.3)},
    "per structure": {"penalty": "absolute", "reduction": PerStructure()},
    "root mean": {"reduction": RootMean()},
    "relative": {"residual": "relative"},
    "noncollinear": {"property": f"noncollinear_{NAME}", "penalty": "l2_norm"},
    "components": {"property": f"noncollinear_{NAME}", "components": [1.0, 0.5, 2.0]},
}


def value(batch, predictions, **options):
    return forward(TotalLoss({"moments": SignSymmetricTerm(**options)}), predictions, batch)


def flipped(batch, structures, prop):
    rows = torch.isin(batch["batch"], torch.tensor(structures))
    sign = torch.where(rows, -1.0, 1.0).double()
    return {**batch, prop: batch[prop] * sign.reshape(-1, *[1] * (batch[prop].dim() - 1))}


@pytest.mark.parametrize("parts", PARTS)
def test_the_sign_of_each_structure_does_not_matter(parts):
    batch, prop = make(), PARTS[parts].get("property", NAME)
    predictions = leaves(batch)
    expected = value(batch, predictions, **PARTS[parts])
    assert_same(value(flipped(batch, [1, 4, 6], prop), predictions, **PARTS[parts]), expected)


@pytest.mark.parametrize("parts", PARTS)
def test_the_sign_of_all_together_does_not_matter(parts):
    batch, prop = make(), PARTS[parts].get("property", NAME)
    predictions = leaves(batch)
    options = {**PARTS[parts], "by": "batch"}
    expected = value(batch, predictions, **options)
    assert_same(value(flipped(batch, range(8), prop), predictions, **options), expected)
    assert value(flipped(batch, [1, 4], prop), predictions, **options)[0] != expected[0]


@pytest.mark.parametrize("parts", PARTS)
def test_of_both_signs_the_whole_takes_the_better(parts):
    batch, prop = make(), PARTS[parts].get("property", NAME)
    predictions = leaves(batch)
    found = value(batch, predictions, **PARTS[parts], by="batch")
    usual = {key: part for key, part in PARTS[parts].items() if key != "property"}
    both = [
        forward(TotalLoss({"moments": PropertyTerm(prop, **usual)}), predictions, each)
        for each in (batch, flipped(batch, range(8), prop))
    ]
    assert_same(found, min(both, key=lambda parts: float(parts[0])))


def test_of_both_signs_every_structure_takes_the_better():
    batch = make(missing=False, weights=False)
    predictions = {NAME: leaves(batch)[NAME]}
    offsets = batch["ptr"].tolist()
    expected = sum(
        min((predictions[NAME][a:b] - sign * batch[NAME][a:b]).square().sum().item() for sign in (1, -1))
        for a, b in pairwise(offsets)
    )
    torch.testing.assert_close(value(batch, predictions)[0].item(), expected / 25, **EXACT)


def test_what_is_right_up_to_the_sign_costs_nothing():
    batch = make(weights=False)
    predictions = {NAME: (-batch[NAME].nan_to_num()).requires_grad_()}
    total, gradient = value(batch, predictions)
    assert total == 0 and bool((gradient == 0).all())


def test_an_open_huber_is_closed_by_the_loss():
    batch = make()
    predictions = leaves(batch)
    loss = TotalLoss({"moments": SignSymmetricTerm(penalty="huber")}, huber_delta=0.3)
    assert_same(forward(loss, predictions, batch), value(batch, predictions, penalty=Huber(0.3)))


def test_scales_are_fitted_through_it():
    batch = make()
    loss = TotalLoss({"moments": SignSymmetricTerm(residual="standardized")})
    loss.pre_fit([batch])
    usual = TotalLoss({"moments": PropertyTerm(NAME, residual="standardized")})
    usual.pre_fit([batch])
    assert loss.terms["moments"].term.residual.sigma == usual.terms["moments"].residual.sigma != 1


def test_the_model_is_asked_for_what_is_labelled():
    term = SignSymmetricTerm("charges", label="measured")
    assert set(term.required) == {"charges"} and set(term.labels) == {"measured"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"by": "structur"}, "did you mean 'structure'"),
        ({"penalty": QuantileHuber(0.9, 1.0)}, "of which there are two kinds"),
    ],
)
def test_what_makes_no_sense_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        SignSymmetricTerm(**options)


def test_the_formula_says_what_is_flipped():
    assert "each structure" in SignSymmetricTerm().formula()
    assert "the whole step" in SignSymmetricTerm(by="batch").formula()
