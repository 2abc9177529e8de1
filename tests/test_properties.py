"""Law 7: quantities have a shape, a unit and a sign, and the table is open."""

import pytest
import torch

from pesloss.losses import PROPERTIES, Property, PropertyTerm, TotalLoss
from pesloss.losses.properties import as_properties, as_property
from tests.batches import USER, make
from tests.laws import leaves


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_name_is_its_property(name):
    assert as_property(name) is PROPERTIES[name] and PROPERTIES[name].name == name and PROPERTIES[name].unit


def test_an_unknown_property_gets_the_nearest():
    with pytest.raises(KeyError, match=r"did you mean 'forces'.*A property of your own"):
        PropertyTerm("force")


def test_a_property_of_ones_own_makes_a_term():
    batch = make()
    loss = TotalLoss({"etot": PropertyTerm(USER)})
    assert loss.required == {"mtt::etot": USER}
    assert loss(leaves(batch), batch) > 0


def test_properties_by_name():
    assert as_properties(["energy", USER]) == {"energy": PROPERTIES["energy"], "mtt::etot": USER}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (3, 0)}, "positive whole numbers"),
        ({"rows": "atom", "extensive": True}, "cannot be extensive"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Property("x", **options)


@pytest.mark.parametrize("prop", ["energy", "forces", "stress"])
def test_a_prediction_has_the_shape_of_its_label(prop):
    batch = make()
    predictions = leaves(batch)
    predictions[prop] = predictions[prop][..., None]
    with pytest.raises(ValueError, match=f"'{prop}' is predicted with shape"):
        TotalLoss({prop: {}})(predictions, batch)


@pytest.mark.parametrize("prop", ["energy", "forces", "stress"])
def test_a_prediction_has_the_shape_of_its_property_also_without_a_label(prop):
    batch = make()
    predictions = leaves(batch)
    predictions[prop] = predictions[prop][..., None]
    with pytest.raises(ValueError, match=f"'{prop}' is predicted with shape"):
        TotalLoss({prop: {}})(predictions, {key: value for key, value in batch.items() if key != prop})


def test_a_label_has_the_shape_of_its_property():
    batch = make()
    batch["energy"] = batch["energy"][:, None]
    with pytest.raises(ValueError, match=r"'energy' has shape \(8, 1\), expected"):
        TotalLoss({"energy": {}})({"energy": torch.zeros(8, 1)}, batch)
    batch["energy"] = torch.zeros(7)
    with pytest.raises(ValueError, match="'energy' has 7 rows for 8 structures"):
        TotalLoss({"energy": {}})({"energy": torch.zeros(7)}, batch)


def test_a_prediction_that_is_not_there_is_missed():
    with pytest.raises(KeyError, match=r"No 'energy' in predictions; found \['forces'\]"):
        TotalLoss({"energy": {}})({"forces": torch.zeros(25, 3)}, make())


def test_a_property_may_be_given_by_its_arguments():
    loss = TotalLoss({"etot": {"property": {"name": "mtt::etot", "shape": [2], "extensive": True}}})
    assert loss.required == {"mtt::etot": Property("mtt::etot", shape=[2], extensive=True)}
    with pytest.raises(TypeError, match="Unknown argument of a property 'row'; did you mean 'rows'"):
        TotalLoss({"etot": {"property": {"name": "etot", "row": "atom"}}})
