"""SchNetPack's losses: ``schnetpack.task.AtomisticTask`` and its outputs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["pytorch-lightning", "torchmetrics"]
PACKAGE = "schnetpack==2.1.1"

MSE, L1 = {"_target_": "torch.nn.MSELoss"}, {"_target_": "torch.nn.L1Loss"}


def prepare(folder: Path) -> None:
    """The package alone: it wants a sympy that torch does not."""
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", PACKAGE], check=True)


def _output(name: str, loss: Mapping[str, Any], weight: float, **options: Any) -> dict[str, Any]:
    return {
        "_target_": "schnetpack.task.ModelOutput",
        "name": name,
        "loss_fn": dict(loss),
        "loss_weight": weight,
        **options,
    }


def _task() -> Any:
    """The one module, without the package around it and what that would import."""
    if "schnetpack.task" not in sys.modules:
        spec = importlib.util.find_spec("schnetpack")
        assert spec is not None and spec.submodule_search_locations is not None
        for name in ("schnetpack", "schnetpack.model", "schnetpack.model.base"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["schnetpack"].__path__ = list(spec.submodule_search_locations)
        sys.modules["schnetpack.model.base"].AtomisticModel = object  # pyright: ignore
    import schnetpack.task

    return schnetpack.task


def _built(task: Any, node: Any) -> Any:
    """What Hydra makes of a node."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return node
    module, _, name = node["_target_"].rpartition(".")
    home = {"torch.nn": torch.nn, "schnetpack.task": task}[module]
    arguments = {key: _built(task, value) for key, value in node.items() if key != "_target_"}
    if "constraints" in arguments:
        arguments["constraints"] = [_built(task, part) for part in arguments["constraints"]]
    return getattr(home, name)(**arguments)


def _total(outputs: Sequence[Mapping[str, Any]], drawn: Drawn) -> Tensor:
    task = _task()
    built = [_built(task, {"metrics": {}, **output}) for output in outputs]
    host = types.SimpleNamespace(outputs=built)
    predictions, targets = task.AtomisticTask.apply_constraints(
        host, dict(drawn.predictions), dict(drawn.batch)
    )
    return task.AtomisticTask.loss_fn(host, predictions, targets)


def _case(outputs: Sequence[Mapping[str, Any]], **options: Any) -> Any:
    return case(config=("schnetpack", {"outputs": list(outputs)}), **options)


MD17 = [_output("energy", MSE, 0.01), _output("forces", MSE, 0.99)]


@case(loss="schnetpack_md17")
def md17_recipe(drawn: Drawn) -> Tensor:
    return _total(MD17, drawn)


@_case(MD17)
def md17(drawn: Drawn) -> Tensor:
    return _total(MD17, drawn)


@case(loss="schnetpack_qm9", labels=("energy",))
def qm9_recipe(drawn: Drawn) -> Tensor:
    return _total([_output("energy", MSE, 1.0)], drawn)


@_case(
    [_output("forces", L1, 1.0), _output("energy", {"_target_": "torch.nn.SmoothL1Loss", "beta": 0.3}, 0.2)]
)
def absolute_and_smooth(drawn: Drawn) -> Tensor:
    smooth = {"_target_": "torch.nn.SmoothL1Loss", "beta": 0.3}
    return _total([_output("forces", L1, 1.0), _output("energy", smooth, 0.2)], drawn)


HUBER = {"_target_": "torch.nn.HuberLoss", "delta": 0.4, "reduction": "sum"}


@_case(SUMS := [_output("energy", HUBER, 0.1), _output("forces", {**MSE, "reduction": "sum"}, 0.02)])
def sums(drawn: Drawn) -> Tensor:
    return _total(SUMS, drawn)


@_case(
    [_output("mu", MSE, 0.5, target_property="dipole_moment")],
    labels=("dipole",),
)
def dipole(drawn: Drawn) -> Tensor:
    return _total([_output("dipole", MSE, 0.5)], drawn)


REGULARISED = [_output("energy", MSE, 1.0), _output("forces", {"_target_": "pesloss.losses.Squared"}, 0.3)]
REGULARISED[1]["_target_"] = "schnetpack.task.UnsupervisedModelOutput"


@_case(REGULARISED)
def unsupervised(drawn: Drawn) -> Tensor:
    """The output has no target; its loss function here is what a user would write for ours."""
    task = _task()
    output = task.UnsupervisedModelOutput(
        "forces", loss_fn=lambda values: values.square().mean(), loss_weight=0.3, metrics={}
    )
    return _total(REGULARISED[:1], drawn) + output.calculate_loss(drawn.predictions)


@case(loss="schnetpack_qm9_dipole", labels=("dipole_moment",), shapes={"dipole_moment": ("structure", ())})
def qm9_dipole_recipe(drawn: Drawn) -> Tensor:
    return _total([_output("dipole_moment", MSE, 1.0)], drawn)


SELECTED = {"_target_": "schnetpack.task.ConsiderOnlySelectedAtoms", "selection_name": "considered_atoms"}
CHOSEN = [_output("energy", MSE, 0.01), _output("forces", MSE, 0.99, constraints=[SELECTED])]


def _considered(drawn: Drawn) -> dict[str, Any]:
    return {"considered_atoms": drawn.batch["numbers"] != 6}


@_case(CHOSEN, setup=_considered)
def selected_atoms(drawn: Drawn) -> Tensor:
    return _total(CHOSEN, drawn)


RESPONSE = [
    _output("energy", MSE, 1.0),
    _output("forces", MSE, 5.0),
    _output("dipole_moment", MSE, 0.01),
    _output("polarizability", MSE, 0.01),
]


@case(
    loss="schnetpack_response",
    labels=("energy", "forces", "dipole", "polarizability", "shielding"),
    shapes={"shielding": ("atom", (3, 3))},
)
def response(drawn: Drawn) -> Tensor:
    """With the shielding of each element as an output, as ``SplitShielding`` prepares it."""
    weights = {1: 0.1, 6: 0.004, 8: 0.001}
    split = [_output(f"shielding_{element}", MSE, weight) for element, weight in weights.items()]
    for values in (drawn.batch, drawn.predictions):
        values["dipole_moment"] = values["dipole"]
        for element in weights:
            values[f"shielding_{element}"] = values["shielding"][drawn.batch["numbers"] == element]
    try:
        return _total(RESPONSE + split, drawn)
    finally:
        for values in (drawn.batch, drawn.predictions):
            for name in ["dipole_moment", *(output["name"] for output in split)]:
                del values[name]
