"""nvalchemi-toolkit's losses: its leaves and how it composes them."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["jaxtyping", "numpy", "plum-dispatch", "pydantic"]

EFS = ("energy", "forces", "stress")
SPEC = "nvalchemi.training.losses"


def prepare(folder: Path) -> None:
    """The package without its kernels for graphics cards."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "nvalchemi-toolkit==0.2.0"], check=True)


def modules() -> Any:
    """The losses alone: the package around them imports everything a trainer needs."""
    name = "nvalchemi.training"
    if name not in sys.modules:
        spec = importlib.util.find_spec("nvalchemi")
        assert spec is not None and spec.submodule_search_locations is not None
        package = ModuleType(name)
        package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "training")]
        sys.modules[name] = package
    return importlib.import_module("nvalchemi.training.losses")


def total(drawn: Drawn, loss: Any, epoch: int = 0, step: int = 0) -> Tensor:
    """What a composed loss says of a batch with atoms one after another."""
    columns = {"energy": (-1, 1), "forces": (-1, 3), "stress": (-1, 3, 3)}
    predictions = {f"predicted_{name}": p.reshape(columns[name]) for name, p in drawn.predictions.items()}
    targets = {name: drawn.batch[name].reshape(columns[name]) for name in drawn.predictions}
    found = loss(
        predictions,
        targets,
        step=step,
        epoch=epoch,
        batch_idx=drawn.batch["batch"],
        num_graphs=len(drawn.num_atoms),
        num_nodes_per_graph=drawn.num_atoms,
    )
    return found["total_loss"]


def composed(drawn: Drawn, leaves: Sequence[tuple[str, dict[str, Any]]], weights: Sequence[Any]) -> Tensor:
    """Leaves by name of class and arguments, weights divided by their sum."""
    losses = modules()
    built = [getattr(losses, name)(**options) for name, options in leaves]
    return total(drawn, losses.ComposedLossFunction(built, weights=list(weights)))


def leaf(name: str, module: str = "terms", **options: Any) -> dict[str, Any]:
    """A leaf, schedule or composition as the checkpoints spell it."""
    path = f"{SPEC}.{module}.{name}"
    return {"cls_path": path, "timestamp": "2026-07-15T02:05:58+00:00", **options}


def composition(components: Sequence[Any], weights: Sequence[Any], normalize: bool) -> dict[str, Any]:
    """A composition as the checkpoints spell it."""
    return leaf(
        "ComposedLossFunction",
        "composition",
        components=list(components),
        weights=list(weights),
        normalize_weights=normalize,
        dtype_policy=None,
    )


def alone(name: str, prop: str, **options: Any) -> Callable[[Callable[[Drawn], Tensor]], Any]:
    """A case of one leaf with missing labels."""
    config = leaf(name, target_key=prop, prediction_key=f"predicted_{prop}", dtype_policy="strict", **options)
    return case(
        config=("nvalchemi", composition([config], [3.0], False)),
        labels=(prop,),
        missing="entries",
        faithful=True,
    )


def of_leaf(drawn: Drawn, name: str, **options: Any) -> Tensor:
    """Three times the value of a leaf."""
    losses = modules()
    built = [getattr(losses, name)(ignore_nonfinite=True, **options)]
    return total(drawn, losses.ComposedLossFunction(built, weights=[3.0], normalize_weights=False))


@alone("EnergyMSELoss", "energy", per_atom=False, ignore_nonfinite=True)
def energy_mse(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "EnergyMSELoss", per_atom=False)


@alone("EnergyMSELoss", "energy", per_atom=True, ignore_nonfinite=True)
def energy_mse_per_atom(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "EnergyMSELoss", per_atom=True)


@alone("EnergyMAELoss", "energy", per_atom=False, ignore_nonfinite=True)
def energy_mae(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "EnergyMAELoss", per_atom=False)


@alone("EnergyMAELoss", "energy")
def energy_mae_per_atom(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "EnergyMAELoss")


@alone("EnergyHuberLoss", "energy", delta=0.3)
def energy_huber(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "EnergyHuberLoss", delta=0.3)


@alone("EnergyHuberLoss", "energy", per_atom=False)
def energy_huber_total(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "EnergyHuberLoss", per_atom=False)


@alone("ForceMSELoss", "forces", ignore_nonfinite=True)
def force_mse(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "ForceMSELoss")


@alone("ForceMSELoss", "forces", normalize_by_atom_count=False, ignore_nonfinite=True)
def force_mse_flat(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "ForceMSELoss", normalize_by_atom_count=False)


@alone("ForceHuberLoss", "forces", delta=0.5)
def force_huber(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "ForceHuberLoss", delta=0.5)


