"""MatGL's loss from the keyword arguments of its ``PotentialLightningModule``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of
from pesloss.recipes.recipe import load

PENALTIES = {
    "mse_loss": "squared",
    "huber_loss": "huber",
    "smooth_l1_loss": "smooth_l1",
    "l1_loss": "absolute",
}
DELTAS = {"huber_loss": "delta", "smooth_l1_loss": "beta"}
WEIGHTS = {
    "energy": "energy_weight",
    "forces": "force_weight",
    "stress": "stress_weight",
    "magnetic_moments": "magmom_weight",
    "charges": "charge_weight",
}
TARGETS = ("absolute", "symbreak", None)
SIGN_SYMMETRIC = "pesloss.losses.SignSymmetricTerm"

DEFAULTS: Mapping[str, Any] = {
    "energy_weight": 1.0,
    "force_weight": 1.0,
    "stress_weight": 0.0,
    "magmom_weight": 0.0,
    "charge_weight": 0.0,
    "loss": "mse_loss",
    "loss_params": None,
    "magmom_target": "absolute",
    "allow_missing_labels": False,
}
"""Arguments of the loss, and what they are where they are not given."""

OTHERS = [
    "model",
    "element_refs",
    "include_line_graph",
    "data_mean",
    "data_std",
    "optimizer",
    "scheduler",
    "lr",
    "decay_steps",
    "decay_alpha",
    "sync_dist",
]
"""Arguments that are not of the loss. The model multiplies by ``data_std`` and adds ``data_mean`` itself."""


def node(config: Any) -> dict[str, Any]:
    """The loss of a ``PotentialLightningModule`` with these arguments. Missing labels never count.

    Raises:
        ValueError: for arguments and losses that MatGL does not have (it takes them for ``l1_loss``).
    """
    given = mapping_of("The arguments of MatGL's PotentialLightningModule", config)
    check_keys("MatGL", given, (*DEFAULTS, *OTHERS))
    settings = {**DEFAULTS, **given}
    penalty, delta = _penalty(settings["loss"], settings["loss_params"] or {})
    weights = {term: float(settings[key]) for term, key in WEIGHTS.items() if settings[key]}
    made = load("matgl_potential")
    terms = {**made["terms"], **_site_terms(settings["magmom_target"])}
    made["weights"] = weights
    made["terms"] = {name: {**terms[name], "penalty": penalty} for name in weights}
    if delta is not None:
        made["huber_delta"] = delta
    differences = [
        *([_together(made["terms"]["magnetic_moments"])] if _symbreak(settings) else []),
        *([_forgetful(penalty)] if "charges" in weights and settings["loss_params"] else []),
    ]
    if differences:
        reasons, replaced = zip(*differences, strict=True)
        made["original"] = {"because": " ".join(reasons), "terms": dict(pair for pair in replaced)}
    return made


def _symbreak(settings: Mapping[str, Any]) -> bool:
    return bool(settings["magmom_weight"]) and settings["magmom_target"] == "symbreak"


def _penalty(loss: str, params: Mapping[str, Any]) -> tuple[str, float | None]:
    if loss not in PENALTIES:
        raise ValueError(f"{unknown('loss of MatGL', loss, PENALTIES)} MatGL itself takes it for l1_loss.")
    delta = DELTAS.get(loss)
    check_keys(f"loss_params of {loss}", params, [delta] if delta else [])
    return PENALTIES[loss], None if delta is None else float(params.get(delta, 1.0))


def _site_terms(target: str | None) -> dict[str, Any]:
    if target not in TARGETS:
        raise ValueError(f"magmom_target: {unknown('target', target, map(str, TARGETS))}")
    moments: dict[str, Any] = {"property": "magnetic_moments"}
    if target == "absolute":
        moments = load("matgl_chgnet")["terms"]["magnetic_moments"]
    elif target == "symbreak":
        moments = {"_target_": SIGN_SYMMETRIC, **moments, "by": "structure"}
    return {"magnetic_moments": moments, "charges": {"property": "charges"}}


def _together(moments: Mapping[str, Any]) -> tuple[str, tuple[str, Any]]:
    """What MatGL does with moments known up to their sign."""
    because = (
        "It flips the moments of all structures of a batch together, though each structure has its own sign."
    )
    return because, ("magnetic_moments", {**moments, "by": "batch"})


def _forgetful(penalty: str) -> tuple[str, tuple[str, Any]]:
    """What MatGL does with ``loss_params`` of charges."""
    default = {"_target_": "pesloss.losses.Huber", "delta": 1.0, "scale": penalty == "smooth_l1"}
    because = "It forgets loss_params where it compares charges, whose delta then is 1."
    return because, ("charges", {"penalty": default})
