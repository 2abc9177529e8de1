"""NequIP's losses: `nequip.train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import RANKS, Drawn

REQUIREMENTS = ["nequip==0.19.1"]

EFS = ("energy", "forces", "stress")
TYPES = ["C", "H", "N", "O"]
"""No drawn batch has nitrogen."""
BY_TYPE = {"H": 5.0, "C": 1.0, "O": 0.5, "N": 2.0}
STRATA = {5.0: 0.5, 100.0: 70.0, 200.0: 40.0, 300.0: 10.0}
EFS_COEFFS = {"total_energy": 3.0, "forces": 4.0, "stress": 0.5}


def to_nequip(drawn: Drawn, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch under NequIP's names; energies are columns."""
    types = torch.tensor([TYPES.index({1: "H", 6: "C", 8: "O"}[int(z)]) for z in drawn.batch["numbers"]])
    data = {"atom_types": types, "num_atoms": drawn.num_atoms, "batch": drawn.batch["batch"]}
    data |= {name: values[name] for name in (*drawn.predictions, "free_energy") if name in values}
    for ours, theirs in (("energy", "total_energy"), ("free_energy", "free_energy")):
        if ours in data:
            data[theirs] = data.pop(ours)[:, None]
    return data


def instantiated(node: Mapping[str, Any], **options: Any) -> Any:
    """NequIP builds its parts with Hydra."""
    from hydra.utils import instantiate

    return instantiate(dict(node), _convert_="all", **options)


def total(
    drawn: Drawn, node: Mapping[str, Any], callbacks: Sequence[Mapping[str, Any]] = (), epoch: int = 0
) -> Tensor:
    """The weighted sum of a loss node, after its callbacks saw the beginning of every epoch so far."""
    torch.set_default_dtype(torch.float64)  # as in its own runs
    manager = instantiated(node, type_names=TYPES)
    made = [instantiated(callback) for callback in callbacks]
    for now in range(epoch + 1):
        for callback in made:
            callback.on_train_epoch_start(SimpleNamespace(current_epoch=now), SimpleNamespace(loss=manager))
    for metric in manager.values():
        metric.dist_sync_on_step = True  # as its LightningModule does
    found = manager(to_nequip(drawn, drawn.predictions), to_nequip(drawn, drawn.batch))["weighted_sum"]
    world = dist.get_world_size() if dist.is_initialized() else 1
    # it logs the sum, and differentiates it times the number of ranks
    return found.detach() + world * (found - found.detach())


def soft_adapt(drawn: Drawn, callback: Mapping[str, Any], epochs: int) -> list[list[float]]:
    """Coefficients in each epoch of a training in which predictions shrink, by SoftAdapt.

    The figures stand in ``tests/recipes/test_nequip.py``: a comparison of one batch sees none of them.
    """
    torch.set_default_dtype(torch.float64)
    manager, made, found = instantiated(BUILT_STRESS), instantiated(callback), []
    for epoch in range(epochs):
        made.on_train_epoch_start(SimpleNamespace(current_epoch=epoch), SimpleNamespace(loss=manager))
        found.append([entry.coeff for entry in manager.entries.values()])
        shrunk = {name: p.detach() * 0.8**epoch for name, p in drawn.predictions.items()}
        manager(to_nequip(drawn, shrunk), to_nequip(drawn, drawn.batch))
        manager.compute()
        manager.reset()
    return found


def loss(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"nequip.train.{name}", **arguments}


ENTRY = ("name", "per_type", "per_type_coeffs", "ignore_nan")


def metric(
    field: str, kind: str, coeff: float | None, *, per_atom: bool = False, **arguments: Any
) -> dict[str, Any]:
    """One entry of a MetricsManager; what is not the entry's own is an argument of the metric."""
    modified = {"_target_": "nequip.data.PerAtomModifier", "field": field} if per_atom else field
    entry = {key: arguments.pop(key) for key in ENTRY if key in arguments}
    return {"field": modified, "coeff": coeff, "metric": loss(kind, **arguments), **entry}


