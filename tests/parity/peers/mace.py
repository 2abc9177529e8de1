"""MACE's losses: `mace.modules.loss`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["mace-torch==0.3.16"]

MANY = (4, 1, 5, 2, 3, 1, 2, 4)
"""Enough structures for some to have a label and some none."""
EFS = ("energy", "forces", "stress")
THEIRS = {"virial": "virials"}
ON = ["--energy_weight=3", "--forces_weight=7", "--stress_weight=0.5"]
SECOND = ["--swa", "--start_swa=4", "--max_num_epochs=6"]
STAGE_TWO = {
    "stress": [*ON, "--swa_forces_weight=20"],
    "universal": [*ON, "--swa_stress_weight=20"],
    "huber": [*ON, "--swa_energy_weight=20"],
    "l1l2energyforces": ["--energy_weight=3", "--swa_forces_weight=20"],
    "dipole_polar": ["--dipole_weight=3", "--swa_polarizability_weight=20"],
}


class Reference(dict[str, Tensor]):
    """A batch as MACE makes it: entries are attributes too, a missing label is zero and weighs nothing."""

    __getattr__ = dict[str, Tensor].__getitem__

    def __init__(self, drawn: Drawn) -> None:
        ones = torch.ones(len(drawn.num_atoms), dtype=torch.float64)
        super().__init__(ptr=drawn.batch["ptr"], weight=drawn.batch.get("weight", ones))
        for name in drawn.predictions:
            known = drawn.labelled(name)
            known = known[drawn.batch["ptr"][:-1]] if name == "forces" else known
            theirs = THEIRS.get(name, name)
            self[theirs] = drawn.filled(name)
            self[f"{theirs}_weight"] = known * drawn.batch.get(f"{name}_weight", ones)


def total(drawn: Drawn, loss: str, *weights: float, **options: float) -> Tensor:
    """What a loss class of MACE says."""
    from mace.modules import loss as losses

    predictions = {THEIRS.get(name, name): value for name, value in drawn.predictions.items()}
    return getattr(losses, loss)(*weights, **options)(Reference(drawn), predictions)


def whole(drawn: Drawn) -> dict[str, Tensor]:
    """MACE knows the forces of a structure or does not, never of single atoms."""
    missing = drawn.batch["forces"][drawn.batch["ptr"][:-1]].isnan().any(1)[drawn.batch["batch"]]
    return {"forces": drawn.filled("forces").masked_fill(missing[:, None], torch.nan)}


def stage_two(epoch: int, **kwargs: Any) -> Callable[..., Any]:
    """The loss of an epoch of a run with a second stage."""
    name = kwargs.pop("name")
    flags = [*SECOND, *STAGE_TWO[name], f"--loss={name}"]
    return case(config=("mace", flags), options={"epoch": epoch}, **kwargs)


def of_stage_two(drawn: Drawn, loss: str) -> Tensor:
    """What the loss says that MACE itself chooses for its second stage."""
    from mace.tools import build_default_arg_parser
    from mace.tools.scripts_utils import get_swa

    flags = ["--name=any", *SECOND, *STAGE_TWO[loss], f"--loss={loss}"]
    model = torch.nn.Linear(1, 1)
    args = build_default_arg_parser().parse_args(flags)
    stage, _ = get_swa(args, model, torch.optim.Adam(model.parameters()), [])
    predictions = {THEIRS.get(name, name): value for name, value in drawn.predictions.items()}
    return stage.loss_fn(Reference(drawn), predictions)


@case(loss="mace_weighted")
def weighted(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesLoss", 1, 100)


@case(loss="mace_weighted", faithful=True, missing="rows", weights="all", setup=whole, sizes=MANY)
def weighted_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesLoss", 1, 100)


@case(config=("mace", "--loss=weighted --energy_weight=3 --forces_weight 7"), ranks=True)
def weighted_flags(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesLoss", 3, 7)


@case(config=("mace", "--loss=ef"))
def ef(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesLoss", 1, 1)


@case(config=("mace", "--loss=ef --energy_weight=3 --forces_weight=7"), faithful=True)
def ef_weights_unread(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesLoss", 1, 1)


@case(loss="mace_weighted", overrides={"weights.forces": 0.0, "terms.energy.residual": "difference"})
def total_energy(drawn: Drawn) -> Tensor:
    from mace.modules.loss import mean_squared_error_energy

    return mean_squared_error_energy(Reference(drawn), drawn.predictions)


@case(
    loss="mace_forces_only",
    labels=("forces",),
    faithful=True,
    missing="rows",
    weights="all",
    setup=whole,
    sizes=MANY,
)
def forces_only(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedForcesLoss", 100)


@case(loss="mace_stress", labels=EFS, ranks=True)
def stress(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesStressLoss", 1, 100, 1)


@case(
    config=("mace", ["--loss=stress", *ON]),
    labels=EFS,
    faithful=True,
    missing="rows",
    weights="all",
    setup=whole,
    ranks=True,
)
def stress_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesStressLoss", 3, 7, 0.5)


@case(loss="mace_virials", labels=("energy", "forces", "virial"))
def virials(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesVirialsLoss", 1, 100, 1)


@case(
    loss="mace_virials",
    labels=("energy", "forces", "virial"),
    faithful=True,
    missing="rows",
    weights="all",
    setup=whole,
    sizes=MANY,
)
def virials_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesVirialsLoss", 1, 100, 1)


@case(loss="mace_huber", labels=EFS)
def huber(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedHuberEnergyForcesStressLoss", 1, 100, 1)


@case(
    loss="mace_huber",
    overrides={"huber_delta": 0.7},
    labels=EFS,
    faithful=True,
    missing="rows",
    weights="all",
    setup=whole,
    sizes=MANY,
)
def huber_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedHuberEnergyForcesStressLoss", 1, 100, 1, huber_delta=0.7)


@case(loss="mace_universal", labels=EFS, forces_scale=150.0)
def universal(drawn: Drawn) -> Tensor:
    return total(drawn, "UniversalLoss", 1, 100, 1)


@case(
    config=("mace", ["--loss=universal", "--huber_delta=60", *ON]),
    labels=EFS,
    faithful=True,
    forces_scale=150.0,
    missing="rows",
    weights="all",
    setup=whole,
    sizes=MANY,
)
def universal_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "UniversalLoss", 3, 7, 0.5, huber_delta=60)


@case(loss="mace_l1l2")
def l1l2(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesL1L2Loss", 1, 100)


@case(loss="mace_l1l2", faithful=True, missing="rows", weights="all", setup=whole, sizes=MANY)
def l1l2_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesL1L2Loss", 1, 100)


@case(loss="mace_dipole", labels=("dipole",))
def dipole(drawn: Drawn) -> Tensor:
    return total(drawn, "DipoleSingleLoss", 1)


@case(loss="mace_dipole", labels=("dipole",), faithful=True, missing="rows", weights="all", sizes=MANY)
def dipole_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "DipoleSingleLoss", 1)


@case(loss="mace_dipole_polar", labels=("dipole", "polarizability"))
def dipole_polar(drawn: Drawn) -> Tensor:
    return total(drawn, "DipolePolarLoss", 1, 1)


@case(
    config=("mace", {"loss": "dipole_polar", "dipole_weight": 3.0, "polarizability_weight": 0.5}),
    labels=("dipole", "polarizability"),
    faithful=True,
    missing="rows",
    weights="all",
    sizes=MANY,
)
def dipole_polar_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "DipolePolarLoss", 3, 0.5)


@case(loss="mace_energy_forces_dipole", labels=("energy", "forces", "dipole"))
def energy_forces_dipole(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesDipoleLoss", 1, 100, 1)


@case(
    loss="mace_energy_forces_dipole",
    labels=("energy", "forces", "dipole"),
    faithful=True,
    missing="rows",
    weights="all",
    setup=whole,
    sizes=MANY,
)
def energy_forces_dipole_missing(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesDipoleLoss", 1, 100, 1)


@case(loss="mace_conditional_forces", labels=("forces",), forces_scale=150.0)
def conditional_mse_forces(drawn: Drawn) -> Tensor:
    from mace.modules.loss import conditional_mse_forces

    return 100 * conditional_mse_forces(Reference(drawn), drawn.predictions)


@case(
    loss="mace_conditional_forces",
    labels=("forces",),
    forces_scale=150.0,
    faithful=True,
    missing="rows",
    weights="all",
    setup=whole,
    sizes=MANY,
)
def conditional_mse_forces_missing(drawn: Drawn) -> Tensor:
    from mace.modules.loss import conditional_mse_forces

    return 100 * conditional_mse_forces(Reference(drawn), drawn.predictions)


@stage_two(3, name="stress", labels=EFS)
def before_stage_two(drawn: Drawn) -> Tensor:
    return total(drawn, "WeightedEnergyForcesStressLoss", 3, 7, 0.5)


@stage_two(4, name="stress", labels=EFS)
def stage_two_stress(drawn: Drawn) -> Tensor:
    return of_stage_two(drawn, "stress")


@stage_two(5, name="universal", labels=EFS, forces_scale=150.0)
def stage_two_universal(drawn: Drawn) -> Tensor:
    return of_stage_two(drawn, "universal")


@stage_two(4, name="dipole_polar", labels=("dipole", "polarizability"))
def stage_two_dipole_polar(drawn: Drawn) -> Tensor:
    return of_stage_two(drawn, "dipole_polar")


@stage_two(4, name="huber", labels=EFS, faithful=True)
def stage_two_huber(drawn: Drawn) -> Tensor:
    return of_stage_two(drawn, "huber")


@stage_two(4, name="l1l2energyforces", faithful=True)
def stage_two_l1l2(drawn: Drawn) -> Tensor:
    return of_stage_two(drawn, "l1l2energyforces")
