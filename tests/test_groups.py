"""Weights of structures by the name of their config type or dataset."""

import pytest
import torch

from pesloss.losses import TotalLoss, group_code
from pesloss.losses.groups import GroupWeights
from tests.batches import make, take
from tests.laws import assert_same, forward, leaves, value_and_gradients
from tests.parts import PENALTIES, REDUCTIONS, three_terms


def loss(**options):
    return three_terms(PENALTIES["huber"], REDUCTIONS["mean"], **options)


def weights_of(names, weights):
    codes = torch.tensor([group_code(name) for name in names])
    return GroupWeights("config_type", weights)({"config_type": codes}).tolist()


def test_names_that_are_not_listed_have_weight_one():
    assert weights_of(["bulk", "surface", "gas"], {"surface": 3.0, "bulk": 0.0}) == [0, 3, 1]
    assert weights_of([], {"surface": 3.0}) == []


def test_groups_and_structures_multiply():
    batch = make()
    product = dict(batch)
    product["weight"] = (
        batch["weight"] * torch.tensor([2, 3, 2, 1, 3, 2, 2, 1.0]) * torch.tensor([0.5, 1.0] * 4)
    )
    grouped = loss(config_type_weights={"bulk": 2, "surface": 3}, dataset_weights={"a": 0.5})
    predictions = leaves(batch)
    assert_same(forward(grouped, predictions, batch), forward(loss(), predictions, product))


def test_a_group_of_weight_zero_might_as_well_be_gone():
    batch = make()
    gone = value_and_gradients(loss(), take(batch, [1, 3, 4, 7]))
    assert_same(value_and_gradients(loss(config_type_weights={"bulk": 0}), batch), gone)


def test_a_batch_without_groups_is_refused():
    batch = make()
    predictions = leaves(batch)
    del batch["dataset"]
    with pytest.raises(
        KeyError, match=r"Weights are given for dataset \['a'\], but the batch has no 'dataset'"
    ):
        loss(dataset_weights={"a": 2})(predictions, batch)


@pytest.mark.parametrize("key", ["config_type", "dataset"])
@pytest.mark.parametrize(
    ("weight", "error"), [(-1, ValueError), (float("nan"), ValueError), ("2", TypeError)]
)
def test_a_weight_is_a_number(key, weight, error):
    with pytest.raises(error, match=f"{key}.weight"):
        loss(**{f"{key}_weights": {"bulk": weight}})


def test_the_weight_of_a_structure_may_have_another_name():
    batch = make()
    predictions = leaves(batch)
    renamed = {("entropy" if key == "weight" else key): value for key, value in batch.items()}
    expected = forward(loss(), predictions, batch)
    assert_same(forward(loss(structure_weight="entropy"), predictions, renamed), expected)
    root = batch["weight"].sqrt()
    both = {**renamed, "entropy": root, "weight": root}
    assert_same(forward(loss(structure_weight="entropy"), predictions, both), expected)


def test_without_weights_every_structure_is_the_same():
    batch = make(weights=False)
    ones = {**batch, "weight": torch.ones(8, dtype=torch.float64)}
    predictions = leaves(batch)
    named = TotalLoss({"energy": {}}, structure_weight="entropy")
    assert_same(forward(named, predictions, batch), forward(TotalLoss({"energy": {}}), predictions, ones))
