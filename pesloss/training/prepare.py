"""From a composed config to everything a training needs, checked before the first step."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch
from ase.data import chemical_symbols
from lightning_fabric import Fabric
from rich.console import Console

from pesloss import build, checkpoint
from pesloss.checks import Report, Subject, cheap, check
from pesloss.checks.rendering import rich_table, tell
from pesloss.data import LoadedData, Packed
from pesloss.losses import PROPERTIES, Property, TotalLoss
from pesloss.losses.batch import atom_counts
from pesloss.models import Network, Potential
from pesloss.models.derived import compared_by, derived_by
from pesloss.models.potential import DERIVATIVES
from pesloss.names import unknown
from pesloss.training.about import of_data
from pesloss.training.console import datasets_table, terms_table, watched_reading
from pesloss.training.fit import Fit
from pesloss.training.loggers import Loggers
from pesloss.training.metrics import MeanPredictor
from pesloss.training.mixture import Mixture
from pesloss.training.resume import has_run, resume
from pesloss.training.trainer import Trainer

Config = Mapping[str, Any]
Reading: TypeAlias = Callable[[Config, Mapping[str, Property], float, torch.dtype], LoadedData]
"""From a node of the config, the labels, the cutoff and the dtype to the structures."""


def read(node: Config, labels: Mapping[str, Property], cutoff: float, dtype: torch.dtype) -> LoadedData:
    """Structures that a node of the config describes."""
    return build(node).load(labels, cutoff, dtype)


def prepare(
    config: Config,
    fabric: Fabric,
    folder: Path,
    console: Console,
    overrides: Sequence[str] | None = None,
    *,
    reading: Reading = read,
) -> Fit:
    """Build what a config describes: loss first, since it decides which labels and derivatives are needed.

    A training that the folder holds already is continued if ``config["resume"]`` is true.

    Args:
        config: the composed config as plain data.
        fabric: devices and ranks, launched.
        folder: where the run writes; it exists.
        console: where to say what was found.
        overrides: what the command line has changed in the config, for whoever resumes the run;
            ``None`` if there was none.
        reading: what reads the data; several trainings may share them.

    Raises:
        ValueError: if a check finds what would make the training wrong, a weight names an unknown group, or
            the folder holds a training and the config does not say what to do with it.
        BuildError: if a node of the config describes no object.
        CheckpointError: if a training cannot be continued.
    """
    started = time.monotonic()
    resumed = _resumed(config.get("resume"), folder)
    trainer: Trainer = build(config["trainer"])
    loss: TotalLoss = build(config["loss"])
    torch.manual_seed(config["seed"])
    heads = heads_of(loss)
    model = build(config["model"], heads=heads).to(trainer.dtype)
    check_precision(trainer, model)
    with watched_reading(console, silent=not fabric.is_global_zero):
        data = reading(config["data"], loss.labels, model.cutoff, trainer.dtype)
    check_groups(loss, data)
    report = checked(loss, data, config.get("check", True))
    loss.pre_fit(data.train.chunks([*loss.labels, "numbers", "cell", "pbc"]))
    model.set_scale(energy_scale(data.train))
    potential = Potential(model, derived_by(loss, model))
    loss.attach(potential)
    groups = [{"params": list(potential.parameters())}, *loss.parameter_groups()]
    optimizer = build(config["optimizer"], groups)
    compared = compared_by(loss, potential)
    if fabric.is_global_zero:
        _introduce(console, fabric, loss, data, potential)
        _warn(console, report)
    fit = Fit(
        trainer,
        fabric,
        potential=potential,
        loss=loss,
        data=data,
        optimizer=optimizer,
        scheduler=build(config["scheduler"], optimizer) if config.get("scheduler") else None,
        loggers=Loggers(_loggers(config, fabric)),
        folder=folder,
        about={
            "config": dict(config),
            "overrides": None if overrides is None else list(overrides),
            "heads": heads,
            "properties": [asdict(prop) for prop in compared.values()],
            "references": data.references.as_dict(),
            "means": MeanPredictor.fit(compared, data.train.chunks(compared)).means,
            "elements": elements(data.train),
            "data": data.fingerprint,
            "parameters": sum(parameter.numel() for parameter in potential.parameters()),
            **of_data(data, loss.labels),
            "versions": _versions(),
        },
        started=started,
    )
    if fabric.is_global_zero:
        checkpoint.clean(folder)
    if resumed:
        _tell(console, fit, resume(fit))
    elif fabric.is_global_zero:
        for path in folder.glob("*.ckpt"):
            path.unlink()
    return fit


def check_precision(trainer: Trainer, model: Network) -> None:
    """Products of matrices are rounded to 8 bits only where a model is made for that.

    Raises:
        ValueError: if this one is not.
    """
    if trainer.precision == "bfloat16" and not model.allows_bfloat16:
        raise ValueError(
            f"precision=bfloat16, but {type(model).__name__} does not allow it: it would sum in 8 bits. "
            "Choose float32, or declare allows_bfloat16 in the model if it keeps its sums in float32."
        )


def check_groups(loss: TotalLoss, data: LoadedData) -> None:
    """Every group of structures that the loss weighs exists.

    Raises:
        ValueError: naming the unknown group.
    """
    known = {"config_type": data.config_types, "dataset": data.datasets}
    for key, names in loss.group_weights.items():
        for name in names:
            if name not in known[key]:
                raise ValueError(f"loss.{key}_weights: {unknown(key, name, known[key])}")


def checked(loss: TotalLoss, data: LoadedData, wish: bool) -> Report:
    """What the cheap checks say of a loss and its data; nothing if nobody wants to know.

    Raises:
        ValueError: if the training would be wrong for certain.
    """
    report = check(Subject(loss, data), cheap() if wish else [])
    if report.errors:
        raise ValueError("\n".join(finding.message for finding in report.errors))
    return report


def energy_scale(train: Packed) -> float:
    """Unit of atomic energies for a fresh model, in eV: RMS force times 1 Å, or the RMS energy per atom."""
    name = next((name for name in ("forces", "energy") if name in train.labelled), None)
    if name is None:
        return 1.0
    squares, count = 0.0, 0
    for chunk in train.chunks([name]):
        values = chunk[name].double() / (1 if name == "forces" else atom_counts(chunk))
        known = values[~values.isnan()]
        squares, count = squares + float(known.square().sum()), count + known.numel()
    return max((squares / count) ** 0.5, 1e-3)


def elements(train: Packed) -> list[str]:
    """Symbols of the elements that a model learns of."""
    found = {z for chunk in train.chunks(["numbers"]) for z in chunk["numbers"].unique().tolist()}
    return [chemical_symbols[z] for z in sorted(found)]


def _resumed(wish: bool | None, folder: Path) -> bool:
    if not has_run(folder):
        return False
    if wish is None:
        raise ValueError(
            f"{folder} holds a training already. resume=true goes on with it, resume=false starts over."
        )
    return wish


def _tell(console: Console, fit: Fit, notes: Sequence[str]) -> None:
    if not fit.fabric.is_global_zero:
        return
    progress = fit.progress
    where = f"{progress.epochs} epochs and {progress.steps} steps"
    for line in (f"resumed after {where} from {fit.folder}", *(f"  {note}" for note in notes)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def heads_of(loss: TotalLoss) -> list[str | dict[str, Any]]:
    """What the network itself must predict, as plain data; derivatives follow from its energy."""
    own = {name: prop for name, prop in loss.required.items() if name not in ("energy", *DERIVATIVES)}
    return ["energy", *(name if PROPERTIES.get(name) == prop else asdict(prop) for name, prop in own.items())]


def _loggers(config: Config, fabric: Fabric) -> list[Any]:
    return list(build(config["logger"]).values()) if fabric.is_global_zero and config.get("logger") else []


def _versions() -> dict[str, str]:
    packages = ("pesloss", "torch", "hydra-core", "ase", "vesin", "lightning-fabric")
    return {"python": sys.version.split()[0], **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "a checkout"


def _warn(console: Console, report: Report) -> None:
    """What the checks have found, but for what is merely worth knowing: the labels, and what is wrong."""
    for table in report.tables[:1]:
        console.print(rich_table(table.without("read from")))  # which the report of the reading has told
    for finding in report.of_level("warning"):
        tell(finding, console)


def _introduce(
    console: Console, fabric: Fabric, loss: TotalLoss, data: LoadedData, potential: Potential
) -> None:
    """Tell what was read and what will be trained."""
    parts = {"training": data.train, "validation": data.val, "test": data.test}
    sizes = ", ".join(f"{len(part)} {name}" for name, part in parts.items() if part is not None)
    parameters = sum(parameter.numel() for parameter in potential.parameters())
    console.print(str(data.report), highlight=False, soft_wrap=True)
    console.print(f"packed structures: {data.storage}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"reference energies: {data.references.note}", highlight=False, soft_wrap=True)
    console.print(f"{sizes} structures; {parameters} parameters on {fabric.device}", highlight=False)
    console.print(terms_table(loss))
    mixture = Mixture(data, loss)
    if mixture.datasets:
        console.print(datasets_table(mixture))
    if not compared_by(loss, potential):
        console.print(
            "No label has the name of a prediction: no error is told, and the last epoch counts as the best."
        )