def manager(*metrics: Mapping[str, Any]) -> dict[str, Any]:
    return loss("MetricsManager", metrics=list(metrics))


NAN = {"total_energy": True, "forces": True, "stress": True}
BUILT_STRESS = loss("EnergyForceStressLoss", coeffs=EFS_COEFFS, ignore_nan=NAN)
BUILT_TYPES = loss(
    "EnergyForceLoss", coeffs={"total_energy": 1.0, "forces": 4.0}, per_type_forces_coeffs=BY_TYPE
)
BUILT_TOTAL = loss("EnergyForceLoss", per_atom_energy=False)
STRATIFIED = manager(
    metric("total_energy", "MeanSquaredError", 1.0, per_atom=True),
    metric("forces", "StratifiedHuberForceLoss", 3.0, delta_dict=STRATA),
)
METRICS = manager(
    metric("total_energy", "HuberLoss", 2.0, per_atom=True, delta=0.2),
    metric("total_energy", "MeanAbsoluteError", 0.3, name="whole"),
    metric("forces", "RootMeanSquaredError", 4.0),
    metric("forces", "MaximumAbsoluteError", None),
    metric("stress", "HuberLoss", 0.01, reduction="sum", delta=0.3, ignore_nan=True),
    metric("stress", "MeanAbsoluteError", None),
)
TYPED_METRICS = manager(
    metric("forces", "MeanAbsoluteError", 2.0, per_type=True),
    metric("forces", "HuberLoss", 1.0, per_type=True, per_type_coeffs=BY_TYPE, delta=0.4, name="by_type"),
)
MAPPED = manager(
    {
        "field": {
            "_target_": "nequip.data.MappedFieldModifier",
            "pred_field": "total_energy",
            "target_field": "free_energy",
        },
        "coeff": 1.0,
        "metric": loss("MeanSquaredError"),
    },
    {
        "field": {"_target_": "nequip.data.PerAtomModifier", "field": "virial", "factor": 160.2},
        "coeff": 3.0,
        "metric": loss("MeanAbsoluteError"),
    },
)
TABLE = loss(
    "EnergyForceStressMetrics",
    coeffs={
        "total_energy_rmse": 1.0,
        "per_atom_energy_mae": 2.0,
        "forces_mae": 3.0,
        "forces_rmse": None,
        "stress_rmse": 0.5,
    },
    ignore_nan=NAN,
)
STEPS = [
    loss(
        "callbacks.LossCoefficientScheduler",
        schedule={
            2: {"per_atom_energy_mse": 1.0, "forces_mse": 5.0},
            4: {"per_atom_energy_mse": 5.0, "forces_mse": 1.0, "stress_mse": 3.0},
        },
    )
]
RAMPS = [
    loss(
        "callbacks.LinearLossCoefficientScheduler",
        final_coeffs={"per_atom_energy_mse": 1.0, "forces_mse": 2.0, "stress_mse": 5.0},
        start_epoch=1,
        transition_epochs=4,
    ),
    loss(
        "callbacks.LinearLossCoefficientScheduler",
        final_coeffs={"per_atom_energy_mse": 1.0, "forces_mse": 1.0, "stress_mse": 1.0},
        start_epoch=6,
        transition_epochs=2,
    ),
]


