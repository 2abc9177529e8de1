import pytest
import torch

from pesloss.losses import TotalLoss
from pesloss.recipes import from_config, node
from pesloss.recipes.schnetpack import Unsupervised
from tests.batches import make, take
from tests.laws import accumulated, assert_same, value_and_gradients
from tests.parity.drawing import Drawing

MSE = {"_target_": "torch.nn.MSELoss"}
METRICS = {"mae": {"_target_": "torchmetrics.regression.MeanAbsoluteError"}}


def output(name, weight, loss=MSE, **options):
    made = {"_target_": "schnetpack.task.ModelOutput", "name": name, "loss_fn": loss, "metrics": METRICS}
    return {**made, "loss_weight": weight, **options}


DOCUMENTED = {
    "md17": ({"task": {"outputs": [output("energy", 0.01), output("forces", 0.99)]}}, ["energy", "forces"]),
    "qm9_atomwise": ({"outputs": [output("energy_U0", 1.0)]}, ["energy"]),
    "qm9_dipole": ([output("dipole_moment", 1.0)], ["dipole"]),
    "response": (
        [
            output("energy", 1.0),
            output("forces", 5.0),
            output("dipole_moment", 0.01),
            output("polarizability", 0.01),
        ],
        ["energy", "forces", "dipole", "polarizability"],
    ),
    "user guide": (
        [output("forces", 0.9, target_property="forces"), output("energy", 0.0), output("homo", 1.0, None)],
        ["forces"],
    ),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_loss_is_one_of_ours(name):
    config, predicted = DOCUMENTED[name]
    assert list(from_config("schnetpack", config).required) == predicted


def test_yaml_text_is_read():
    text = """
    task:
      outputs:
        - _target_: schnetpack.task.ModelOutput
          name: energy
          loss_fn: {_target_: torch.nn.HuberLoss, delta: 0.2}
          loss_weight: 0.5
    """
    made = node("schnetpack", text)
    assert made["weights"] == {"energy": 0.5}
    assert made["huber_delta"] == {"energy": 0.2}


def test_a_property_of_your_own():
    shielding = {"name": "shielding_1", "rows": "atom", "shape": [3, 3]}
    loss = from_config("schnetpack", [output("shielding_1", 1.0)], properties={"shielding_1": shielding})
    assert loss.required["shielding_1"].shape == (3, 3)
    magnitude = from_config(
        "schnetpack", [output("dipole_moment", 1.0)], properties={"dipole_moment": {"name": "dipole_moment"}}
    )
    assert magnitude.required["dipole_moment"].shape == ()


def test_smooth_l1_without_a_smooth_part_is_l1():
    drawn = Drawing(labels=("forces",)).draw(0)
    smooth = {"_target_": "torch.nn.SmoothL1Loss", "beta": 0.0}
    loss = from_config("schnetpack", [output("forces", 1.0, smooth)])
    expected = (drawn.predictions["forces"] - drawn.batch["forces"]).abs().mean()
    torch.testing.assert_close(loss(drawn.predictions, drawn.batch), expected, rtol=1e-14, atol=0)


def test_a_regulariser_of_an_output_needs_no_label():
    drawn = Drawing(labels=("forces",)).draw(0)
    loss = TotalLoss({"size": Unsupervised("forces", penalty="squared")})
    expected = drawn.predictions["forces"].square().mean()
    unlabelled = {key: value for key, value in drawn.batch.items() if key != "forces"}
    for batch in (drawn.batch, unlabelled):
        torch.testing.assert_close(loss(drawn.predictions, batch), expected, rtol=1e-14, atol=0)
    assert loss.labels == {}
    assert "the label is 0" in loss.by_name["size"].formula()


def test_splitting_the_batch_changes_nothing():
    loss = TotalLoss({"size": Unsupervised("charges"), "energy": {"property": "energy"}})
    batch = make()
    parts = [take(batch, [0, 1, 2, 3, 4]), take(batch, [5, 6, 7])]
    assert_same(accumulated(loss, parts), value_and_gradients(loss, batch))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"ouputs": []}, "neither 'task' nor 'outputs'; found"),
        ("energy", "must be a list, got 'energy'"),
        ([{**output("energy", 1.0), "wieght": 2}], "Unknown key 'wieght'"),
        ([{**output("energy", 1.0), "_target_": "schnetpack.task.Output"}], "did you mean 'ModelOutput'"),
        (
            [output("enrgy", 1.0)],
            "Unknown property 'enrgy'; did you mean 'energy'.*Say what it is: properties=",
        ),
        ([output("energy", 1.0, {"_target_": "torch.nn.MSLoss"})], "did you mean 'torch.nn.MSELoss'"),
        ([output("energy", 1.0, {**MSE, "reduction": "none"})], "Unknown reduction 'none'"),
        ([output("energy", 1.0, {**MSE, "delta": 1.0})], "torch.nn.MSELoss: Unknown key 'delta'"),
        ([output("energy", 1.0), output("energy", 2.0)], "two outputs are called 'energy'"),
        ([output("forces", 1.0, constraints=[{"_target_": "my.Constraint"}])], "constraint 'my.Constraint'"),
        (
            [{**output("forces", 1.0), "_target_": "schnetpack.task.UnsupervisedModelOutput"}],
            "is code of your own; give the penalty whose mean it is",
        ),
    ],
)
def test_errors_name_what_was_found_and_what_is_accepted(config, match):
    with pytest.raises(ValueError, match=match):
        node("schnetpack", config)
