"""metatrain: the ``loss`` section of its options, with the targets that it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of

ORIGINAL = {
    "because": (
        "Each rank divides by its own number of labels, so that labels of a small batch count more. The "
        "cumulative part of the losses of spectra is integrated over the batch instead of the energy, which "
        "makes it noise: this is not reproduced."
    ),
    "across_ranks": False,
}
PENALTIES: Mapping[str, str] = {"mse": "squared", "mae": "absolute", "huber": "huber"}
SCORES: Mapping[str, str] = {
    "gaussian_nll_ensemble": "gaussian_nll",
    "gaussian_crps_ensemble": "gaussian_crps",
    "empirical_crps_ensemble": "empirical_crps",
}
SPECTRA: Mapping[str, Sequence[str]] = {
    "shift_agnostic_mse": ("int_weight", "grad_penalty_weight"),
    "masked_dos": ("int_weight", "grad_weight", "extra_targets"),
}
"""Losses of densities of states, with the arguments that they cannot do without."""
TYPES = (*PENALTIES, *(f"masked_{name}" for name in PENALTIES), *SCORES, *SPECTRA)
COMMON = ("type", "weight", "reduction")
REDUCTIONS = ("mean", "sum")
DELTA = 1.0
GRADIENTS: Mapping[str, str] = {"positions": "forces", "strain": "virial"}
SHORTHANDS: Mapping[str, str] = {"forces": "positions", "stress": "strain", "virial": "strain"}


@dataclass(frozen=True)
class Target:
    """What metatrain's options say of a target.

    Args:
        name: of the target.
        info: its entry in the options.
        per_atom: whether the trainer divides its values by the number of atoms.
        alone: whether it is the only energy.
        scale: σ that its labels are divided by, a number or by element.
    """

    name: str
    info: Mapping[str, Any]
    per_atom: bool = True
    alone: bool = True
    scale: float | Mapping[str, float] | None = None

    @property
    def is_energy(self) -> bool:
        """Whether it has forces and a virial as its gradients."""
        return self.name == "energy" or self.info.get("quantity") == "energy"

    @property
    def of_atoms(self) -> bool:
        """Whether there is one value an atom."""
        return self.info.get("sample_kind") == "atom" or bool(self.info.get("per_atom"))

    @property
    def gradients(self) -> list[str]:
        """Gradients that the training set has."""
        if not self.is_energy:
            return []
        stress = self.info.get("stress", not _on(self.info.get("virial")))
        if _on(self.info.get("virial")) and _on(stress):
            raise ValueError(f"Target '{self.name}' has both stress and virial; they are one quantity.")
        strain = _on(stress) or _on(self.info.get("virial"))
        return ["positions"] * _on(self.info.get("forces", True)) + ["strain"] * strain

    def property(self) -> Any:
        """The property as an argument of a term."""
        if self.name == "energy":
            return "energy"
        rows = "atom" if self.of_atoms else "structure"
        unit = self.info.get("unit") or ("eV" if self.is_energy else "")
        shape = [] if self.is_energy else _shape(self.name, self.info)
        return {"name": self.name, "rows": rows, "shape": shape, "extensive": not self.of_atoms, "unit": unit}

    def gradient(self, name: str) -> Any:
        """The property of one of its gradients."""
        known = GRADIENTS[name]
        if self.alone:
            return known
        shape = [3] if known == "forces" else [3, 3]
        rows, unit = ("atom", "eV/Å") if known == "forces" else ("structure", "eV")
        return {
            "name": f"{self.name}_{known}",
            "rows": rows,
            "shape": shape,
            "unit": unit,
            "extensive": rows == "structure",
        }


def node(
    config: Any,
    *,
    targets: Mapping[str, Any] | None = None,
    per_structure_targets: Sequence[str] = (),
    scales: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The ``loss`` section of metatrain's options, or the whole file, as a node of ours.

    Extensive targets are compared per atom, as the trainers do. Gradients by positions and strain are −forces
    and −virial, whose losses do not depend on the sign. Without targets there is an energy with both.

    Args:
        config: a type for all targets (``mse``); or by target a type, or ``{type, weight, reduction, ...}``
            with ``forces``, ``stress`` or ``virial``, or ``gradients``; or the options that hold it.
        targets: the ``targets`` section of the training set; by default that of the options.
        per_structure_targets: targets that are not divided by the number of atoms, besides those of the
            options.
        scales: σ by target that metatrain's ``scale_targets`` has found, a number or by element; 1 by
            default.

    Raises:
        ValueError: for targets, types, keys and reductions that do not exist, forces of what is no energy,
            and ``scale_targets: true`` without ``scales``.
    """
    section, told, training = _sections(config)
    if training.get("scale_targets") is True and scales is None:
        raise ValueError(
            "scale_targets: metatrain divides labels, and forces with their energy, by the root mean square "
            "of the training set. Give what it found, scales={target: number}; or {} for 1."
        )
    skipped = {*per_structure_targets, *training.get("per_structure_targets", [])}
    known = _targets(section, told if targets is None else targets, skipped, scales or {})
    raw = dict.fromkeys(known, section) if isinstance(section, str) else section
    terms: dict[str, dict[str, Any]] = {}
    for name, target in known.items():
        spread = isinstance(section, str)
        terms |= _of_target(target, _spec(f"loss.{name}", raw.get(name, {})), spread)
    deltas = {name: term.pop("delta") for name, term in terms.items() if "delta" in term}
    return {
        "_target_": "pesloss.recipes.Recipe",
        "project": "metatrain",
        "weights": {name: term.pop("weight") for name, term in terms.items()},
        "huber_delta": deltas or None,
        "terms": terms,
        "original": dict(ORIGINAL),
    }


