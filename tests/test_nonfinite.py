"""Law 4: what is not finite is loud, and the culprit has a name."""

import pytest
import torch

from pesloss.losses import PropertyTerm, TotalLoss, explain_nonfinite
from pesloss.losses.nonfinite import Culprit, find_nonfinite
from tests.batches import PREDICTED, make
from tests.laws import leaves
from tests.parts import LOSSES

BAD = [float("nan"), float("inf"), -float("inf")]
STRUCTURE = 1  # of a config type with a weight


def row(batch, prop):
    """A row of that structure; of an atom that is free."""
    if PREDICTED[prop].rows == "structure":
        return STRUCTURE
    return int((~batch["fixed"] & (batch["batch"] == STRUCTURE)).nonzero()[0])


def spoil(values, index, bad):
    spoilt = values.detach().clone()
    spoilt[index].view(-1)[0] = bad
    return spoilt.requires_grad_(values.requires_grad)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", BAD)
def test_a_prediction_that_is_not_finite_makes_the_total_so(name, bad):
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    for prop in LOSSES[name]().required:
        spoilt = {**predictions, prop: spoil(predictions[prop], slice(row(batch, prop), None), bad)}
        assert not LOSSES[name]()(spoilt, batch).isfinite()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", BAD[1:])
def test_an_infinite_label_is_loud(name, bad):
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    for prop in LOSSES[name]().labels:
        spoilt = {**batch, prop: spoil(batch[prop], slice(row(batch, prop), None), bad)}
        assert not LOSSES[name]()(predictions, spoilt).isfinite()


def test_infinite_labels_of_both_signs_are_no_missing_label():
    batch = make(missing=False, weights=False)
    batch["stress"][0, 1, 2], batch["stress"][0, 2, 1] = float("inf"), -float("inf")
    assert not TotalLoss({"stress": {"residual": "voigt"}})(leaves(batch), batch).isfinite()


@pytest.mark.parametrize("key", ["weight", "forces_weight", "atom_weight"])
def test_a_weight_that_is_not_finite_is_loud(key):
    batch = make(missing=False)
    batch[key][batch["batch"] == 3 if key != "weight" else 3] = float("nan")
    loss = LOSSES["squared, mean"]()
    assert not loss(leaves(batch), batch).isfinite()
    sentence = explain_nonfinite(loss, leaves(batch), batch)
    assert f"'{key}' is not finite in structures 103" in sentence


@pytest.mark.parametrize("what", ["label", "prediction"])
@pytest.mark.parametrize("prop", ["energy", "forces", "stress"])
def test_the_culprit_is_named(prop, what):
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    spoilt = batch if what == "label" else predictions
    spoilt[prop] = spoil(spoilt[prop], slice(row(batch, prop), None), float("inf"))
    sentence = explain_nonfinite(LOSSES["squared, mean"](), predictions, batch)
    assert f"term '{prop}': {what} of '{prop}' is not finite in structures 101" in sentence
    assert f"term '{prop}': value is inf" in sentence
    assert not any(f"term '{other}'" in sentence for other in {"energy", "forces", "stress"} - {prop})


def test_what_does_not_count_is_not_accused():
    batch = make(missing=False, weights=False)
    predictions = {prop: value.detach() for prop, value in leaves(batch).items()}
    batch["energy_weight"] = torch.ones(8, dtype=torch.float64)
    batch["energy_weight"][2] = 0
    predictions["energy"][2] = float("nan")
    predictions["forces"][5] = float("nan")
    sentence = explain_nonfinite(LOSSES["squared, mean"](), predictions, batch)
    assert "'forces'" in sentence and "'energy'" not in sentence


@pytest.mark.parametrize("training", [True, False])
def test_explaining_changes_nothing(training):
    loss, batch = LOSSES["weighting likelihood"]().train(training), make()
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    explain_nonfinite(loss, leaves(batch), batch)
    assert {module.training for module in loss.modules()} == {training}
    assert all(torch.equal(before[key], value) for key, value in loss.state_dict().items())


def test_if_all_is_finite_the_weights_are_left():
    batch = make()
    sentence = explain_nonfinite(LOSSES["squared, mean"](), leaves(batch), batch)
    assert "look at the weights of the terms" in sentence


def test_many_structures_are_counted():
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    predictions["energy"] = torch.full_like(predictions["energy"], float("nan"))
    loss = TotalLoss({"e": PropertyTerm("energy")})
    assert "100, 101, 102, 103, 104 and 3 more" in explain_nonfinite(loss, predictions, batch)


def test_culprits_are_data_too():
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    predictions["energy"] = spoil(predictions["energy"], STRUCTURE, float("nan"))
    found = find_nonfinite(LOSSES["squared, mean"](), predictions, batch)
    assert found == (
        Culprit("prediction", ("energy",), "energy", (101,)),
        Culprit("value", ("nan",), "energy"),
    )
    assert found[0].sentence(lambda index: f"my.xyz, structure {index}") == (
        "term 'energy': prediction of 'energy' is not finite in my.xyz, structure 101"
    )


def test_nothing_is_found_where_all_is_finite():
    batch = make()
    assert find_nonfinite(LOSSES["squared, mean"](), leaves(batch), batch) == ()


def test_a_cost_that_overflows_has_its_structure_named():
    """The square of an energy that single precision holds is more than it holds."""
    batch = {key: v.float() if v.is_floating_point() else v for key, v in make(missing=False).items()}
    predictions = {"energy": batch["energy"] + 1}
    predictions["energy"][3] = 1e30
    sentence = explain_nonfinite(TotalLoss({"energy": {"penalty": "squared"}}), predictions, batch)
    assert sentence == "term 'energy': value is inf in structures 103"


def test_a_pair_of_atoms_belongs_to_its_structure():
    batch = make(missing=False, weights=False)
    predictions = {"hessian": batch["hessian"].clone()}
    pairs = batch["ptr"].diff().square().cumsum(0)
    predictions["hessian"][pairs[2] + 1, 0, 0] = float("nan")
    assert "in structures 103" in explain_nonfinite(TotalLoss({"hessian": {}}), predictions, batch)
