import pytest
import torch

from pesloss.recipes import from_config, node
from tests.parity.drawing import Drawing

NO_AVERAGE = {"ema_alpha_y": 1.0, "ema_alpha_neg_dy": 1.0}
EXAMPLES = {
    "ET-ANI1": {"derivative": False, **NO_AVERAGE, "y_weight": 1.0, "neg_dy_weight": 1.0},
    "ET-MD17": {
        "derivative": True,
        "ema_alpha_y": 0.05,
        "ema_alpha_neg_dy": 1.0,
        "y_weight": 0.2,
        "neg_dy_weight": 0.8,
    },
    "ET-SPICE": {"derivative": True, **NO_AVERAGE, "y_weight": 0.5, "neg_dy_weight": 0.5, "lr": 1e-4},
    "TensorNet-ANI2X": {"derivative": True, **NO_AVERAGE, "y_weight": 1, "neg_dy_weight": 100},
    "TensorNet-MACEOFF": {"derivative": True, **NO_AVERAGE, "y_weight": 1.0, "neg_dy_weight": 10.0},
    "TensorNet-QM9": {"derivative": False, **NO_AVERAGE, "y_weight": 1.0, "neg_dy_weight": 0.0},
}
WEIGHTS = {
    "ET-ANI1": {"energy": 1.0},
    "ET-MD17": {"energy": 0.2 * 0.05, "forces": 0.8},
    "ET-SPICE": {"energy": 0.5, "forces": 0.5},
    "TensorNet-ANI2X": {"energy": 1.0, "forces": 100.0},
    "TensorNet-MACEOFF": {"energy": 1.0, "forces": 10.0},
    "TensorNet-QM9": {"energy": 1.0},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_one_of_ours(name):
    drawn = Drawing().draw(0)
    output = from_config("torchmdnet", EXAMPLES[name]).evaluate(drawn.predictions, drawn.batch)
    assert {term: float(weight) for term, weight in output.weights.items()} == pytest.approx(WEIGHTS[name])


def test_an_average_of_the_loss_only_scales_its_gradient():
    """One part in twenty of the newest value has a gradient, whatever the average was before."""
    drawn = Drawing(labels=("energy",)).draw(0)
    energy = drawn.predictions["energy"]
    average = 0.0
    for _ in range(3):
        loss = torch.nn.functional.mse_loss(energy, drawn.batch["energy"])
        smoothed = 0.05 * loss + 0.95 * average
        average = smoothed.detach()
    (expected,) = torch.autograd.grad(smoothed, energy)
    ours = from_config("torchmdnet", {"ema_alpha_y": 0.05, "derivative": False})
    (found,) = torch.autograd.grad(ours(drawn.predictions, drawn.batch), energy)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert "exponential averages of the values of ['energy']" in ours.because


def test_yaml_text_and_flags_are_read():
    text = "derivative: true\nneg_dy_weight: 100.0\ntrain_loss: huber_loss\ntrain_loss_arg: {delta: 0.5}\n"
    made = node("torchmdnet", text)
    assert made["huber_delta"] == 0.5
    assert made["weights"] == {"energy": 1.0, "forces": 100.0}
    assert node("torchmdnet", {"neg-dy-weight": 100.0})["weights"] == made["weights"]


def test_a_sum_is_a_sum():
    drawn = Drawing().draw(0)
    loss = from_config("torchmdnet", {"neg_dy_weight": 1, "train_loss_arg": {"reduction": "sum"}})
    expected = sum(((drawn.predictions[n] - drawn.batch[n]) ** 2).sum() for n in ("energy", "forces"))
    torch.testing.assert_close(loss(drawn.predictions, drawn.batch), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"y_wieght": 1.0}, "TorchMD-Net: Unknown key 'y_wieght'; did you mean 'y_weight'"),
        ({"train_loss": "mse"}, "train_loss: Unknown loss of TorchMD-Net 'mse'; did you mean 'mse_loss'"),
        ({"train_loss": "l1_loss", "train_loss_arg": {"delta": 1}}, "train_loss_arg of l1_loss: Unknown key"),
        ({"train_loss_arg": {"reduction": "none"}}, "Unknown reduction 'none'"),
        ([1, 2], "must be a mapping"),
    ],
)
def test_errors_name_what_was_found_and_what_is_accepted(config, match):
    with pytest.raises(ValueError, match=match):
        node("torchmdnet", config)
