import pytest
import torch

from pesloss.recipes import from_config, node
from tests.parity.drawing import Drawing

STRESSED = ("energy", "forces", "stress")
MOMENTS = {"labels": (*STRESSED, "magnetic_moments"), "shapes": {"magnetic_moments": ("atom", ())}}

DOCUMENTED = {
    "defaults": ({}, ["energy", "forces"]),
    "tutorial": ({"include_line_graph": True, "stress_weight": 0.01}, ["energy", "forces", "stress"]),
    "trainer": ({"loss": "huber_loss", "stress_weight": 0.1, "lr": 1e-3}, ["energy", "forces", "stress"]),
    "moments": ({"magmom_weight": 0.1}, ["energy", "forces", "magnetic_moments"]),
    "charges": ({"charge_weight": 0.1, "force_weight": 0.0}, ["energy", "charges"]),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_loss_is_one_of_ours(name):
    config, predicted = DOCUMENTED[name]
    assert list(from_config("matgl", config).required) == predicted


def test_stress_is_compared_in_gigapascals():
    drawn = Drawing(labels=STRESSED).draw(0)
    loss = from_config("matgl", {"stress_weight": 1.0, "loss": "l1_loss"})
    value = loss.evaluate(drawn.predictions, drawn.batch).values["stress"]
    expected = 160.21766208 * (drawn.predictions["stress"] - drawn.batch["stress"]).abs().mean()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=0)


def test_moments_of_each_structure_have_a_sign_of_their_own_unless_faithful():
    drawn = Drawing(**MOMENTS).draw(0)
    config = {"magmom_weight": 1.0, "magmom_target": "symbreak"}
    prediction, label = drawn.predictions["magnetic_moments"], drawn.batch["magnetic_moments"]
    sums = [
        torch.stack([(p - m).square().sum(), (p + m).square().sum()]).min()
        for p, m in zip(*(v.split(drawn.num_atoms.tolist()) for v in (prediction, label)), strict=True)
    ]
    values = from_config("matgl", config).evaluate(drawn.predictions, drawn.batch).values
    torch.testing.assert_close(
        values["magnetic_moments"], (sum(sums) / len(label)).detach(), rtol=1e-13, atol=0
    )
    together = from_config("matgl", config, faithful=True).evaluate(drawn.predictions, drawn.batch).values
    assert together["magnetic_moments"] > values["magnetic_moments"]


def test_a_property_without_labels_leaves_the_others_alone():
    drawn = Drawing(labels=STRESSED).draw(0)
    drawn.batch["stress"] = torch.full_like(drawn.batch["stress"], torch.nan)
    with_stress = from_config("matgl", {"stress_weight": 0.1, "allow_missing_labels": True})
    without = from_config("matgl", {})
    found, expected = (loss(drawn.predictions, drawn.batch) for loss in (with_stress, without))
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_charges_have_the_delta_of_the_others_unless_faithful():
    drawn = Drawing(labels=("energy", "forces", "charges")).draw(0)
    config = {"loss": "smooth_l1_loss", "loss_params": {"beta": 0.2}, "charge_weight": 1.0}
    residual = drawn.predictions["charges"].detach() - drawn.batch["charges"]
    for faithful, beta in ((False, 0.2), (True, 1.0)):
        loss = from_config("matgl", config, faithful=faithful)
        value = loss.evaluate(drawn.predictions, drawn.batch).values["charges"]
        expected = torch.nn.functional.smooth_l1_loss(residual, torch.zeros_like(residual), beta=beta)
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"forces_weight": 1.0}, "MatGL: Unknown key 'forces_weight'; did you mean 'force_weight'"),
        ({"loss": "mse"}, "did you mean 'mse_loss'.* MatGL itself takes it for l1_loss"),
        ({"loss": "huber_loss", "loss_params": {"beta": 1}}, "loss_params of huber_loss: Unknown key 'beta'"),
        ({"loss_params": {"delta": 1}}, "loss_params of mse_loss: Unknown key 'delta'"),
        ({"magmom_weight": 1, "magmom_target": "abs"}, "Unknown target 'abs'; did you mean 'absolute'"),
        ("text", "must be a mapping"),
    ],
)
def test_errors_name_what_was_found_and_what_is_accepted(config, match):
    with pytest.raises(ValueError, match=match):
        node("matgl", config)
