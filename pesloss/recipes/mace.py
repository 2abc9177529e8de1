"""MACE's losses from its command-line flags, and by the names of its classes."""
# ruff: noqa: N802

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pesloss.building import build
from pesloss.losses import Batch, Residual
from pesloss.losses.residuals.scaling import Wrapped
from pesloss.names import unknown
from pesloss.recipes.mace_flags import OTHERS, is_on, settings
from pesloss.recipes.reading import check_keys, mapping_of
from pesloss.recipes.recipe import Recipe, load
from pesloss.recipes.stages import at_epoch, staged

LOSSES: Mapping[str, str] = {
    "ef": "mace_weighted",
    "weighted": "mace_weighted",
    "forces_only": "mace_forces_only",
    "virials": "mace_virials",
    "stress": "mace_stress",
    "dipole": "mace_dipole",
    "dipole_polar": "mace_dipole_polar",
    "huber": "mace_huber",
    "universal": "mace_universal",
    "energy_forces_dipole": "mace_energy_forces_dipole",
    "l1l2energyforces": "mace_l1l2",
}
"""Recipe of each ``--loss``."""

WEIGHTS: Mapping[str, tuple[str, float]] = {
    "energy_weight": ("energy", 1000.0),
    "forces_weight": ("forces", 100.0),
    "virials_weight": ("virial", 10.0),
    "stress_weight": ("stress", 10.0),
    "dipole_weight": ("dipole", 1.0),
    "polarizability_weight": ("polarizability", 1.0),
}
"""Term of each weight, and its default in the second stage."""

SECOND: Mapping[str, tuple[str, float]] = {f"swa_{flag}": default for flag, default in WEIGHTS.items()}
OWN = (
    "loss",
    "huber_delta",
    "config_type_weights",
    "weight_pt_head",
    "heads",
    "swa",
    "start_swa",
    "max_num_epochs",
)
KNOWN = (*OWN, *WEIGHTS, *SECOND, *OTHERS)
NO_SECOND_STAGE = ("forces_only", "dipole")
SQUARED_SECOND_STAGE = ("huber", "l1l2energyforces")
EPOCHS = 2048


def node(config: str | Sequence[str] | Mapping[str, Any], *, epoch: int | None = None) -> dict[str, Any]:
    """The loss of a call of ``mace_run_train``, or of its YAML config.

    Flags that are not of the loss are passed over. With ``--swa`` the weights follow the epochs.

    Args:
        config: the command line, its flags as a list, or a mapping.
        epoch: give the loss as it is in this epoch, with fixed weights.

    Raises:
        ValueError: for flags that MACE does not have or does not allow together, and for weights of heads.
    """
    given = settings(config)
    _check(given)
    loss = str(given.get("loss", "weighted"))
    made = _first_stage(loss, given)
    if is_on(given.get("swa", False)):
        _add_second_stage(made, loss, given)
    _warn_of_idle(given, made, loss)
    return made if epoch is None else at_epoch(made, epoch)


def _check(given: Mapping[str, Any]) -> None:
    check_keys("MACE", given, KNOWN)
    if "config" in given:
        raise ValueError(
            f"MACE --config={given['config']} is a file that may say more of the loss; give its text."
        )
    if given.get("loss", "weighted") not in LOSSES:
        raise ValueError(f"MACE --loss: {unknown('loss', given['loss'], LOSSES)}")
    heads = given.get("heads") or {}
    for name, head in (ast.literal_eval(heads) if isinstance(heads, str) else heads).items():
        if "config_type_weights" in (head or {}):
            raise ValueError(
                f"MACE: head '{name}' has config_type_weights of its own. Weights of config types are one "
                "table here; give them in --config_type_weights, and weights of heads as dataset_weights."
            )


