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
NOISE = {
    "_target_": "pesloss.losses.DenoisingTerm",
    "denoising": "noise_vec",
    "normalized": False,
    "max_force": 2.5,
    "hidden": [*COUNTED],
}
OF_CURL = "mse_direct_forces_curl"
CURL = {
    "_target_": "pesloss.losses.CurlPenalty",
    "property": {"name": "direct_forces", "rows": "atom", "shape": [3], "unit": "eV/Å"},
}
ALL_ENTRIES = {"_target_": "pesloss.losses.Mean", "denominator": "entries"}
UPPER = {"_target_": "pesloss.losses.Voigt", "triangle": "upper"}
BECAUSE = (
    "Labels that are missing, or of weight 0, stay in the denominator, except those of stress and virials; "
    "weights stand inside Huber penalties and move their threshold; the conditional Huber loss has none, so "
    "that predictions without a label are trained toward 0; of a stress in six numbers the upper triangle "
    "alone is read. The curl is that of one random pair of components of the whole batch: this is not "
    "reproduced, nor are weights inside the Huber penalty of noise."
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

    Predictions and labels keep TACE's names (``virials``, ``direct_forces``), and the weight of a structure
    is its ``entropy``, times its ``weight``. Forces with denoising (``dens``) are a
    :class:`pesloss.losses.DenoisingTerm`, which puts the noise on by itself, with TACE's
    settings.

    Raises:
        ValueError: for keys, losses, functions and properties that do not exist, and lists that do not fit.
    """
    section = mapping_of("loss", config)
    section = mapping_of("loss", section["loss"]) if "loss" in section else section
    front = section.pop("_target_", "tace.utils.loss.NormalLoss").rpartition(".")[2]
    if front not in TARGETS:
        raise ValueError(f"loss._target_: {unknown('loss', front, TARGETS)}")
    check_keys("loss", section, TARGETS[front])
    for key in LISTS:
        if not isinstance(section.get(key), Sequence) or isinstance(section.get(key), str):
            raise ValueError(f"loss.{key} must be a list, got {section.get(key)!r}.")
    curl = _without_curl(section)
    entries, ratios = _entries(front, section)
    weights = {**{name: entry.weight for name, entry in entries.items()}, **curl}
    scale = sum(weights.values()) if section.get("normalize") else 1.0
    deltas = {name: entry.delta for name, entry in entries.items() if entry.delta is not None}
    there = {name: _as_there(entry, ratios.get(name)) for name, entry in entries.items()}
    terms = {name: _term(entry, ratios.get(name)) for name, entry in entries.items()}
    learned = {"_target_": "pesloss.weighting.Uncertainty", "form": "tace", "learning_rate": None}
    return {
        "_target_": "pesloss.recipes.Recipe",
        "project": "tace",
        "structure_weight": "entropy",
        "weights": {name: weight / scale for name, weight in weights.items()},
        "huber_delta": deltas or None,
        "weighting": learned if front == "UncertaintyLoss" else "fixed",
        "terms": {**terms, **{name: dict(CURL) for name in curl}},
        "original": {"because": BECAUSE, "terms": {name: term for name, term in there.items() if term}},
    }


def _without_curl(section: dict[str, Any]) -> dict[str, float]:
    """Weight of the curl, by its name, which is taken out of the lists."""
    functions = section["loss_function_name"]
    if OF_CURL not in functions:
        return {}
    place = functions.index(OF_CURL)
    weight = section["loss_property_weights"][place]
    for key, values in section.items():
        if isinstance(values, list):
            section[key] = [value for i, value in enumerate(values) if i != place]
    return {OF_CURL: weight}


def _entries(front: str, section: Mapping[str, Any]) -> tuple[dict[str, FlatTerm], dict[str, float]]:
    """Entries of the lists by name, and the weight of the noise for those with denoising."""
    properties, functions, weights = (list(section[key]) for key in LISTS)
    plain = [function.replace(DENOISING, "_") for function in functions]
    if front == "NormalLoss" and len(properties) < len(functions):
        properties = [property_of(function) for function in plain]  # TACE reads the functions alone
    given = section.get("loss_function_kwargs")
    kwargs = [dict(its or {}) for its in given or [{}] * len(functions)]
    dense = zip(functions, kwargs, strict=False)
    ratios = [_ratio(function, its) if DENOISING in function else None for function, its in dense]
    deltas = section.get("loss_huber_delta")
    entries = flat_entries(properties, plain, weights, deltas, None if given is None else kwargs)
    named = zip(entries, ratios, strict=True)
    return entries, {name: ratio for name, ratio in named if ratio is not None}


def _ratio(function: str, kwargs: dict[str, Any]) -> float:
    """Weight of the noise, which is taken out of the arguments."""
    ratio = kwargs.pop("dens_loss_ratio", 0.05)
    if not ratio >= 0:
        raise ValueError(f"dens_loss_ratio of '{function}' must not be negative, got {ratio}.")
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
    mask = (
        {}
        if ratio is None
        else {"mask": {"_target_": "pesloss.recipes.tace.Clean", "key": "dens_batch_mask"}}
    )
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
