"""Law 3: what has no label is in neither the sum nor the count, whatever is predicted for it."""

import pytest
import torch

from pesloss.losses import PropertyTerm, TotalLoss
from pesloss.losses.batch import structure_of_row
from tests.batches import ALL, MISSING, OUTPUTS, PREDICTED, make, parameters, predict, take
from tests.laws import (
    assert_finite,
    assert_same,
    forward,
    leaves,
    value_and_gradients,
    whole_step,
    without_labels,
)
from tests.parts import LOSSES, TERMS

GARBAGE = [float("nan"), float("inf"), -float("inf"), 1e300]
# these are there to count what has no label
DILUTED = ("mean_over_entries", "per_structure_all")
HONEST = [name for name in LOSSES if not name.endswith(DILUTED)]


def unlabelled(batch, structures):
    """The batch with the labels of some structures missing."""
    result = {key: value.clone() for key, value in batch.items()}
    for prop in ALL.values():
        of_rows = structure_of_row(batch, prop.rows, len(batch[prop.name]))
        result[prop.name][torch.isin(of_rows, torch.tensor(structures))] = MISSING
    return result


def without_rows(batch, rows):
    """The batch with some atoms cut out."""
    keep = torch.ones(len(batch["batch"]), dtype=torch.bool)
    keep[rows] = False
    cut = {key: value[keep] if len(value) == len(keep) else value for key, value in batch.items()}
    counts = torch.bincount(cut["batch"], minlength=len(batch["ptr"]) - 1)
    return {**cut, "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)])}


@pytest.mark.parametrize("name", HONEST)
def test_structures_without_labels_might_as_well_be_gone(name):
    batch = make()
    gone = value_and_gradients(LOSSES[name](), take(batch, [0, 2, 3, 5, 6]))
    assert_same(value_and_gradients(LOSSES[name](), unlabelled(batch, [1, 4, 7])), gone)


@pytest.mark.parametrize("name", [name for name in TERMS if "rows='atom'" in str(TERMS[name]().required)])
def test_atoms_without_labels_might_as_well_be_gone(name):
    batch, rows = make(), [2, 4, 10, 11]
    missing = {key: value.clone() for key, value in batch.items()}
    for prop in ALL.values():
        if prop.rows == "atom":
            missing[prop.name][rows] = MISSING
    found = value_and_gradients(LOSSES[name](), missing)
    assert_same(found, value_and_gradients(LOSSES[name](), without_rows(batch, rows)))


@pytest.mark.parametrize("name", LOSSES)
def test_an_absent_label_is_a_missing_one(name):
    batch = make()
    for prop in LOSSES[name]().labels:
        loss, absent = LOSSES[name](), {key: value for key, value in batch.items() if key != prop}
        missing = without_labels(batch, prop)
        assert_same(value_and_gradients(LOSSES[name](), absent), value_and_gradients(LOSSES[name](), missing))
        for found, expected in zip(whole_step(loss, [absent]), whole_step(loss, [missing]), strict=True):
            assert found == expected if not isinstance(found, torch.Tensor) else torch.equal(found, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_a_term_without_labels_is_a_connected_zero(name):
    for label in LOSSES[name]().labels:
        loss, batch = LOSSES[name](), without_labels(make(), label)
        predictions = leaves(batch)
        output = loss.evaluate(predictions, batch)
        empty = {term: part for term, part in loss.by_name.items() if label in part.labels}
        assert all(output.values[term] == 0 == output.weights[term] * output.values[term] for term in empty)
        needed = [predictions[prop] for part in empty.values() for prop in part.required]
        assert output.total.isfinite()
        assert all(bool((g == 0).all()) for g in torch.autograd.grad(output.total, needed))


@pytest.mark.parametrize("name", LOSSES)
def test_without_any_label_there_is_a_zero_gradient(name):
    batch = without_labels(make(), *ALL)
    predictions = leaves(batch)
    loss = LOSSES[name]()
    total = loss(predictions, batch)
    total.backward()
    assert total == 0
    needed = [predictions[prop].grad for prop in loss.required]
    assert all(gradient is not None and bool((gradient == 0).all()) for gradient in needed)


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_is_zero(name):
    batch = take(make(), [])
    theta, loss = parameters(), LOSSES[name]()
    total = loss(predict(theta, batch), batch)
    total.backward()
    assert total == 0 and all(bool((theta[prop].grad == 0).all()) for prop in loss.required)
    assert whole_step(loss, [batch]).labels.sum() == 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_predictions_without_a_label_or_weight_do_not_matter(name, garbage):
    """Where the gradient is zero because nothing counts there, anything may be predicted."""
    loss, batch = LOSSES[name](), make()
    predictions = leaves(batch)
    batch["energy_weight"][3], batch["forces_weight"][6], batch["weight"][4] = 0, 0, 0
    batch["entropy"] = batch["weight"]
    expected = forward(loss, predictions, batch)
    spoilt = {}
    for prop, prediction in predictions.items():
        rows, label = PREDICTED[prop].rows, OUTPUTS[prop][0] if prop in OUTPUTS else prop
        off = batch[label].isnan()
        if off.dim() == 3:
            off = off & off.mT  # of a symmetric tensor either triangle is enough for an error
        if prop in OUTPUTS:  # of several numbers for a label, those of a whole row
            off = off.reshape(len(off), -1).all(1).reshape(-1, *[1] * len(PREDICTED[prop].shape))
        weight = batch["weight"][structure_of_row(batch, rows, len(off))]
        off |= ((batch[f"{label}_weight"] == 0) | (weight == 0)).reshape(-1, *[1] * (off.dim() - 1))
        spoilt[prop] = torch.where(off, garbage, prediction.detach()).requires_grad_()
    assert_finite(expected)
    assert_same(forward(loss, spoilt, batch), expected)


def test_a_whole_entry_needs_its_whole_label():
    batch = make([3], missing=False, weights=False)
    batch["forces"][1, 2] = MISSING
    for penalty, labels in (("squared", 8), ("l2_norm", 6)):
        loss = TotalLoss({"forces": {"penalty": penalty}})
        predictions = leaves(batch)
        gradient = forward(loss, predictions, batch)[2]
        assert loss.step([batch]).labels.tolist() == [labels]
        assert gradient[1].count_nonzero() == (2 if penalty == "squared" else 0)


def test_a_shear_needs_one_number_of_each_triangle():
    batch = make([3], missing=False, weights=False)
    batch["stress"][0, 1, 2] = MISSING
    loss = TotalLoss({"stress": PropertyTerm("stress", residual="voigt")})
    assert loss.step([batch]).labels.tolist() == [5]
