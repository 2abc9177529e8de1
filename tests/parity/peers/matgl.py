"""MatGL's loss: ``matgl.utils.training.PotentialLightningModule``. Stresses are in GPa there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["matgl==4.1.2"]

SITE = {"magmom_weight": "magnetic_moments", "charge_weight": "charges"}
MOMENTS = {"magnetic_moments": ("atom", ())}
STRESSED = ("energy", "forces", "stress")


def _total(config: Mapping[str, Any], drawn: Drawn) -> Tensor:
    """Total of a module made with these arguments, told labels and predictions."""
    from matgl.utils.constants import EV_PER_ANG3_TO_GPA
    from matgl.utils.training import PotentialLightningModule

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = PotentialLightningModule(model=torch.nn.Identity(), **config)
    made: list[tuple[Tensor, ...]] = []
    for values in (drawn.batch, drawn.predictions):
        stress = values["stress"] if "stress" in values else torch.zeros(0, 3, 3)
        site = [values[name] for key, name in SITE.items() if config.get(key)]
        made.append((values["energy"], values["forces"], EV_PER_ANG3_TO_GPA * stress.reshape(-1, 3), *site))
    labels, predictions = made
    return module.loss_fn(module.loss, labels, predictions, drawn.num_atoms)["Total_Loss"]


def _case(config: Mapping[str, Any], **options: Any) -> Any:
    return case(config=("matgl", config), **{"labels": STRESSED, **options})


@case(loss="matgl_potential")
def potential(drawn: Drawn) -> Tensor:
    return _total({}, drawn)


@case(loss="matgl_huber", labels=STRESSED)
def trainer(drawn: Drawn) -> Tensor:
    return _total({"loss": "huber_loss", "stress_weight": 0.1}, drawn)


@_case(MSE := {"energy_weight": 2.0, "force_weight": 0.5, "stress_weight": 0.01})
def mse(drawn: Drawn) -> Tensor:
    return _total(MSE, drawn)


@_case(HUBER := {**MSE, "loss": "huber_loss", "loss_params": {"delta": 0.3}})
def huber(drawn: Drawn) -> Tensor:
    return _total(HUBER, drawn)


@_case(SMOOTH := {**MSE, "loss": "smooth_l1_loss", "loss_params": {"beta": 0.3}})
def smooth_l1(drawn: Drawn) -> Tensor:
    return _total(SMOOTH, drawn)


@_case(L1 := {**MSE, "loss": "l1_loss"})
def l1(drawn: Drawn) -> Tensor:
    return _total(L1, drawn)


def _some_labels(drawn: Drawn) -> dict[str, Any]:
    """Without labels of a property at all its total is NaN."""
    kept = {name: drawn.batch[name].clone() for name in drawn.predictions}
    for label in kept.values():
        label[0] = label[0].nan_to_num(nan=1.0)
    return kept


@_case(MISSING := {**MSE, "allow_missing_labels": True}, missing="entries", setup=_some_labels)
def missing_labels(drawn: Drawn) -> Tensor:
    return _total(MISSING, drawn)


@_case(MISSING_L1 := {**L1, "allow_missing_labels": True}, missing="rows", setup=_some_labels)
def missing_labels_l1(drawn: Drawn) -> Tensor:
    return _total(MISSING_L1, drawn)


def _moments(config: Mapping[str, Any], **options: Any) -> Any:
    return _case(config, labels=(*STRESSED, "magnetic_moments"), shapes=MOMENTS, **options)


@case(loss="matgl_chgnet", labels=(*STRESSED, "magnetic_moments"), shapes=MOMENTS)
def chgnet(drawn: Drawn) -> Tensor:
    return _total({"stress_weight": 0.1, "magmom_weight": 0.1, "loss": "huber_loss"}, drawn)


@_moments(ABSOLUTE := {**MSE, "magmom_weight": 0.7})
def moments_absolute(drawn: Drawn) -> Tensor:
    return _total(ABSOLUTE, drawn)


@_moments(SIGNED := {**HUBER, "magmom_weight": 0.7, "magmom_target": None})
def moments_signed(drawn: Drawn) -> Tensor:
    return _total(SIGNED, drawn)


@_moments(SYMBREAK := {**MSE, "magmom_weight": 0.7, "magmom_target": "symbreak"}, faithful=True)
def moments_symmetry_broken(drawn: Drawn) -> Tensor:
    return _total(SYMBREAK, drawn)


@_moments(
    {**SYMBREAK, "allow_missing_labels": True, "loss": "l1_loss"},
    faithful=True,
    missing="rows",
    setup=_some_labels,
)
def moments_symmetry_broken_missing(drawn: Drawn) -> Tensor:
    return _total({**SYMBREAK, "allow_missing_labels": True, "loss": "l1_loss"}, drawn)


@_case(CHARGES := {**MSE, "charge_weight": 0.3}, labels=(*STRESSED, "charges"))
def charges(drawn: Drawn) -> Tensor:
    return _total(CHARGES, drawn)


@_case({**HUBER, "charge_weight": 0.3}, labels=(*STRESSED, "charges"), faithful=True)
def charges_forget_the_delta(drawn: Drawn) -> Tensor:
    return _total({**HUBER, "charge_weight": 0.3}, drawn)
