"""TACE: the ``loss`` section of its YAML, `NormalLoss` or `UncertaintyLoss` of flat lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from pesloss import losses
from pesloss.losses import Batch, Mask
from pesloss.losses.flat import FlatTerm, flat_entries, property_of
from pesloss.losses.penalties import PENALTIES, ConditionalHuber, HuberLike
from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of

LISTS = ("loss_property", "loss_function_name", "loss_property_weights")
TARGETS: Mapping[str, Sequence[str]] = {
    "NormalLoss": (*LISTS, "loss_huber_delta", "loss_function_kwargs", "normalize"),
    "UncertaintyLoss": (*LISTS, "loss_huber_delta", "loss_function_kwargs"),
}
"""Losses by name, with their arguments; ``loss_huber_delta`` is the spelling before 0.2.3."""
COUNTED = ("stress", "direct_stress", "virials", "direct_virials")
"""Properties whose labels TACE counts; of the others it divides by the number of all entries."""
DENOISING = "_dens_"
RATIO = "dens_loss_ratio"
NOISE = {
    "_target_": "pesloss.losses.terms.denoising.DenoisingTerm",
    "denoising": "noise_vec",
    "normalized": False,
    "max_force": 2.5,
    "hidden": [*COUNTED],
}
ALL_ENTRIES = {"_target_": "pesloss.losses.Mean", "denominator": "entries"}
UPPER = {"_target_": "pesloss.losses.Voigt", "triangle": "upper"}
BECAUSE = (
    "Labels that are missing, or of weight 0, stay in the denominator, except those of stress and virials; weights "
    "stand inside Huber penalties and move their threshold; the conditional Huber loss has none, so that "
    "predictions without a label are trained toward 0; of a stress in six numbers the upper triangle alone is read."
)


class Clean(Mask):
    """Rows that no noise was put on, in a run that also learns to take noise away.

    Args:
        key: entry of the batch, true for what was corrupted; without it everything is clean.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, batch: Batch) -> Tensor | None:
        return ~batch[self.key] if self.key in batch else None

    def formula(self) -> str:
        return f"where not '{self.key}'"


def node(config: Any) -> dict[str, Any]:
    """The ``loss`` section of a TACE config, or the whole file, as a node of ours.

    Predictions and labels keep TACE's names (``virials``, ``direct_forces``), and the weight of a structure is
    its ``entropy``, times its ``weight``. Forces with denoising (``dens``) are a
    :class:`pesloss.losses.terms.denoising.DenoisingTerm`, which puts the noise on by itself, with TACE's settings.

    Raises:
        ValueError: for keys, losses, functions and properties that do not exist, and lists that do not fit.
    """
    section = mapping_of("loss", config)
    section = mapping_of("loss", section["loss"]) if "loss" in section else section
    front = section.pop("_target_", "tace.utils.loss.NormalLoss").rpartition(".")[2]
    if front not in TARGETS:
        raise ValueError(f"loss._target_: {unknown('loss', front, TARGETS)}")
    check_keys("loss", section, TARGETS[front])
    entries, ratios = _entries(front, section)
    there = {name: _as_there(entry, ratios.get(name)) for name, entry in entries.items()}
    scale = sum(entry.weight for entry in entries.values()) if section.get("normalize") else 1.0
    deltas = {name: entry.delta for name, entry in entries.items() if entry.delta is not None}
    made: dict[str, Any] = {
        "_target_": "pesloss.recipes.Recipe",
        "project": "tace",
        "structure_weight": "entropy",
        "weights": {name: entry.weight / scale for name, entry in entries.items()},
        "huber_delta": deltas or None,
        "terms": {name: _term(entry, ratios.get(name)) for name, entry in entries.items()},
        "original": {"because": BECAUSE, "terms": {name: term for name, term in there.items() if term}},
    }
    if front == "UncertaintyLoss":
        made["weighting"] = {"_target_": "pesloss.weighting.Uncertainty", "form": "tace", "learning_rate": None}
    return made


def _entries(front: str, section: Mapping[str, Any]) -> tuple[dict[str, FlatTerm], dict[str, float]]:
    """Entries of the lists by name, and the weight of the noise for those with denoising."""
    for key in LISTS:
        if not isinstance(section.get(key), Sequence) or isinstance(section.get(key), str):
            raise ValueError(f"loss.{key} must be a list, got {section.get(key)!r}.")
    properties, functions, weights = (list(section[key]) for key in LISTS)
    plain = [function.replace(DENOISING, "_") for function in functions]
    if front == "NormalLoss" and len(properties) < len(functions):
        properties = [property_of(function) for function in plain]  # TACE reads the functions alone
    kwargs = section.get("loss_function_kwargs")
    ratios = [0.05] * len(functions)
    if kwargs is not None:
        ratios = [_ratio(function, its or {}) for function, its in zip(functions, kwargs, strict=False)]
        kwargs = [
            {key: value for key, value in (its or {}).items() if key != RATIO or DENOISING not in function}
            for function, its in zip(functions, kwargs, strict=False)
        ]
    entries = flat_entries(properties, plain, weights, section.get("loss_huber_delta"), kwargs)
    together = zip(entries, functions, ratios, strict=True)
    return entries, {name: ratio for name, function, ratio in together if DENOISING in function}


def _ratio(function: str, kwargs: Mapping[str, Any]) -> float:
    ratio = kwargs.get(RATIO, 0.05)
    if not ratio >= 0:
        raise ValueError(f"{RATIO} of '{function}' must not be negative, got {ratio}.")
    return ratio


def _term(entry: FlatTerm, ratio: float | None) -> dict[str, Any]:
    """Arguments of the term, plain data; the deltas are the loss's."""
    prop = entry.property
    known = losses.PROPERTIES.get(prop.name) == prop
    made = {
        "property": prop.name if known else {**asdict(prop), "shape": list(prop.shape)},
        "penalty": next(name for name, part in PENALTIES.items() if part is entry.penalty),
    }
    if ratio is not None and prop.rows == "atom":
        return {**NOISE, **made, "ratio": ratio}
    mask = {} if ratio is None else {"mask": {"_target_": "pesloss.recipes.tace.Clean", "key": "dens_batch_mask"}}
    return {**made, "residual": _residual(entry), **mask}


def _residual(entry: FlatTerm) -> Any:
    if entry.residual != "modulo_quantum":
        return entry.residual
    return {"_target_": "pesloss.losses.ModuloQuantum", "per_atom": entry.per_atom}


def _as_there(entry: FlatTerm, ratio: float | None) -> dict[str, Any]:
    """How TACE counts and weighs."""
    if ratio is not None and entry.property.rows == "atom":
        return {**_term(entry, ratio), "reduction": ALL_ENTRIES}
    term: dict[str, Any] = {"residual": UPPER} if entry.residual == "voigt" else {}
    if entry.property.name in COUNTED and ratio is None:
        return term
    term["reduction"] = ALL_ENTRIES
    if entry.penalty is ConditionalHuber:
        missing = {"_target_": "pesloss.recipes.mace.MissingAsZero", "residual": _residual(entry)}
        return {**term, "residual": missing, "weighted_by": []}
    return {**term, "weight_inside": True} if issubclass(entry.penalty, HuberLike) else term