def _sections(config: Any) -> tuple[Any, Mapping[str, Any] | None, Mapping[str, Any]]:
    """Loss, targets and training options, from whatever holds them."""
    if not isinstance(config, Mapping):
        return config or "mse", None, {}
    if "architecture" in config:
        architecture = mapping_of("architecture", config["architecture"])
        training = mapping_of("architecture.training", architecture.get("training", {}))
    elif "loss" in config:
        training = config
    else:
        return config, None, {}
    return training.get("loss", "mse"), _targets_of(config.get("training_set")), training


def _targets_of(training_set: Any) -> Mapping[str, Any] | None:
    """Targets of a training set, of all of its parts if there are several."""
    if training_set is None or isinstance(training_set, str):
        return None
    parts = training_set if isinstance(training_set, list) else [training_set]
    return {name: info for part in parts for name, info in (part.get("targets") or {}).items()}


def _targets(
    section: Any, targets: Mapping[str, Any] | None, skipped: set[str], scales: Mapping[str, Any]
) -> dict[str, Target]:
    if not isinstance(section, (str, Mapping)):
        raise ValueError(f"loss must be a type or a mapping by target, got {section!r}.")
    if targets is None:
        targets = {"energy": {}} if isinstance(section, str) else _guessed(section)
    infos = {name: info if isinstance(info, Mapping) else {} for name, info in targets.items()}
    for what, names in (("loss", section), ("per_structure_targets", skipped), ("scales", scales)):
        check_keys(what, {} if isinstance(names, str) else dict.fromkeys(names), infos)
    energies = [name for name, info in infos.items() if Target(name, info).is_energy]
    return {
        name: Target(name, info, name not in skipped, len(energies) <= 1, scales.get(name))
        for name, info in infos.items()
    }


def _guessed(section: Mapping[str, Any]) -> dict[str, Any]:
    """Targets that a loss section speaks of, where nothing else says what they are."""
    found: dict[str, Any] = {}
    for name, spec in section.items():
        spec = spec if isinstance(spec, Mapping) else {}
        gradients = [SHORTHANDS[key] for key in SHORTHANDS if key in spec] + list(spec.get("gradients") or {})
        found[name] = {"quantity": "energy" if name == "energy" or gradients else ""}
        if gradients:
            found[name] |= {"forces": "positions" in gradients, "stress": "strain" in gradients}
    return found


def _spec(where: str, spec: Any) -> dict[str, Any]:
    return {"type": spec} if isinstance(spec, str) else mapping_of(where, spec)


def _of_target(target: Target, spec: dict[str, Any], spread: bool) -> dict[str, dict[str, Any]]:
    """Terms of a target and of its gradients."""
    where = f"loss.{target.name}"
    gradients = _gradients(where, target, spec)
    spec = {key: value for key, value in spec.items() if key != "gradients" and key not in SHORTHANDS}
    found = {target.name: _term(where, target, spec)}
    for name in {**dict.fromkeys(target.gradients), **gradients}:
        its = gradients.get(name, {"type": spec["type"]} if spread else {})
        made = _term(f"{where}, gradient by {name}", target, its, name)
        prop = made["property"]
        found[prop if isinstance(prop, str) else prop["name"]] = made
    return found