def whole(node: Mapping[str, Any], callbacks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sections of a whole config that are of the loss."""
    return {
        "training_module": {"_target_": "nequip.train.EMALightningModule", "loss": node},
        "trainer": {"callbacks": list(callbacks)},
    }


def free_energy(drawn: Drawn) -> dict[str, Tensor]:
    """The label of the energies under another name."""
    return {"free_energy": drawn.batch["energy"] + 1}


def first_known(drawn: Drawn) -> dict[str, Tensor]:
    """A label of each kind in the first structure of each rank: without any, NequIP's loss is NaN."""
    found = {name: drawn.batch[name].clone() for name in drawn.predictions}
    for first, *_ in RANKS:
        for name, label in found.items():
            row = first if len(label) == len(drawn.num_atoms) else int(drawn.batch["ptr"][first])
            label[row] = drawn.filled(name)[row]
    return found


@case(loss="nequip_energy_force")
def energy_force(drawn: Drawn) -> Tensor:
    return total(drawn, loss("EnergyForceLoss"))


@case(loss="nequip_energy_force_stress", labels=EFS, ranks=True)
def energy_force_stress(drawn: Drawn) -> Tensor:
    return total(drawn, loss("EnergyForceStressLoss"))


@case(loss="nequip_energy_only", labels=("energy",))
def energy_only(drawn: Drawn) -> Tensor:
    return total(drawn, loss("EnergyOnlyLoss"))


@case(config=("nequip", BUILT_TOTAL))
def total_energy(drawn: Drawn) -> Tensor:
    return total(drawn, BUILT_TOTAL)


@case(config=("nequip", BUILT_STRESS), labels=EFS, missing="entries", setup=first_known, ranks=True)
def ignore_nan(drawn: Drawn) -> Tensor:
    return total(drawn, BUILT_STRESS)


@case(loss="nequip_per_type", overrides={"terms.forces.reduction.coefficients": BY_TYPE})
def per_type(drawn: Drawn) -> Tensor:
    return total(drawn, loss("EnergyForceLoss", per_type_forces_coeffs=BY_TYPE))


@case(config=("nequip", BUILT_TYPES))
def per_type_forces_coeffs(drawn: Drawn) -> Tensor:
    return total(drawn, BUILT_TYPES)


@case(config=("nequip", TYPED_METRICS), labels=("forces",))
def per_type_metrics(drawn: Drawn) -> Tensor:
    return total(drawn, TYPED_METRICS)


@case(config=("nequip", STRATIFIED), forces_scale=150.0)
def stratified_huber(drawn: Drawn) -> Tensor:
    return total(drawn, STRATIFIED)


@case(loss="nequip_stratified_huber", forces_scale=150.0)
def stratified_huber_recipe(drawn: Drawn) -> Tensor:
    strata = {0: 0.01, 100: 0.007, 200: 0.004, 300: 0.001}
    energy = metric("total_energy", "HuberLoss", 1.0, per_atom=True, delta=0.01)
    forces = metric("forces", "StratifiedHuberForceLoss", 1.0, delta_dict=strata)
    return total(drawn, manager(energy, forces))


@case(config=("nequip", METRICS), labels=EFS)
def metrics_manager(drawn: Drawn) -> Tensor:
    return total(drawn, METRICS)


@case(config=("nequip", MAPPED), labels=("energy", "virial"), setup=free_energy)
def mapped_fields(drawn: Drawn) -> Tensor:
    return total(drawn, MAPPED)


@case(config=("nequip", TABLE), labels=EFS, missing="rows", setup=first_known)
def metrics_as_loss(drawn: Drawn) -> Tensor:
    return total(drawn, TABLE)


STEPPED = whole(BUILT_STRESS, STEPS)
RAMPED = whole(BUILT_STRESS, RAMPS)


@case(config=("nequip", STEPPED), options={"epoch": 1}, labels=EFS)
def before_steps(drawn: Drawn) -> Tensor:
    return total(drawn, BUILT_STRESS, STEPS, 1)


@case(config=("nequip", STEPPED), options={"epoch": 3}, labels=EFS)
def first_step(drawn: Drawn) -> Tensor:
    return total(drawn, BUILT_STRESS, STEPS, 3)


@case(config=("nequip", STEPPED), options={"epoch": 5}, labels=EFS)
def second_step(drawn: Drawn) -> Tensor:
    return total(drawn, BUILT_STRESS, STEPS, 5)


@case(config=("nequip", RAMPED), options={"epoch": 4}, labels=EFS)
def first_ramp(drawn: Drawn) -> Tensor:
    return total(drawn, BUILT_STRESS, RAMPS, 4)


@case(config=("nequip", RAMPED), options={"epoch": 7}, labels=EFS)
def second_ramp(drawn: Drawn) -> Tensor:
    return total(drawn, BUILT_STRESS, RAMPS, 7)
