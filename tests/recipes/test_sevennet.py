"""The `train` section of SevenNet's presets."""

import pytest
import torch

from pesloss.recipes import from_config, node
from tests.parity.drawing import Drawing

ERRORS = "  error_record:\n  - ['Energy', 'RMSE']\n  - ['TotalLoss', 'None']\n"
BASE = f"""
model: {{cutoff: 5.0, channel: 32}}
train:
  random_seed: 1
  is_train_stress: True
  epoch: 200
  optimizer: adam
  optim_param: {{lr: 0.005}}
  scheduler: exponentiallr
  scheduler_param: {{gamma: 0.99}}
  force_loss_weight: 0.1
  stress_loss_weight: 1e-06
  per_epoch: 10
{ERRORS}
data: {{batch_size: 4}}
"""
FINE_TUNED = f"""
train:
  loss: Huber
  loss_param: {{delta: 0.01}}
  force_loss_weight: 1.0
  stress_loss_weight: 0.01
  continue: {{reset_optimizer: True, reset_epoch: True, checkpoint: 'SevenNet-0_11July2024'}}
{ERRORS}
"""
MULTI_MODAL = """
train:
  loss: Huber
  loss_param: {delta: 0.01}
  force_loss_weight: 1.00
  stress_loss_weight: 0.01
  use_modality: True
  use_weight: True
"""
SNIPPETS = {
    "base": (BASE, {"energy": 1.0, "forces": 0.1, "stress": 1e-6}),
    "fine-tuned": (FINE_TUNED, {"energy": 1.0, "forces": 1.0, "stress": 0.01}),
    "multi-modal": (MULTI_MODAL, {"energy": 1.0, "forces": 1.0, "stress": 0.01}),
    "no stress": ({"train": {"is_train_stress": False}}, {"energy": 1.0, "forces": 0.1}),
    "nothing": ({}, {"energy": 1.0, "forces": 0.1, "stress": 1e-6}),
}


def weights(loss):
    return dict(zip(loss.weighting.names, loss.weighting.prior.tolist(), strict=True))


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_gives_its_weights(name):
    config, expected = SNIPPETS[name]
    assert weights(from_config("sevennet", config)) == expected


def test_the_default_delta_is_that_of_torch():
    assert node("sevennet", {"loss": "huber"})["huber_delta"] == 1.0


def test_stress_is_compared_in_kbar():
    loss = from_config("sevennet", {"force_loss_weight": 0.0, "stress_loss_weight": 1.0})
    drawn = Drawing(labels=("energy", "stress"), symmetric=True).draw(0)
    drawn.batch["energy"] = drawn.predictions["energy"].detach()
    drawn.batch["stress"] = drawn.predictions["stress"].detach() + 1.0
    expected = torch.tensor(1602.1766208**2, dtype=torch.float64)
    torch.testing.assert_close(loss(drawn.predictions, drawn.batch), expected)


@pytest.mark.parametrize("use_weight", [False, True])
@pytest.mark.parametrize("faithful", [False, True])
def test_weights_always_act_but_in_the_original(use_weight, faithful):
    loss = from_config("sevennet", {"use_weight": use_weight}, faithful=faithful)
    drawn = Drawing(labels=("energy", "forces", "stress")).draw(0)
    doubled = {**drawn.batch, "weight": torch.full((5,), 2.0, dtype=torch.float64)}
    plain, weighted = loss(drawn.predictions, drawn.batch), loss(drawn.predictions, doubled)
    ignored = faithful and not use_weight
    torch.testing.assert_close(weighted, plain if ignored else 2 * plain)


@pytest.mark.parametrize(
    ("train", "match"),
    [
        ({"force_weight": 1.0}, "did you mean 'force_loss_weight'"),
        ({"loss": "hubr"}, "did you mean 'huber'"),
        ({"loss": "huber", "loss_param": {"dlta": 1}}, "did you mean 'delta'"),
        ({"loss": "mse", "loss_param": {"reduction": "sum"}}, "only means are losses"),
        ({"continue": {"fisher_information": "f.pt", "opt_params": "p.pt", "ewc_lambda": 1.0}}, "Fisher"),
        ({"loss_param": 3}, "must be a mapping"),
    ],
)
def test_what_cannot_be_honoured_is_refused(train, match):
    with pytest.raises(ValueError, match=match):
        from_config("sevennet", {"train": train})