def _gradients(where: str, target: Target, spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of gradients, those of ``gradients`` over those of the shorthands."""
    short = [key for key in SHORTHANDS if key in spec]
    if short and not target.is_energy:
        raise ValueError(
            f"{where}: '{short[0]}' is of an energy; say quantity: energy in the target '{target.name}' "
            "if it is."
        )
    if "stress" in short and "virial" in short:
        raise ValueError(f"{where}: stress and virial are one gradient; give one of them.")
    found = {SHORTHANDS[key]: _spec(f"{where}.{key}", spec[key]) for key in short}
    given = mapping_of(f"{where}.gradients", spec.get("gradients") or {})
    check_keys(f"{where}.gradients", given, GRADIENTS)
    for name, its in given.items():
        found[name] = {**found.get(name, {}), **_spec(f"{where}.gradients.{name}", its)}
    return found


def _term(where: str, target: Target, spec: Mapping[str, Any], gradient: str | None = None) -> dict[str, Any]:
    kind = spec.get("type", "mse")
    if kind not in TYPES:
        raise ValueError(f"{where}: {unknown('type', kind, TYPES)}")
    reduction = spec.get("reduction", "mean")
    if reduction not in REDUCTIONS:
        raise ValueError(f"{where}: {unknown('reduction', reduction, REDUCTIONS)}")
    prop = target.property() if gradient is None else target.gradient(gradient)
    weight = {"weight": spec.get("weight", 1.0)}
    if kind in SCORES or kind in SPECTRA:
        if gradient is not None:
            raise ValueError(f"{where}: '{kind}' is of values, not of gradients.")
        return {**(_ensemble if kind in SCORES else _spectrum)(where, target, spec), **weight}
    name, masked = kind.removeprefix("masked_"), kind.startswith("masked_")
    check_keys(where, spec, [*COMMON, *(["delta"] if name == "huber" else [])])
    term = {"property": prop, "penalty": PENALTIES[name], "reduction": reduction, **weight}
    term["residual"] = _residual(target, of_structures=not target.of_atoms and gradient != "positions")
    if masked:
        its = prop if isinstance(prop, str) else prop["name"]
        term["mask"] = {"_target_": "pesloss.losses.Given", "key": f"{its}_mask"}
    return {**term, "delta": spec.get("delta", DELTA)} if name == "huber" else term


def _ensemble(where: str, target: Target, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Score of an ensemble; its trainer compares values of structures, not per atom."""
    check_keys(where, spec, COMMON)
    return {
        "_target_": "pesloss.losses.EnsembleTerm",
        "property": target.property(),
        "score": SCORES[spec["type"]],
        "reduction": spec.get("reduction", "mean"),
    }


def _spectrum(where: str, target: Target, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Densities of states; their mean over structures is taken whatever the reduction."""
    wanted = SPECTRA[spec["type"]]
    check_keys(where, spec, [*COMMON, *wanted])
    for key in wanted:
        if key not in spec:
            raise ValueError(f"{where}: '{spec['type']}' has no default for '{key}'; give it a number.")
    made = {
        "_target_": "pesloss.losses.DOSTerm",
        "property": target.property(),
        "spacing": 0.05,  # eV, which metatrain assumes
        "cumulative_weight": spec["int_weight"],
        "per_atom": target.per_atom,
    }
    if spec["type"] == "shift_agnostic_mse":
        return {**made, "zeros": True, "method": "sum", "gradient_weight": spec["grad_penalty_weight"]}
    mask = {"_target_": "pesloss.losses.Given", "key": f"{target.name}_mask"}
    extra = {"extra": spec["extra_targets"], "padded": True}
    return {**made, **extra, "gradient_weight": spec["grad_weight"], "mask": mask}


def _residual(target: Target, of_structures: bool) -> Any:
    residual = "per_atom" if of_structures and target.per_atom else "difference"
    if target.scale is None:
        return residual
    by = {"by": "element"} if isinstance(target.scale, Mapping) else {}
    scale = dict(target.scale) if isinstance(target.scale, Mapping) else target.scale
    return {"_target_": "pesloss.losses.Standardized", "residual": residual, "scale": scale, **by}


def _on(value: Any) -> bool:
    return value is not None and value is not False


def _shape(name: str, info: Mapping[str, Any]) -> list[int]:
    """Entries of a target, its blocks one after another."""
    kind, num = info.get("type", "scalar"), info.get("num_subtargets", 1)
    if kind == "scalar":
        return [] if num == 1 else [num]
    form = mapping_of(f"Type of target '{name}'", kind)
    check_keys(f"Type of target '{name}'", form, ["cartesian", "spherical"])
    if "cartesian" in form:
        return [3] * form["cartesian"].get("rank", 1) + ([] if num == 1 else [num])
    return [num * sum(2 * irrep["o3_lambda"] + 1 for irrep in form["spherical"]["irreps"])]