def _first_stage(loss: str, given: Mapping[str, Any]) -> dict[str, Any]:
    made = load(LOSSES[loss])
    if loss == "ef":
        made["weights"] = {"energy": 1.0, "forces": 1.0}
        made["original"] |= {
            "because": f"--loss=ef reads no weights of terms. {made['original']['because']}",
            "weights": made["weights"],
        }
    made["weights"] = {**made["weights"], **_given(given, WEIGHTS, made["weights"])}
    if "huber_delta" in given and "huber_delta" in made:
        made["huber_delta"] = float(given["huber_delta"])
    made["config_type_weights"] = _config_types(given.get("config_type_weights", {}))
    head = float(given.get("weight_pt_head", 1.0))
    made["dataset_weights"] = {} if head == 1 else {"pt_head": head}
    return made


def _given(
    given: Mapping[str, Any], flags: Mapping[str, tuple[str, float]], terms: Mapping[str, Any]
) -> dict[str, float]:
    """Weights in the flags, of terms that the loss has."""
    return {term: float(given[flag]) for flag, (term, _) in flags.items() if flag in given and term in terms}


def _config_types(value: Any) -> dict[str, float]:
    """Weights that are not 1; MACE calls structures without a config type "Default", we "default"."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"MACE --config_type_weights must be a dictionary, got {value!r}.") from error
    weights = mapping_of("MACE --config_type_weights", value or {})
    named = {"default" if name == "Default" else name: float(weight) for name, weight in weights.items()}
    return {name: weight for name, weight in named.items() if weight != 1}


def _add_second_stage(made: dict[str, Any], loss: str, given: Mapping[str, Any]) -> None:
    """Let the weights change when the second stage starts."""
    if loss in NO_SECOND_STAGE:
        raise ValueError(f"MACE has no second stage (--swa) with --loss={loss}.")
    epochs = int(given.get("max_num_epochs", EPOCHS))
    start = int(given["start_swa"]) if given.get("start_swa") is not None else max(1, epochs // 4 * 3)
    first, original = made["weights"], made["original"]
    defaults = dict(SECOND.values())
    second = {term: defaults[term] for term in first} | _given(given, SECOND, first)
    if loss in SQUARED_SECOND_STAGE:
        _add_squared(made, second, start)
    elif loss == "ef":
        original |= staged({0: original["weights"], start: second})
    made |= staged({0: first, start: second})


def _add_squared(made: dict[str, Any], second: Mapping[str, float], start: int) -> None:
    """MACE changes to squared errors of energy and forces in the second stage, whatever the loss was."""
    squared, original = load("mace_weighted"), made["original"]
    names = {f"{term}_squared": term for term in squared["terms"]}
    before = made["weights"] | dict.fromkeys(names, 0.0)
    after = dict.fromkeys(made["weights"], 0.0) | {name: second[term] for name, term in names.items()}
    for name, term in names.items():
        made["terms"][name] = {**squared["terms"][term], "weight": 0.0}
        original["terms"][name] = {**squared["original"]["terms"][term], "weight": 1.0}
    original["because"] += (
        " The second stage is that of --loss=weighted: squared errors of energy and forces, and no stress."
    )
    original |= staged({0: before, start: after})


def _warn_of_idle(given: Mapping[str, Any], made: Mapping[str, Any], loss: str) -> None:
    """Say which weights act on nothing, as in MACE."""
    staged = is_on(given.get("swa", False))
    idle = [
        flag
        for flag, (term, _) in {**WEIGHTS, **SECOND}.items()
        if float(given.get(flag, 0.0)) and (term not in made["weights"] or (flag in SECOND and not staged))
    ]
    idle += ["huber_delta"] if "huber_delta" in given and "huber_delta" not in made else []
    if idle:
        flags = ", ".join(f"--{flag}={given[flag]}" for flag in idle)
        second = "" if staged else " without --swa"
        warnings.warn(f"MACE: {flags} acts on nothing in --loss={loss}{second}.", stacklevel=4)


class MissingAsZero(Wrapped):
    """A residual in which a missing label is 0, as for predictions that are trained toward 0 there.

    For ``faithful`` recipes of codes that fill in zeros and forget the weight.

    Args:
        residual: the residual, part or name.
    """

    def __init__(self, residual: Residual | str = "difference") -> None:
        super().__init__(residual)
        self.scaled_by_label = True

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return self.inner(prediction, label, batch)

    def labelled(self, label: Tensor) -> Tensor:
        return torch.ones_like(super().labelled(label))

    def formula(self, name: str) -> str:
        return f"{self.inner.formula(name)} (a missing label is 0)"

    def unit(self, unit: str) -> str:
        return self.inner.unit(unit)


def _named(recipe: str, faithful: bool, huber_delta: float | None = None, **weights: float) -> Recipe:
    made = load(recipe) | {"weights": weights, "faithful": faithful}
    return build(made | ({} if huber_delta is None else {"huber_delta": huber_delta}))


def WeightedEnergyForcesLoss(
    energy_weight: float = 1.0, forces_weight: float = 1.0, *, faithful: bool = False
) -> Recipe:
    """Squared errors of energy per atom and forces."""
    return _named("mace_weighted", faithful, energy=energy_weight, forces=forces_weight)


def WeightedForcesLoss(forces_weight: float = 1.0, *, faithful: bool = False) -> Recipe:
    """Squared errors of forces."""
    return _named("mace_forces_only", faithful, forces=forces_weight)


def WeightedEnergyForcesStressLoss(
    energy_weight: float = 1.0,
    forces_weight: float = 1.0,
    stress_weight: float = 1.0,
    *,
    faithful: bool = False,
) -> Recipe:
    """Squared errors of energy per atom, forces and stress."""
    return _named("mace_stress", faithful, energy=energy_weight, forces=forces_weight, stress=stress_weight)


def WeightedEnergyForcesVirialsLoss(
    energy_weight: float = 1.0,
    forces_weight: float = 1.0,
    virials_weight: float = 1.0,
    *,
    faithful: bool = False,
) -> Recipe:
    """Squared errors of energy per atom, forces and virial per atom."""
    return _named("mace_virials", faithful, energy=energy_weight, forces=forces_weight, virial=virials_weight)


def WeightedHuberEnergyForcesStressLoss(
    energy_weight: float = 1.0,
    forces_weight: float = 1.0,
    stress_weight: float = 1.0,
    huber_delta: float = 0.01,
    *,
    faithful: bool = False,
) -> Recipe:
    """Huber errors of energy per atom, forces and stress."""
    weights = {"energy": energy_weight, "forces": forces_weight, "stress": stress_weight}
    return _named("mace_huber", faithful, huber_delta, **weights)


def UniversalLoss(
    energy_weight: float = 1.0,
    forces_weight: float = 1.0,
    stress_weight: float = 1.0,
    huber_delta: float = 0.01,
    *,
    faithful: bool = False,
) -> Recipe:
    """Huber errors of energy per atom, forces and stress, with a smaller delta for longer force labels."""
    weights = {"energy": energy_weight, "forces": forces_weight, "stress": stress_weight}
    return _named("mace_universal", faithful, huber_delta, **weights)


def WeightedEnergyForcesL1L2Loss(
    energy_weight: float = 1.0, forces_weight: float = 1.0, *, faithful: bool = False
) -> Recipe:
    """Absolute errors of energy per atom, lengths of the errors of forces."""
    return _named("mace_l1l2", faithful, energy=energy_weight, forces=forces_weight)


def DipoleSingleLoss(dipole_weight: float = 1.0, *, faithful: bool = False) -> Recipe:
    """Squared errors of the dipole per atom, times 100."""
    return _named("mace_dipole", faithful, dipole=dipole_weight)


def DipolePolarLoss(
    dipole_weight: float = 1.0, polarizability_weight: float = 1.0, *, faithful: bool = False
) -> Recipe:
    """Squared errors of dipole and polarizability per atom."""
    return _named("mace_dipole_polar", faithful, dipole=dipole_weight, polarizability=polarizability_weight)


def WeightedEnergyForcesDipoleLoss(
    energy_weight: float = 1.0,
    forces_weight: float = 1.0,
    dipole_weight: float = 1.0,
    *,
    faithful: bool = False,
) -> Recipe:
    """Squared errors of energy per atom, forces and dipole per atom (times 100)."""
    return _named(
        "mace_energy_forces_dipole",
        faithful,
        energy=energy_weight,
        forces=forces_weight,
        dipole=dipole_weight,
    )
