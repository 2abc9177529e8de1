"""modelforge's losses: `modelforge.train.losses`, and the schedules of its trainer."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["loguru", "numpy"]
COMMIT = "3d37cb7af89cc71eea3145a598d029371d251ba9"

KJ_PER_MOL = 96.48533212331001
"""One eV. modelforge computes in kJ/mol and nm."""
THEIRS: Mapping[str, tuple[str, float]] = {
    "energy": ("per_system_energy", KJ_PER_MOL),
    "forces": ("per_atom_force", 10 * KJ_PER_MOL),
    "charges": ("per_atom_charge", 1.0),
    "total_charge": ("per_system_total_charge", 1.0),
    "dipole": ("per_system_dipole_moment", 0.1),
    "quadrupole": ("per_system_quadrupole_moment", 0.01),
    "spin_multiplicities": ("per_atom_spin_multiplicity", 1.0),
}
SHAPES = {
    "total_charge": ("structure", ()),
    "quadrupole": ("structure", (3, 3)),
    "spin_multiplicities": ("atom", ()),
}


def prepare(folder: Path) -> None:
    """The package without what it needs: it is not on PyPI, where another project has its name."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, f"modelforge @ git+https://github.com/choderalab/modelforge@{COMMIT}"], check=True)


@cache
def sources() -> Path:
    """Folder of the package, which needs a conda environment to be imported as a whole."""
    spec = importlib.util.find_spec("modelforge")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def functions(*names: str) -> dict[str, Any]:
    """Functions of the trainer's module, without what it imports."""
    tree = ast.parse((sources() / "train" / "training.py").read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    space: dict[str, Any] = {"torch": torch, "Dict": dict, "TrainingParameters": Any, "BatchData": Any}
    exec(compile(ast.Module(found, []), "training.py", "exec"), space)
    return {name: space[name] for name in names}


def modules() -> Any:
    """`modelforge.train.losses` under stand-ins for the packages around it."""
    name = "modelforge.train.losses"
    if name not in sys.modules:
        folder = sources()
        for package in ("", ".train", ".utils"):
            stand_in = ModuleType(f"modelforge{package}")
            stand_in.__path__ = [str(folder / package[1:])]
            sys.modules[f"modelforge{package}"] = stand_in
        trainer = ModuleType("modelforge.train.training")
        rename = "_exchange_per_atom_energy_for_per_system_energy"
        setattr(trainer, rename, functions(rename)[rename])
        sys.modules[trainer.__name__] = trainer
    return importlib.import_module(name)


def completed(config: Mapping[str, Any]) -> SimpleNamespace:
    """Parameters as modelforge completes them: constant where no target is given."""
    weight = config["weight"]
    target = {**weight, **config.get("target_weight", {})}
    steps = {**dict.fromkeys(weight, 1.0), **config.get("mixing_steps", {})}
    parameters = SimpleNamespace(weight=weight, target_weight=target, mixing_steps=steps)
    return SimpleNamespace(loss_parameter=parameters, number_of_epochs=20)


def structures(drawn: Drawn) -> Any:
    """A batch of modelforge, positions in nm."""
    return SimpleNamespace(
        metadata=SimpleNamespace(
            per_system_energy=torch.zeros(len(drawn.num_atoms), 1, dtype=torch.float64),
            atomic_subsystem_counts=drawn.num_atoms,
        ),
        nnp_input=SimpleNamespace(
            atomic_subsystem_indices=drawn.batch["batch"],
            positions=0.1 * drawn.batch["positions"],
            per_system_total_charge=drawn.batch.get("total_charge"),
        ),
    )


def from_charges(drawn: Drawn, batch: Any) -> dict[str, Tensor]:
    """Dipoles and total charges that predicted charges make."""
    made = functions("_predict_dipole_moment", "_get_total_charges")
    charges = drawn.predictions["charges"][:, None]
    said = {"per_atom_charge": charges, "per_system_energy": batch.metadata.per_system_energy}
    total_charges = made["_get_total_charges"](batch, said)
    return {
        "per_system_dipole_moment_predict": made["_predict_dipole_moment"](said, batch),
        "per_system_total_charge_predict": total_charges["per_system_total_charge_predict"],
    }


def total(drawn: Drawn, config: Mapping[str, Any], epoch: int = 0, *, charged: bool = False) -> Tensor:
    """Mean over the structures of what the loss says of each, as its trainer takes it."""
    losses = modules()
    schedule = functions("_setup_weights_scheduling")["_setup_weights_scheduling"]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        weights = schedule(None, completed(config))
    finally:
        torch.set_default_dtype(default)
    pairs: dict[str, Tensor] = {}
    for ours, prediction in drawn.predictions.items():
        theirs, factor = THEIRS[ours]
        columns = (len(prediction), 1) if prediction.dim() == 1 else tuple(prediction.shape)
        pairs[f"{theirs}_predict"] = (factor * prediction).reshape(columns)
        pairs[f"{theirs}_true"] = (factor * drawn.batch[ours]).reshape(columns)
    batch = structures(drawn)
    if charged:
        pairs |= from_charges(drawn, batch)
    found = losses.Loss(list(config["loss_components"]), weights)(pairs, batch, epoch)
    return found["total_loss"].mean()


def table(weight: Mapping[str, float], **more: Mapping[str, float]) -> dict[str, Any]:
    """The table `training.loss_parameter`."""
    return {"loss_components": list(weight), "weight": dict(weight), **more}


def of_table(config: Mapping[str, Any], epoch: int | None = None, **kwargs: Any) -> Callable[..., Any]:
    pasted = {"training": {"number_of_epochs": 20, "batch_size": 128, "loss_parameter": config}}
    options = {"derived": False} | ({} if epoch is None else {"epoch": epoch})
    return case(config=("modelforge", pasted), options=options, shapes=SHAPES, **kwargs)


SEVEN = table(
    {
        "per_system_energy": 0.7,
        "per_atom_force": 0.02,
        "per_system_total_charge": 3.0,
        "per_system_dipole_moment": 20.0,
        "per_atom_charge": 5.0,
        "per_atom_spin_multiplicity": 0.3,
        "per_system_quadrupole_moment": 400.0,
    }
)
DIPOLES = table(
    {"per_system_energy": 0.00001, "per_system_dipole_moment": 0.1, "per_atom_charge": 1.0},
    target_weight={"per_system_dipole_moment": 1.0},
    mixing_steps={"per_system_dipole_moment": 0.25},
)
FALLING = table(
    {"per_atom_energy": 2.0, "per_atom_force": 0.0},
    target_weight={"per_atom_energy": 0.5, "per_atom_force": 0.01},
    mixing_steps={"per_atom_energy": -0.5, "per_atom_force": 0.003},
)


@case(loss="modelforge_energy", labels=("energy",))
def energy(drawn: Drawn) -> Tensor:
    return total(drawn, table({"per_system_energy": 1.0}))


@case(loss="modelforge_energy_force")
def energy_force(drawn: Drawn) -> Tensor:
    return total(drawn, table({"per_system_energy": 0.999, "per_atom_force": 0.001}))


@case(loss="modelforge_per_atom_energy_force")
def per_atom_energy_force(drawn: Drawn) -> Tensor:
    return total(drawn, table({"per_atom_energy": 0.999, "per_atom_force": 0.001}))


@case(
    loss="modelforge_dipole",
    overrides={"terms.dipole.prediction.center": "none"},
    labels=("energy", "forces", "dipole", "total_charge", "charges"),
    shapes=SHAPES,
)
def dipole(drawn: Drawn) -> Tensor:
    weights = {"per_system_energy": 1.0, "per_atom_force": 0.1}
    weights |= {"per_system_dipole_moment": 0.01, "per_system_total_charge": 0.01}
    return total(drawn, table(weights), charged=True)


@of_table(SEVEN, labels=tuple(THEIRS))
def seven(drawn: Drawn) -> Tensor:
    return total(drawn, SEVEN)


@of_table(DIPOLES, 0, labels=("energy", "dipole", "charges"))
def rising_at_the_start(drawn: Drawn) -> Tensor:
    return total(drawn, DIPOLES, 0)


@of_table(DIPOLES, 2, labels=("energy", "dipole", "charges"))
def rising_under_way(drawn: Drawn) -> Tensor:
    return total(drawn, DIPOLES, 2)


@of_table(DIPOLES, 4, labels=("energy", "dipole", "charges"))
def rising_at_the_end(drawn: Drawn) -> Tensor:
    return total(drawn, DIPOLES, 4)


@of_table(FALLING, 2)
def falling_under_way(drawn: Drawn) -> Tensor:
    return total(drawn, FALLING, 2)


@of_table(FALLING, 5)
def falling_at_the_end(drawn: Drawn) -> Tensor:
    return total(drawn, FALLING, 5)
