"""orb-models: the loss settings of its conservative and direct regressors, and of its fine-tuning script."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from pesloss.recipes.reading import check_keys, mapping_of

Node = dict[str, Any]

REGRESSOR_KEYS = ("loss_weights", "heads", "forces_loss_type", "distill_direct_heads", "has_stress")
OTHER_KEYS = ("_target_", "model", "online_normalisation", "pair_repulsion", "ensure_grad_loss_weights")
OTHER_KEYS += (
    "model_requires_grad",
    "heads_require_grad",
    "system_config",
    "cutoff_layers",
    "level_of_theory",
)
CONSERVATIVE = ("energy", "grad_forces", "grad_stress", "rotational_grad", "confidence", "forces", "stress")
DIRECT = ("energy", "forces", "stress", "confidence")
FLAGS = ("energy_loss_weight", "forces_loss_weight", "stress_loss_weight", "equigrad_loss_weight")
NETWORK_KEYS = (
    "_target_",
    "latent_dim",
    "num_mlp_layers",
    "mlp_hidden_dim",
    "dropout",
    "checkpoint",
    "activation",
)
HEAD_KEYS = (*NETWORK_KEYS, "loss_type", "online_normalisation")
HEADS: Mapping[str, tuple[str, ...]] = {
    "energy": (*HEAD_KEYS, "predict_atom_avg", "reference_energy"),
    "forces": (
        *HEAD_KEYS,
        "remove_mean",
        "remove_torque_for_nonpbc_systems",
        "output_size",
        "detach_node_features",
    ),
    "stress": (*HEAD_KEYS, "node_aggregation", "off_diag_loss_weight"),
    "confidence": (
        *NETWORK_KEYS,
        "num_bins",
        "max_error",
        "binning_scale",
        "hard_clamp",
        "detach_node_features",
    ),
}
PER_ATOM = {"vasp": 1.3603868419157275, "vasp-shifted": 1.3603868419157275, "mp-traj-d3": 0.8189314920219992}
WHOLE = {"vasp": 153.89049784836962, "vasp-shifted": 48.61861182844561, "mp-traj-d3": 22.45615276341948}
"""Standard deviations of energies over the reference of atoms, in eV, with which its normalisers begin."""
STRATA = (100.0, 200.0, 300.0)
DIRECT_FORCES = {"name": "direct_forces", "rows": "atom", "shape": [3], "unit": "eV/Å"}
DIRECT_STRESS = {"name": "direct_stress", "shape": [3, 3], "unit": "eV/Å³"}


def node(config: Any, *, stds: Mapping[str, float] | None = None) -> Node:
    """The loss of a regressor of orb.

    A regressor is direct if it has a weight or head for ``forces``, and neither a weight of a gradient nor an
    argument that only the conservative one takes. orb's normalisers follow the batches they see; here their
    standard deviations stay as they are given.

    Args:
        config: arguments of a regressor (``loss_weights``, ``heads``, ``forces_loss_type``, ...), the
            ``loss_weights`` alone, or the weights of ``finetune.py`` (``energy_loss_weight``, ...) with its
            ``base_model``.
        stds: standard deviations of the normalisers by term, as in a checkpoint: ``energy`` per atom,
            ``forces``, ``stress`` or ``stress_diagonal`` and ``stress_off_diagonal``; by default those with
            which training begins.

    Raises:
        ValueError: for unknown keys and losses, and a weight without a head.
    """
    keys = _regressor(mapping_of("orb config", config))
    check_keys("orb config", keys, (*REGRESSOR_KEYS, *OTHER_KEYS))
    heads = {
        name: mapping_of(f"heads.{name}", head or {}) for name, head in (keys.get("heads") or {}).items()
    }
    check_keys("heads", heads, HEADS)
    for name, head in heads.items():
        check_keys(f"heads.{name}", head, HEADS[name])
    given = _weights(keys)
    direct = _is_direct(keys, heads, given)
    check_keys("loss_weights", given, DIRECT if direct else CONSERVATIVE)
    if not direct:
        _check_heads(given, heads)
    terms, weights = (_direct if direct else _conservative)(keys, heads, given)
    terms = {name: _normalised(name, term, stds or {}) for name, term in terms.items()}
    check_keys("stds", stds or {}, terms)
    recipe = {"_target_": "pesloss.recipes.Recipe", "project": "orb", "weights": weights, "terms": terms}
    deltas = {name: term["penalty"].pop("delta") for name, term in terms.items() if _has_delta(term)}
    return {**recipe, "huber_delta": deltas} if deltas else recipe


def _regressor(keys: Node) -> Node:
    """Arguments of a regressor, whatever was pasted."""
    if any(key in keys for key in FLAGS) or "base_model" in keys:
        check_keys("finetune.py", keys, (*FLAGS, "base_model"))
        grad = "" if "direct" in str(keys.get("base_model", "")) else "grad_"
        names = ("energy", f"{grad}forces", f"{grad}stress", "rotational_grad")
        weights = {
            name: keys[flag] for name, flag in zip(names, FLAGS, strict=True) if keys.get(flag) is not None
        }
        if not grad:
            return {"loss_weights": weights, "heads": {key: {} for key in DIRECT[:3]}}
        return {"loss_weights": weights, "has_stress": weights.get("grad_stress") != 0}
    return {"loss_weights": keys} if keys and set(keys) <= {*CONSERVATIVE} else keys


def _weights(keys: Node) -> Node:
    """Weights that are given, by names without the level of theory."""
    level = f"-{keys.get('level_of_theory')}"
    given = mapping_of("loss_weights", keys.get("loss_weights") or {})
    return {name.removesuffix(level): weight for name, weight in given.items() if weight is not None}


def _is_direct(keys: Node, heads: Node, weights: Node) -> bool:
    told = str(keys.get("_target_", "")).rpartition(".")[2]
    if told:
        return told.startswith("Direct")
    of_gradients = {"grad_forces", "grad_stress", "rotational_grad"} & weights.keys()
    of_gradients |= {"forces_loss_type", "distill_direct_heads", "has_stress"} & keys.keys()
    return not of_gradients and ("forces" in heads or "forces" in weights)


def _check_heads(weights: Node, heads: Node) -> None:
    for name in ("forces", "stress", "confidence"):
        if name in weights and name not in heads:
            raise ValueError(f"loss_weights.{name} needs a head '{name}'; found {sorted(heads)}.")


def _conservative(keys: Node, heads: Node, given: Node) -> tuple[Node, Node]:
    energy = heads.get("energy", {})
    kind = energy.get("loss_type", "huber_0.01")
    terms = {
        "energy": _energy(energy, kind),
        "forces": _forces("forces", keys.get("forces_loss_type", "condhuber_0.01")),
    }
    weights = {"energy": given.get("energy", 1.0), "forces": given.get("grad_forces", 1.0)}
    if keys.get("has_stress", True):
        terms["stress"] = _stress("stress", kind)
        weights["stress"] = given.get("grad_stress", 1.0)
    if "forces" in heads:
        loss_type = heads["forces"].get("loss_type", "condhuber_0.01")
        terms["direct_forces"] = _forces(DIRECT_FORCES, loss_type)
        weights["direct_forces"] = given.get("forces", 1.0)
    if "stress" in heads and keys.get("has_stress", True):
        _add(terms, weights, _halves(DIRECT_STRESS, heads["stress"], given.get("stress", 1.0)))
    for name in list(terms):
        if name.startswith("direct_"):
            terms[name] = _taught(terms[name], bool(keys.get("distill_direct_heads")))
    if "rotational_grad" in given:
        terms["equigrad"] = {"_target_": "pesloss.losses.RotationPenalty"}
        # the derivative by a generator is a matrix, with twice the squares of the vector of the torque
        weights["equigrad"] = sqrt(2) * given["rotational_grad"]
    return _with_confidence(terms, weights, heads, given)


def _direct(keys: Node, heads: Node, given: Node) -> tuple[Node, Node]:
    energy = heads.get("energy", {})
    terms = {"energy": _energy(energy, energy.get("loss_type", "huber_0.01"))}
    weights = {"energy": given.get("energy", 1.0)}
    if "forces" in heads or "forces" in given:
        terms["forces"] = _forces("forces", heads.get("forces", {}).get("loss_type", "condhuber_0.01"))
        weights["forces"] = given.get("forces", 1.0)
    if "stress" in heads or "stress" in given:
        _add(terms, weights, _halves("stress", heads.get("stress", {}), given.get("stress", 1.0)))
    return _with_confidence(terms, weights, heads, given)


def _energy(head: Node, kind: str) -> Node:
    reference = head.get("reference_energy") or "vasp-shifted"
    check_keys("heads.energy.reference_energy", {reference: None}, PER_ATOM)
    if head.get("predict_atom_avg", True):
        return {"property": "energy", "residual": "per_atom", "scale": PER_ATOM[reference], **_penalty(kind)}
    return {"property": "energy", "residual": "difference", "scale": WHOLE[reference], **_penalty(kind)}


def _forces(prop: Any, kind: str) -> Node:
    """Forces are averaged over structures, but for the conditional Huber error."""
    term = {"property": prop, "residual": "difference", "scale": 1.0, **_penalty(kind, conditional=True)}
    return term if kind.startswith("cond") else {**term, "reduction": "per_structure"}


def _stress(prop: Any, kind: str) -> Node:
    return {"property": prop, "residual": "voigt", "scale": 1.0, **_penalty(kind)}


def _halves(prop: Any, head: Node, weight: float) -> tuple[Node, Node]:
    """A stress from a head of its own: diagonal and shear each have a mean."""
    name = prop if isinstance(prop, str) else prop["name"]
    term = _stress(prop, head.get("loss_type", "huber_0.01"))
    halves = {"diagonal": weight, "off_diagonal": weight * head.get("off_diag_loss_weight", 0.1)}
    terms = {
        f"{name}_{half}": {**term, "penalty": dict(term["penalty"]), "components": half} for half in halves
    }
    return terms, {f"{name}_{half}": value for half, value in halves.items()}


def _add(terms: Node, weights: Node, more: tuple[Node, Node]) -> None:
    terms.update(more[0])
    weights.update(more[1])


def _taught(term: Node, distilled: bool) -> Node:
    """A head of its own learns from the labels, or from the gradient of the energy."""
    teacher = term["property"]["name"].removeprefix("direct_")
    if not distilled:
        return {**term, "label": teacher}
    if "components" in term:
        raise ValueError("distill_direct_heads is of forces here: a stress head learns from labels only.")
    return {"_target_": "pesloss.losses.Distillation", "teacher": teacher, **term}


def _with_confidence(terms: Node, weights: Node, heads: Node, given: Node) -> tuple[Node, Node]:
    if "confidence" in heads:
        head = heads["confidence"]
        terms["confidence"] = {
            "_target_": "pesloss.losses.ConfidenceTerm",
            "property": "forces",
            "bins": head.get("num_bins", 50),
            "largest": head.get("max_error", 0.3),
            "spacing": head.get("binning_scale", "linear"),
            "beyond": "ignore" if head.get("hard_clamp", True) else "last",
        }
        weights["confidence"] = given.get("confidence", 1.0)
    return terms, weights


def _penalty(kind: str, *, conditional: bool = False) -> Node:
    """Penalty of a loss type of orb, ``huber_0.01`` with its delta."""
    name, _, delta = str(kind).partition("_")
    known = {"mae": "Absolute", "mse": "Squared", "huber": "Huber"}
    known |= {"condhuber": "ConditionalHuber"} if conditional else {}
    check_keys("loss_type", {name: None}, known)
    penalty: Node = {"_target_": f"pesloss.losses.{known[name]}"}
    if name.endswith("huber"):
        try:
            penalty["delta"] = float(delta)
        except ValueError:
            raise ValueError(f"loss_type '{kind}' needs a number, such as '{name}_0.01'.") from None
    return {"penalty": penalty}


def _normalised(name: str, term: Node, stds: Mapping[str, float]) -> Node:
    """A term with its residual over a standard deviation, and strata of the label in its unit."""
    if "scale" not in term:
        return term
    scale = float(stds.get(name, term["scale"]))
    residual = {"_target_": "pesloss.losses.Standardized", "residual": term["residual"], "scale": scale}
    penalty = dict(term["penalty"])
    if penalty["_target_"].endswith("ConditionalHuber"):
        penalty["thresholds"] = [scale * threshold for threshold in STRATA]
    rest = {key: value for key, value in term.items() if key != "scale"}
    return {**rest, "residual": residual, "penalty": penalty}


def _has_delta(term: Node) -> bool:
    return isinstance(term.get("penalty"), dict) and "delta" in term["penalty"]
