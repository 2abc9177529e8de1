"""SevenNet's losses: `sevenn.train.loss`."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["sevenn==0.13.0"]

EFS = ("energy", "forces", "stress")
DEFAULTS = {"loss": "mse", "force_loss_weight": 0.1, "stress_loss_weight": 1e-6, "is_train_stress": True}
HUBER = {
    "loss": "Huber",
    "loss_param": {"delta": 0.01},
    "force_loss_weight": 1.0,
    "stress_loss_weight": 0.01,
    "is_train_stress": True,
}
WEIGHTED = {**HUBER, "loss_param": {"delta": 800.0}, "use_weight": True}
NO_STRESS = {"loss": "mse", "force_loss_weight": 0.5, "is_train_stress": False}


def to_sevennet(drawn: Drawn) -> dict[str, Any]:
    """A batch under SevenNet's names; its stress has the other sign and six numbers, xx yy zz xy yz zx."""
    ones = torch.ones(len(drawn.num_atoms), dtype=torch.float64)
    data: dict[str, Any] = {"num_atoms": drawn.num_atoms, "batch": drawn.batch["batch"], "data_weight": {}}
    names = {"energy": ("energy", "total_energy", "inferred_total_energy")}
    names["forces"] = ("force", "force_of_atoms", "inferred_force")
    names["stress"] = ("stress", "stress", "inferred_stress")
    for name, (weight, label, prediction) in names.items():
        if name in drawn.predictions:
            convert = six if name == "stress" else torch.clone
            data[label], data[prediction] = convert(drawn.batch[name]), convert(drawn.predictions[name])
        own = drawn.batch.get(f"{name}_weight", ones)
        data["data_weight"][weight] = own * drawn.batch.get("weight", ones)
    return data


def six(stress: Tensor) -> Tensor:
    symmetric = -0.5 * (stress + stress.mT)
    return symmetric[:, [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]]


def total(drawn: Drawn, config: dict[str, Any]) -> Tensor:
    """The sum over the weighted losses of a config; in float64, where the trainer's own sum is float32."""
    from sevenn.train.loss import get_loss_functions_from_config

    data = to_sevennet(drawn)
    # SevenNet writes into the config that it is given
    losses = get_loss_functions_from_config(deepcopy(config))
    return torch.stack([weight * loss.get_loss(data).sum().double() for loss, weight in losses]).sum()


@case(loss="sevennet_mse", labels=EFS)
def mse(drawn: Drawn) -> Tensor:
    return total(drawn, DEFAULTS)


@case(loss="sevennet_mse", labels=EFS, missing="entries")
def ignore_unlabeled(drawn: Drawn) -> Tensor:
    return total(drawn, DEFAULTS)


@case(loss="sevennet_huber", labels=EFS)
def huber(drawn: Drawn) -> Tensor:
    return total(drawn, HUBER)


@case(config=("sevennet", WEIGHTED), labels=EFS, missing="rows", weights="all", faithful=True)
def use_weight(drawn: Drawn) -> Tensor:
    return total(drawn, WEIGHTED)


@case(config=("sevennet", {"train": HUBER}), labels=EFS, missing="rows", weights="all", faithful=True)
def weights_unused(drawn: Drawn) -> Tensor:
    return total(drawn, HUBER)


@case(config=("sevennet", NO_STRESS))
def without_stress(drawn: Drawn) -> Tensor:
    return total(drawn, NO_STRESS)