@alone("ForceHuberLoss", "forces", normalize_by_atom_count=True)
def force_huber_balanced(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "ForceHuberLoss", normalize_by_atom_count=True)


@alone("ForceL2NormLoss", "forces")
def force_l2(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "ForceL2NormLoss")


@alone("ForceL2NormLoss", "forces", normalize_by_atom_count=False)
def force_l2_flat(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "ForceL2NormLoss", normalize_by_atom_count=False)


@alone("StressMSELoss", "stress", ignore_nonfinite=True)
def stress_mse(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "StressMSELoss")


@alone("StressHuberLoss", "stress", delta=0.2)
def stress_huber(drawn: Drawn) -> Tensor:
    return of_leaf(drawn, "StressHuberLoss", delta=0.2)


@case(loss="nvalchemi_mse", labels=EFS)
def mse(drawn: Drawn) -> Tensor:
    losses = modules()
    return total(
        drawn, 1.0 * losses.EnergyMSELoss() + 10.0 * losses.ForceMSELoss() + 0.1 * losses.StressMSELoss()
    )


@case(loss="nvalchemi_mse", labels=EFS, missing="rows", faithful=True)
def mse_missing(drawn: Drawn) -> Tensor:
    known = {"ignore_nonfinite": True}
    leaves = [(name, known) for name in ("EnergyMSELoss", "ForceMSELoss", "StressMSELoss")]
    return composed(drawn, leaves, [1.0, 10.0, 0.1])


@case(loss="nvalchemi_huber", labels=EFS)
def huber(drawn: Drawn) -> Tensor:
    losses = modules()
    return total(drawn, losses.EnergyHuberLoss() + losses.ForceHuberLoss() + losses.StressHuberLoss())


@case(loss="nvalchemi_mae", missing="rows", faithful=True)
def mae(drawn: Drawn) -> Tensor:
    losses = modules()
    return total(drawn, losses.EnergyMAELoss() + losses.ForceL2NormLoss())


SUM = "loss_fn = 2 * (EnergyMSELoss(per_atom=True) + 3 * ForceL2NormLoss()) + 0.5 * StressMSELoss()"


@case(config=("nvalchemi", SUM), labels=EFS)
def nested(drawn: Drawn) -> Tensor:
    losses = modules()
    inner = losses.EnergyMSELoss(per_atom=True) + 3 * losses.ForceL2NormLoss()
    return total(drawn, 2 * inner + 0.5 * losses.StressMSELoss())


LEAVES = [leaf("EnergyMSELoss"), leaf("ForceMSELoss"), leaf("StressMSELoss")]
LINEAR = [
    leaf("ConstantWeight", "schedules", per_epoch=True, value=0.7),
    leaf("LinearWeight", "schedules", per_epoch=True, start=0.2, end=5.0, num_steps=10),
    leaf("PiecewiseWeight", "schedules", per_epoch=True, boundaries=[3, 6], values=[0.0, 0.5, 1.0]),
]
COSINE = [leaf("CosineWeight", "schedules", per_epoch=True, start=2.0, end=0.5, num_steps=8), 1.0, 3.0]


def scheduled(weights: Sequence[Any], epoch: int, normalize: bool) -> Callable[..., Any]:
    """The loss of an epoch of a run with a plan."""
    config = composition(LEAVES, weights, normalize)
    return case(config=("nvalchemi", config), options={"epoch": epoch}, labels=EFS)


def of_schedule(drawn: Drawn, weights: Sequence[Any], epoch: int, normalize: bool) -> Tensor:
    losses = modules()
    made = []
    for weight in weights:
        if isinstance(weight, dict):
            options = {key: value for key, value in weight.items() if key not in ("cls_path", "timestamp")}
            weight = getattr(losses, weight["cls_path"].rpartition(".")[2])(**options)
        made.append(weight)
    leaves = [losses.EnergyMSELoss(), losses.ForceMSELoss(), losses.StressMSELoss()]
    loss = losses.ComposedLossFunction(leaves, weights=made, normalize_weights=normalize)
    return total(drawn, loss, epoch=epoch)


@scheduled(LINEAR, 0, True)
def linear_at_the_start(drawn: Drawn) -> Tensor:
    return of_schedule(drawn, LINEAR, 0, True)


@scheduled(LINEAR, 4, True)
def linear_under_way(drawn: Drawn) -> Tensor:
    return of_schedule(drawn, LINEAR, 4, True)


@scheduled(LINEAR, 12, False)
def linear_at_the_end(drawn: Drawn) -> Tensor:
    return of_schedule(drawn, LINEAR, 12, False)


@scheduled(COSINE, 3, True)
def cosine(drawn: Drawn) -> Tensor:
    return of_schedule(drawn, COSINE, 3, True)
