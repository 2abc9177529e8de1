"""From a composed config to everything a training needs, checked before the first step."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from pesloss import build
from pesloss.data import LoadedData, Packed
from pesloss.losses import TotalLoss
from pesloss.losses.batch import atom_counts
from pesloss.models import Potential
from pesloss.models.potential import DERIVATIVES
from pesloss.names import unknown
from pesloss.training.console import terms_table
from pesloss.training.loggers import Loggers
from pesloss.training.trainer import Fit, Trainer

Config = Mapping[str, Any]


def prepare(config: Config, folder: Path, console: Console) -> Fit:
    """Build what a config describes: loss first, since it decides which labels and derivatives are needed.

    Args:
        config: the composed config as plain data.
        folder: where the run writes; it exists.
        console: where to say what was found.

    Raises:
        ValueError: if a term of the loss has no label, or a weight names an unknown group.
        BuildError: if a node of the config describes no object.
    """
    trainer: Trainer = build(config["trainer"])
    loss: TotalLoss = build(config["loss"])
    fabric = trainer.fabric()
    fabric.launch()
    torch.manual_seed(config["seed"])
    model = build(config["model"], heads=_heads(loss)).to(trainer.dtype)
    data: LoadedData = build(config["data"]).load(loss.required, model.cutoff, trainer.dtype)
    check_labels(loss, data)
    model.set_scale(energy_scale(data.train))
    potential = Potential(model)
    groups = [{"params": list(potential.parameters())}, *loss.parameter_groups()]
    optimizer = build(config["optimizer"], groups)
    if fabric.is_global_zero:
        _introduce(console, fabric, loss, data, potential)
    return Fit(
        trainer,
        fabric,
        potential=potential,
        loss=loss,
        data=_on_device(data, fabric),
        optimizer=optimizer,
        scheduler=build(config["scheduler"], optimizer) if config.get("scheduler") else None,
        loggers=Loggers(_loggers(config, fabric)),
        folder=folder,
        about={"config": dict(config), "references": data.references.as_dict(), "versions": _versions()},
        seed=config["seed"],
    )


def check_labels(loss: TotalLoss, data: LoadedData) -> None:
    """Every term of the loss has something to learn from, and every weighted group exists.

    Raises:
        ValueError: naming the property without labels and what lay unread, or the unknown group.
    """
    labels = data.train.labels()
    for name in loss.required:
        if name not in labels or bool(labels[name].isnan().all()):
            raise ValueError(
                f"The loss has a term for '{name}', but no training structure has a label for it.\n"
                f"{data.report}\nName its key with +data.keys.{name}=..., or remove the term with "
                f"loss.weights.{name}=0."
            )
    known = {"config_type": data.config_types, "dataset": data.datasets}
    for key, names in loss.group_names.items():
        for name in names:
            if name not in known[key]:
                raise ValueError(f"loss.{key}_weights: {unknown(key, name, known[key])}")


def energy_scale(train: Packed) -> float:
    """Unit of atomic energies for a fresh model, in eV: RMS force times 1 Å, or the RMS energy per atom."""
    labels = train.labels()
    if "forces" in labels:
        values = labels["forces"].double()
    elif "energy" in labels:
        values = labels["energy"].double() / atom_counts(labels)
    else:
        return 1.0
    return max(float(values[~values.isnan()].square().mean().sqrt()), 1e-3)


def _heads(loss: TotalLoss) -> list[str]:
    """What the network itself must predict; derivatives follow from its energy."""
    return ["energy", *(name for name in loss.required if name not in ("energy", *DERIVATIVES))]


def _loggers(config: Config, fabric: Fabric) -> list[Any]:
    return list(build(config["logger"]).values()) if fabric.is_global_zero and config.get("logger") else []


def _on_device(data: LoadedData, fabric: Fabric) -> LoadedData:
    parts = {"train": data.train, "val": data.val, "test": data.test}
    return replace(data, **{name: part and part.to(fabric.device) for name, part in parts.items()})


def _versions() -> dict[str, str]:
    packages = ("pesloss", "torch", "hydra-core", "ase", "vesin", "lightning-fabric")
    return {"python": sys.version.split()[0], **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "a checkout"


def _introduce(
    console: Console, fabric: Fabric, loss: TotalLoss, data: LoadedData, potential: Potential
) -> None:
    """Tell what was read and what will be trained."""
    parts = {"training": data.train, "validation": data.val, "test": data.test}
    sizes = ", ".join(f"{len(part)} {name}" for name, part in parts.items() if part is not None)
    parameters = sum(parameter.numel() for parameter in potential.parameters())
    console.print(str(data.report), highlight=False, soft_wrap=True)
    console.print(f"reference energies: {data.references.note}", highlight=False, soft_wrap=True)
    console.print(f"{sizes} structures; {parameters} parameters on {fabric.device}", highlight=False)
    console.print(terms_table(loss))
