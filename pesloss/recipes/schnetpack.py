"""SchNetPack's loss from ``task.outputs`` of its Hydra config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, predicted
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Vanishing
from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of

OUTPUTS = ("ModelOutput", "UnsupervisedModelOutput")
KEYS = ("_target_", "name", "loss_fn", "loss_weight", "metrics", "constraints", "target_property")
LOSSES: Mapping[str, tuple[str, str | None]] = {
    "MSELoss": ("squared", None),
    "L1Loss": ("absolute", None),
    "HuberLoss": ("huber", "delta"),
    "SmoothL1Loss": ("smooth_l1", "beta"),
}
"""Penalty of each loss of torch, and the name of its delta."""

REDUCTIONS = ("mean", "sum")
NAMES: Mapping[str, str | Mapping[str, Any]] = {
    **{name: name for name in PROPERTIES},
    **dict.fromkeys(("energy_U0", "energy_U", "enthalpy_H", "free_energy"), "energy"),
    "dipole_moment": "dipole",
    "partial_charges": "charges",
    "shielding": {"name": "shielding", "rows": "atom", "shape": [3, 3]},
}
"""Property of ours for the names in SchNetPack's configs and data sets."""


class Unsupervised(Vanishing):
    r"""Cost of what is predicted, without a label: a regulariser that pulls an output to zero.

    .. math:: \frac1n \sum_i w_i\, \rho(\text{prediction}_i)

    Args:
        property: what is predicted, by name or as a property of your own.
        options: those of a :class:`pesloss.PropertyTerm`.
    """

    def __init__(self, property: str | Property | Mapping[str, Any], **options: Any) -> None:
        super().__init__(PropertyTerm(property, **options))

    @property
    def required(self) -> Mapping[str, Property]:
        return self.term.required

    def prediction(self, predictions: Predictions, batch: Batch) -> Tensor:
        return predicted(predictions, self.term.property.name)

    def formula(self) -> str:
        return f"{self.term.formula()}; the label is 0"


def node(config: Any, *, properties: Mapping[str, str | Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The loss of a SchNetPack task: a list of outputs, a task, or the config that holds one.

    Args:
        config: ``[{_target_: schnetpack.task.ModelOutput, name: ..., loss_fn: ...}, ...]``, or where it is.
        properties: what outputs of names that are not known here are, a property's name or its arguments.

    Raises:
        ValueError: for keys, targets and losses that SchNetPack, torch or we do not have.
    """
    known = {**NAMES, **(properties or {})}
    terms, weights, deltas = {}, {}, {}
    for output in _outputs(config):
        check_keys("An output of SchNetPack", output, KEYS)
        weight = float(output.get("loss_weight", 1.0))
        if weight == 0 or output.get("loss_fn") is None:
            continue
        name = _name(str(output["name"]), terms)
        terms[name], delta = _term(output, known)
        weights[name] = weight
        if delta is not None:
            deltas[name] = delta
    return {
        "_target_": "pesloss.recipes.Recipe",
        "project": "schnetpack",
        "weights": weights,
        "huber_delta": deltas or None,
        "terms": terms,
    }


def _outputs(config: Any) -> list[dict[str, Any]]:
    while isinstance(config, Mapping):
        inner = [key for key in ("task", "outputs") if key in config]
        if not inner:
            raise ValueError(f"SchNetPack's config has neither 'task' nor 'outputs'; found {sorted(config)}.")
        config = config[inner[0]]
    if not isinstance(config, Sequence) or isinstance(config, str):
        raise ValueError(f"SchNetPack's outputs must be a list, got {config!r}.")
    return [mapping_of("An output of SchNetPack", output) for output in config]


def _name(name: str, taken: Mapping[str, Any]) -> str:
    if name in taken:
        raise ValueError(f"SchNetPack: two outputs are called '{name}'.")
    return name.replace(".", "_")


def _term(output: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    kind = str(output.get("_target_", "schnetpack.task.ModelOutput")).rpartition(".")[2]
    if kind not in OUTPUTS:
        raise ValueError(f"_target_: {unknown('output of SchNetPack', kind, OUTPUTS)}")
    name = str(output.get("target_property") or output["name"])
    if name not in known:
        raise ValueError(
            f"{unknown('property', name, known)} Say what it is: properties={{'{name}': 'energy'}}, or "
            "the arguments of a property of your own, name, rows, shape."
        )
    term = {"property": known[name], **_mask(output.get("constraints") or [])}
    if kind == "UnsupervisedModelOutput":
        return {"_target_": "pesloss.recipes.schnetpack.Unsupervised", **term, "penalty": _own(output)}, None
    function = mapping_of("loss_fn", output["loss_fn"])
    penalty, delta = _penalty(function)
    return {**term, **penalty}, delta


def _own(output: Mapping[str, Any]) -> dict[str, Any]:
    function = mapping_of("loss_fn", output["loss_fn"])
    if not str(function.get("_target_", "")).startswith("pesloss.losses."):
        raise ValueError(
            f"Output '{output['name']}' has no target, and its loss_fn {function.get('_target_')} is code of "
            "your own; give the penalty whose mean it is, such as {_target_: pesloss.losses.Squared}."
        )
    return function


def _penalty(function: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    target = str(function.get("_target_", ""))
    module, _, loss = target.rpartition(".")
    if module not in ("torch.nn", "torch.nn.modules.loss") or loss not in LOSSES:
        raise ValueError(f"loss_fn: {unknown('loss', target, [f'torch.nn.{name}' for name in LOSSES])}")
    penalty, delta = LOSSES[loss]
    check_keys(target, function, ("_target_", "reduction", *([delta] if delta else [])))
    reduction = function.get("reduction", "mean")
    if reduction not in REDUCTIONS:
        raise ValueError(f"{target}: {unknown('reduction', reduction, REDUCTIONS)}")
    if delta is None:
        return {"penalty": penalty, "reduction": reduction}, None
    value = float(function.get(delta, 1.0))
    if loss == "SmoothL1Loss" and value == 0:
        return {"penalty": "absolute", "reduction": reduction}, None
    return {"penalty": penalty, "reduction": reduction}, value


def _mask(constraints: Sequence[Any]) -> dict[str, Any]:
    masks = []
    for constraint in constraints:
        constraint = mapping_of("A constraint of SchNetPack", constraint)
        if str(constraint.get("_target_", "")).rpartition(".")[2] != "ConsiderOnlySelectedAtoms":
            known = ["schnetpack.task.ConsiderOnlySelectedAtoms"]
            raise ValueError(f"constraints: {unknown('constraint', constraint.get('_target_'), known)}")
        check_keys("ConsiderOnlySelectedAtoms", constraint, ("_target_", "selection_name"))
        masks.append({"_target_": "pesloss.losses.Given", "key": constraint["selection_name"]})
    if len(masks) > 1:
        raise ValueError(
            "SchNetPack: an output takes one constraint here; choose its atoms with a single one."
        )
    return {"mask": masks[0]} if masks else {}
