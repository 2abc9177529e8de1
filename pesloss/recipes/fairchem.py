"""fairchem: the tasks of its multi-dataset unit, and the loss functions of its older trainers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from pesloss.losses.batch import Batch, group_code, num_rows, structure_of_row
from pesloss.losses.masks import FreeAtoms, Mask
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of

Node = dict[str, Any]

TASK_KEYS = ("_target_", "name", "level", "property", "loss_fn", "out_spec", "normalizer", "datasets")
TASK_KEYS += ("element_references", "metrics", "train_on_free_atoms", "eval_on_free_atoms", "inference_only")
LOSS_KEYS = ("_target_", "loss_fn", "reduction", "coefficient")
NORMALIZER_KEYS = ("_target_", "mean", "rmsd", "stdev")
OLDER_KEYS = ("fn", "coefficient", "reduction")
OUTPUT_KEYS = ("property", "level", "irrep_dim", "shape", "train_on_free_atoms", "eval_on_free_atoms")
REDUCTIONS: Mapping[str, str] = {"mean": "mean", "sum": "sum", "per_structure": "per_structure"}
ROWS: Mapping[str, str] = {"atom": "atom", "system": "structure"}
NONZERO: Node = {"_target_": "pesloss.losses.PerStructure", "denominator": "nonzero"}
BECAUSE = "Structures that are predicted without any error are left out of the number of structures."


def MAELoss() -> Node:  # noqa: N802
    """Absolute errors, as arguments of a :class:`pesloss.PropertyTerm`."""
    return {"penalty": "absolute"}


def MSELoss() -> Node:  # noqa: N802
    """Squared errors, as arguments of a :class:`pesloss.PropertyTerm`."""
    return {"penalty": "squared"}


def PerAtomMAELoss() -> Node:  # noqa: N802
    """Absolute errors over the number of atoms, as arguments of a :class:`pesloss.PropertyTerm`."""
    return {"residual": "per_atom", "penalty": "absolute"}


def L2NormLoss() -> Node:  # noqa: N802
    """Lengths of errors, as arguments of a :class:`pesloss.PropertyTerm`."""
    return {"penalty": "l2_norm"}


LOSSES: Mapping[str, Callable[[], Node]] = {
    "MAELoss": MAELoss,
    "MSELoss": MSELoss,
    "PerAtomMAELoss": PerAtomMAELoss,
    "L2NormLoss": L2NormLoss,
}
OLDER: Mapping[str, Callable[[], Node]] = {
    "mae": MAELoss,
    "mse": MSELoss,
    "per_atom_mae": PerAtomMAELoss,
    "l2norm": L2NormLoss,
    "l2mae": L2NormLoss,
}


def DDPMTLoss(  # noqa: N802
    loss_fn: Mapping[str, Any],
    reduction: str = "mean",
    coefficient: float = 1.0,
) -> Node:
    """A loss over all labels of a step, on whatever rank, as arguments of a :class:`pesloss.PropertyTerm`.

    Args:
        loss_fn: one of the losses above.
        reduction: ``mean``, ``sum`` or ``per_structure``.
        coefficient: weight in the total.

    Raises:
        ValueError: for an unknown reduction.

    Example:
        >>> DDPMTLoss(L2NormLoss(), coefficient=2)
        {'penalty': 'l2_norm', 'reduction': 'mean', 'weight': 2}
    """
    if reduction not in REDUCTIONS:
        raise ValueError(unknown("reduction", reduction, REDUCTIONS))
    return {**loss_fn, "reduction": REDUCTIONS[reduction], "weight": coefficient}


def DDPLoss(loss_name: str, reduction: str | None = "mean") -> Node:  # noqa: N802
    """The same by name, as fairchem 1 has it.

    Args:
        loss_name: ``mae``, ``mse``, ``per_atom_mae``, ``l2norm`` or ``l2mae``.
        reduction: ``mean`` or ``sum``.

    Raises:
        ValueError: for an unknown loss or reduction.
    """
    if loss_name not in OLDER:
        raise ValueError(unknown("loss function", loss_name, OLDER))
    reduction = reduction or "mean"
    if reduction not in ("mean", "sum"):
        raise ValueError(unknown("reduction", reduction, ("mean", "sum")))
    return {**OLDER[loss_name](), "reduction": REDUCTIONS[reduction]}


class OfTask(Mask):
    """Structures of some datasets, or their atoms, of these all or the free ones.

    Reads ``dataset [S]`` of the batch, and ``fixed [N]`` for free atoms.

    Args:
        datasets: names.
        free_atoms: leave out the atoms that are held fixed.

    Raises:
        ValueError: if no dataset is named, or free atoms are asked of a property of structures.
        KeyError: if the batch does not say which datasets its structures are of, or which atoms are fixed.
    """

    def __init__(self, datasets: Sequence[str], *, free_atoms: bool = False) -> None:
        super().__init__()
        if not datasets:
            raise ValueError("A task needs at least one dataset.")
        self.datasets, self.free = tuple(datasets), FreeAtoms() if free_atoms else None
        self.rows: Any = "structure"
        self.codes: Tensor
        codes = torch.tensor([group_code(name) for name in datasets])
        self.register_buffer("codes", codes, persistent=False)

    def check(self, prop: Property) -> None:
        self.rows = prop.rows
        if self.free is not None:
            self.free.check(prop)

    def forward(self, batch: Batch) -> Tensor:
        if "dataset" not in batch:
            raise KeyError(
                f"Tasks of {list(self.datasets)} need 'dataset' in the batch; found {sorted(batch)}."
            )
        member = (batch["dataset"][:, None] == self.codes).any(1)
        if self.rows != "structure":
            member = member[structure_of_row(batch, self.rows, num_rows(batch, self.rows))]
        return member if self.free is None else member & self.free(batch)

    def formula(self) -> str:
        free = "" if self.free is None else f"{self.free.formula()} "
        return f"{free}of datasets {', '.join(self.datasets)}"


def node(config: Any, *, scales: Mapping[str, float] | None = None, **values: Any) -> Node:
    """The loss of a config of fairchem.

    ``tasks`` become a term each. Labels of ours have lost their element references before, and predictions
    are not normalised: ``element_references`` and a normaliser's ``mean`` have nothing to act on.

    Args:
        config: tasks, or a config with ``tasks``, ``tasks_list`` or ``loss_functions``.
        scales: by target of ``loss_functions``, the ``rmsd`` or ``stdev`` of its normaliser.
        values: of what the config interpolates but does not contain, ``energy_coef=20``.

    Raises:
        ValueError: for unknown keys and names, and for interpolations without a value.
    """
    whole = {"tasks": config} if isinstance(config, list) else mapping_of("fairchem config", config)
    key = next((key for key in ("tasks", "tasks_list", "loss_functions") if key in whole), None)
    if key is None and isinstance(whole.get("data"), Mapping):
        return node(whole["data"], scales=scales, **{**whole, **values})
    if key is None:
        raise ValueError(
            f"A config of fairchem has 'tasks', 'tasks_list' or 'loss_functions'; found {sorted(whole)}."
        )
    # a file of the config group `data` speaks of itself by that name
    root = OmegaConf.create({"data": whole if key == "tasks_list" else {}, **whole, **values})
    if key == "loss_functions":
        return _older(_plain(root, key), _plain(root, "outputs") if "outputs" in whole else {}, scales or {})
    if scales:
        raise ValueError("scales are of 'loss_functions'; the normalisers of tasks have theirs in `rmsd`.")
    return _of_tasks(root, key)


def _of_tasks(root: Any, key: str) -> Node:
    raw = OmegaConf.to_container(root, resolve=False)[key]  # pyright: ignore
    if not isinstance(raw, list):
        raise ValueError(f"{key} must be a list of tasks, got {raw!r}.")
    several = len({repr(task.get("datasets")) for task in raw if not task.get("inference_only")}) > 1
    weights, terms, original = {}, {}, {}
    for i, task in enumerate(raw):
        where = f"{key}[{i}]"
        check_keys(where, mapping_of(where, task), TASK_KEYS)
        if task.get("inference_only"):
            continue
        name = _plain(root, f"{where}.name")
        if name in terms:
            raise ValueError(f"{where}: there are two tasks '{name}'.")
        terms[name], weights[name] = _task(root, where, task, several)
        if terms[name].get("reduction") == "per_structure":
            original[name] = {"reduction": dict(NONZERO)}
    return _recipe(weights, terms, original)


def _task(root: Any, where: str, task: Mapping[str, Any], several: bool) -> tuple[Node, float]:
    for needed in ("property", "level", "loss_fn"):
        if needed not in task:
            raise ValueError(f"{where} needs '{needed}'; found {sorted(task)}.")
    loss = mapping_of(f"{where}.loss_fn", task["loss_fn"])
    check_keys(f"{where}.loss_fn", loss, LOSS_KEYS)
    inner = mapping_of(f"{where}.loss_fn.loss_fn", loss.get("loss_fn")).get("_target_", "")
    kind = str(inner).rpartition(".")[2]
    if kind not in LOSSES:
        raise ValueError(f"{where}.loss_fn.loss_fn: {unknown('loss function', kind, LOSSES)}")
    reduction = _plain(root, f"{where}.loss_fn.reduction") if "reduction" in loss else "mean"
    coefficient = _number(root, f"{where}.loss_fn.coefficient") if "coefficient" in loss else 1.0
    term = DDPMTLoss(LOSSES[kind](), reduction, coefficient)
    weight = float(term.pop("weight"))
    return _term(
        _property(root, where, task), term, _rmsd(root, where, task), _mask(root, where, task, several)
    ), weight


def _term(prop: Any, term: Node, scale: float, mask: Any) -> Node:
    """A term with its defaults left out."""
    if scale != 1:
        residual = {"residual": term["residual"]} if "residual" in term else {}
        term = {**term, "residual": {"_target_": "pesloss.losses.Standardized", **residual, "scale": scale}}
    if term["reduction"] == "mean":
        term = {key: value for key, value in term.items() if key != "reduction"}
    return {"property": prop, **term, **({} if mask is None else {"mask": mask})}


def _property(root: Any, where: str, task: Mapping[str, Any]) -> Any:
    name, level = _plain(root, f"{where}.property"), _plain(root, f"{where}.level")
    if level not in ROWS:
        raise ValueError(f"{where}: {unknown('level', level, ROWS)}")
    if name in PROPERTIES:
        return name
    size = prod(_plain(root, f"{where}.out_spec.dim")) if "out_spec" in task else 1
    return {"name": name, "rows": ROWS[level], "shape": [] if size == 1 else [size]}


def _mask(root: Any, where: str, task: Mapping[str, Any], several: bool) -> Any:
    free = task["level"] == "atom" and bool(task.get("train_on_free_atoms", True))
    if not several:
        return "free_atoms" if free else None
    datasets = _plain(root, f"{where}.datasets") if task.get("datasets") else []
    if not datasets:
        raise ValueError(f"{where} needs 'datasets', because other tasks are of some; found {sorted(task)}.")
    return {
        "_target_": "pesloss.recipes.fairchem.OfTask",
        "datasets": datasets,
        **({"free_atoms": True} if free else {}),
    }


def _rmsd(root: Any, where: str, task: Mapping[str, Any]) -> float:
    if task.get("normalizer") is None:
        return 1.0
    where = f"{where}.normalizer"
    keys = mapping_of(where, task["normalizer"])
    check_keys(where, keys, NORMALIZER_KEYS)
    key = next((key for key in ("rmsd", "stdev") if key in keys), None)
    return 1.0 if key is None else _number(root, f"{where}.{key}")


def _older(functions: Any, outputs: Mapping[str, Any], scales: Mapping[str, float]) -> Node:
    weights, terms = {}, {}
    for i, entry in enumerate(functions):
        for target, loss in mapping_of(f"loss_functions[{i}]", entry).items():
            where = f"loss_functions[{i}].{target}"
            check_keys(where, mapping_of(where, loss), OLDER_KEYS)
            for needed in ("fn", "coefficient"):
                if needed not in loss:
                    raise ValueError(f"{where} needs '{needed}'; found {sorted(loss)}.")
            term = DDPLoss(loss["fn"], loss.get("reduction"))
            free = _is_free(target, outputs)
            terms[target] = _term(target, term, scales.get(target, 1.0), "free_atoms" if free else None)
            weights[target] = float(loss["coefficient"])
    check_keys("scales", scales, terms)
    return _recipe(weights, terms, {})


def _is_free(target: str, outputs: Mapping[str, Any]) -> bool:
    if target not in PROPERTIES:
        raise ValueError(f"loss_functions: {unknown('property', target, PROPERTIES)}")
    output = mapping_of(f"outputs.{target}", outputs.get(target, {}))
    check_keys(f"outputs.{target}", output, OUTPUT_KEYS)
    return PROPERTIES[target].rows == "atom" and bool(output.get("train_on_free_atoms", True))


def _recipe(weights: Node, terms: Node, original: Node) -> Node:
    made = {"_target_": "pesloss.recipes.Recipe", "project": "fairchem", "weights": weights, "terms": terms}
    return {**made, "original": {"because": BECAUSE, "terms": original}} if original else made


def _plain(root: Any, where: str) -> Any:
    """What stands at a place, with its interpolations followed."""
    try:
        value = OmegaConf.select(root, where, throw_on_missing=True)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{where} has no value ({reason}); give it by name, {where.rpartition('.')[2]}=..."
        ) from None


def _number(root: Any, where: str) -> float:
    value = _plain(root, where)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where} must be a number, got {value!r}.")
    return float(value)
