"""TorchMD-Net's loss: ``torchmdnet.module.LNNP``. ``y`` is the energy, ``neg_dy`` the forces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["torchmd-net==3.1.0"]

DEFAULTS = {
    "y_weight": 1.0,
    "neg_dy_weight": 1.0,
    "ema_alpha_y": 1.0,
    "ema_alpha_neg_dy": 1.0,
    "derivative": True,
}


def _total(config: Mapping[str, Any], drawn: Drawn, *, forces: bool = True) -> Tensor:
    """What a training step returns, with the model's output replaced by what was drawn."""
    from lightning import LightningModule
    from torch_geometric.data import Data
    from torchmdnet.module import LNNP, LossFunction, loss_class_mapping

    class Host(LNNP):
        def __init__(self, hparams: dict[str, Any]) -> None:
            LightningModule.__init__(self)
            self.save_hyperparameters(hparams)
            self._reset_ema_dict()
            self._reset_losses_dict()
            self.data_transform = lambda batch: batch

        def forward(self, *inputs: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
            return drawn.predictions["energy"][:, None], drawn.predictions.get("forces")

    batch, config = drawn.batch, {**DEFAULTS, "charge": False, "spin": False, **config}
    data = Data(z=batch["numbers"], pos=batch["positions"], batch=batch["batch"], y=batch["energy"])
    if forces:
        data.neg_dy = batch["forces"]
    name = config.get("train_loss", "mse_loss")
    loss = LossFunction(loss_class_mapping[name], config.get("train_loss_arg"))
    return Host(config).step(data, [(name, loss)], "train")


def _case(config: Mapping[str, Any], **options: Any) -> Any:
    return case(config=("torchmdnet", {"derivative": True, **config}), **options)


@case(loss="torchmdnet_mse")
def mse(drawn: Drawn) -> Tensor:
    return _total({}, drawn)


@case(loss="torchmdnet_tensornet")
def tensornet(drawn: Drawn) -> Tensor:
    return _total({"y_weight": 1, "neg_dy_weight": 100}, drawn)


@case(loss="torchmdnet_huber")
def huber_recipe(drawn: Drawn) -> Tensor:
    return _total({"train_loss": "huber_loss"}, drawn)


@_case(WEIGHTS := {"y_weight": 0.2, "neg_dy_weight": 0.8})
def weights(drawn: Drawn) -> Tensor:
    return _total(WEIGHTS, drawn)


@_case(L1 := {"y_weight": 0.5, "neg_dy_weight": 10.0, "train_loss": "l1_loss"})
def l1(drawn: Drawn) -> Tensor:
    return _total(L1, drawn)


@_case(HUBER := {"neg_dy_weight": 3.0, "train_loss": "huber_loss", "train_loss_arg": {"delta": 0.3}})
def huber(drawn: Drawn) -> Tensor:
    return _total(HUBER, drawn)


@_case(PLAIN_HUBER := {"train_loss": "huber_loss"})
def huber_of_default_delta(drawn: Drawn) -> Tensor:
    return _total(PLAIN_HUBER, drawn)


@_case(ENERGY := {"derivative": False, "neg_dy_weight": 1.0}, labels=("energy",))
def energy_alone(drawn: Drawn) -> Tensor:
    return _total(ENERGY, drawn, forces=False)


@_case({}, setup=lambda drawn: {"forces": drawn.batch["forces"] * float("nan")})
def forces_without_labels(drawn: Drawn) -> Tensor:
    return _total({}, drawn, forces=False)
