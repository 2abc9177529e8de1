"""NequIP's losses from its config, and by the names of its builders."""
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from pesloss.building import build
from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of
from pesloss.recipes.recipe import Recipe, load
from pesloss.recipes.stages import at_epoch, staged

FIELDS: Mapping[str, str | Mapping[str, Any]] = {
    "total_energy": "energy",
    "free_energy": {"name": "free_energy", "extensive": True, "unit": "eV"},
    "forces": "forces",
    "stress": "stress",
    "virial": "virial",
    "atomic_energy": "atomic_energies",
    "charges": "charges",
    "charge": "total_charge",
    "polarization": "polarization",
    "born_effective_charges": "born_effective_charges",
    "magmom": "total_magnetic_moment",
    "magmoms": "magnetic_moments",
}
"""Our property for each of NequIP's fields."""

SHORT: Mapping[str, str] = {
    "total_energy": "E",
    "atomic_energy": "Ei",
    "forces": "F",
    "magmom": "M",
    "charges": "Q",
    "polarization": "pol",
    "born_effective_charges": "Z*",
}
"""Fields in the names that NequIP gives to terms without one."""

BUILDERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "EnergyOnlyLoss": ("nequip_energy_only", ()),
    "EnergyForceLoss": ("nequip_energy_force", ("coeffs", "per_type_forces_coeffs")),
    "EnergyForceStressLoss": (
        "nequip_energy_force_stress",
        ("coeffs", "per_type_forces_coeffs", "ignore_nan"),
    ),
}
"""Recipe of each builder of a loss, and its arguments beside those that all have."""

ERRORS: Mapping[str, str] = {
    "rmse": "RootMeanSquaredError",
    "mae": "MeanAbsoluteError",
    "maxabserr": "MaximumAbsoluteError",
}
TABLES: Mapping[str, tuple[str, ...]] = {
    "EnergyOnlyMetrics": ("total_energy", "per_atom_energy"),
    "EnergyForceMetrics": ("total_energy", "per_atom_energy", "forces"),
    "EnergyForceStressMetrics": ("total_energy", "per_atom_energy", "forces", "stress"),
}
"""Quantities of the builders of validation metrics, each with all errors."""

METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "MeanSquaredError": ("mse", ()),
    "RootMeanSquaredError": ("rmse", ()),
    "MeanAbsoluteError": ("mae", ()),
    "MaximumAbsoluteError": ("max_ae", ()),
    "HuberLoss": ("huber", ("reduction", "delta")),
    "StratifiedHuberForceLoss": ("stratified huber", ("reduction", "delta_dict")),
}
"""What NequIP calls each metric in the names of terms, and its arguments."""

SCHEDULERS: Mapping[str, tuple[str, ...]] = {
    "LossCoefficientScheduler": ("schedule",),
    "LinearLossCoefficientScheduler": ("final_coeffs", "transition_epochs", "start_epoch"),
    "SoftAdapt": ("beta", "interval", "frequency", "eps"),
}
"""Callbacks that change coefficients, and their arguments."""

ENTRY = ("field", "metric", "coeff", "name", "per_type", "per_type_coeffs", "ignore_nan")
OURS = "nequip.train.callbacks."
EXTRA = "extra_metrics"


@dataclass
class Made:
    """A loss on the way from NequIP's spelling to ours.

    Args:
        node: without weights.
        coeffs: coefficient by term; ``None`` for a metric that is only monitored.
        names: terms by the name that NequIP gives them.
    """

    node: dict[str, Any]
    coeffs: dict[str, float | None]
    names: dict[str, str]

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Terms of a list of metrics."""
        for entry in entries:
            name, term, delta = _entry(entry)
            if name in self.names or name in self.coeffs:
                raise ValueError(f"NequIP: two metrics are called '{name}'; give each a name of its own.")
            self.coeffs[name] = None if entry.get("coeff") is None else float(entry["coeff"])
            self.names[name] = name
            self.node["terms"][name] = term
            if delta is not None:
                self.node["huber_delta"] = {**(self.node.get("huber_delta") or {}), name: delta}

    def stage(self, coeffs: Mapping[str, float], where: str) -> dict[str, float]:
        """Weights of all terms from coefficients under NequIP's names; 0 for those it does not name."""
        for name in coeffs:
            if name not in self.names:
                raise ValueError(f"{where}: {unknown('term', name, self.names)}")
        given = {self.names[name]: float(coeff) for name, coeff in coeffs.items()}
        if not sum(given.values()) > 0:
            raise ValueError(f"{where} needs a coefficient that is not 0, got {dict(coeffs)}.")
        return {term: given.get(term, 0.0) for term in self.coeffs}

    @property
    def weights(self) -> dict[str, float]:
        return {term: coeff or 0.0 for term, coeff in self.coeffs.items()}


def node(
    config: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    callbacks: Sequence[Mapping[str, Any]] = (),
    epoch: int | None = None,
) -> dict[str, Any]:
    """The loss of a NequIP config. A ConFIG module becomes the weighting ``conflict_free``.

    Args:
        config: the whole config, its ``training_module``, the ``loss`` in it, or the list of its metrics.
        callbacks: callbacks that change coefficients; those of a whole config are found there.
        epoch: give the loss as it is in this epoch, with fixed weights.

    Raises:
        ValueError: for keys, metrics and fields that NequIP does not have, and for what is no weighted sum of
            terms: the largest error as a loss, geometry as a field; and for coefficients that change under
            ConFIG.
    """
    loss, found = _sections(config)
    made = _made(loss)
    changes = _callbacks([*callbacks, *found], made)
    if _is_config_module(config):
        if "weighting" in changes:
            raise ValueError("NequIP: coefficients that change by a callback, under a ConFIG module.")
        changes |= {"weighting": "conflict_free"}
    result = {**made.node, "weights": made.weights, **changes}
    idle = [term for term in made.coeffs if not result["weights"][term]]
    result["terms"] = {name: term for name, term in made.node["terms"].items() if name not in idle}
    result["weights"] = {name: weight for name, weight in result["weights"].items() if name not in idle}
    if isinstance(result.get("huber_delta"), dict):
        result["huber_delta"] = {n: d for n, d in result["huber_delta"].items() if n not in idle} or None
    return result if epoch is None else at_epoch(result, epoch)


def _sections(config: Any) -> tuple[Any, list[Mapping[str, Any]]]:
    """The loss, and the callbacks, wherever they stand."""
    if not isinstance(config, Mapping):
        return config, []
    if "training_module" in config:
        whole = OmegaConf.create(dict(config))
        module, callbacks = (
            _resolved(OmegaConf.select(whole, key)) for key in ("training_module.loss", "trainer.callbacks")
        )
        _check_module(config["training_module"])
        return module, callbacks or []
    if "loss" in config:
        _check_module(config)
        return config["loss"], []
    return config, []


def _resolved(section: Any) -> Any:
    return OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else section


def _check_module(module: Mapping[str, Any]) -> None:
    if "loss" not in module:
        raise ValueError(f"NequIP: training_module has no 'loss'; found {sorted(module)}.")


def _is_config_module(config: Any) -> bool:
    """Whether the gradients of the terms are combined as ConFIG does it."""
    module = config.get("training_module", config) if isinstance(config, Mapping) else {}
    return "ConFIG" in str(module.get("_target_", ""))


def _target(where: str, config: Any, known: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Last word of a ``_target_``, and its arguments."""
    arguments = mapping_of(where, config)
    if "_target_" not in arguments:
        raise ValueError(f"{where} has no '_target_'; found {sorted(arguments)}.")
    name = str(arguments.pop("_target_")).rpartition(".")[2]
    if name not in known:
        raise ValueError(f"{where}: {unknown('_target_', name, known)}")
    return name, arguments


def _made(config: Any) -> Made:
    if isinstance(config, Sequence) and not isinstance(config, str):
        return _managed(config)
    known = {
        "MetricsManager": ("metrics",),
        **{name: ("per_atom_energy", EXTRA, *own) for name, (_, own) in BUILDERS.items()},
        **dict.fromkeys(TABLES, ("coeffs", EXTRA, "ignore_nan")),
    }
    name, arguments = _target("NequIP loss", config, known)
    check_keys(f"NequIP {name}", arguments, (*known[name], "type_names"))
    if name == "MetricsManager":
        return _managed(arguments.get("metrics", ()))
    made = _table(name, arguments) if name in TABLES else _built(name, arguments)
    made.add(arguments.get(EXTRA) or ())
    return made


def _managed(metrics: Iterable[Mapping[str, Any]]) -> Made:
    made = Made(_empty(), {}, {})
    made.add(metrics)
    return made


def _empty() -> dict[str, Any]:
    return {"_target_": "pesloss.recipes.Recipe", "project": "nequip", "normalize": True, "terms": {}}


def _built(name: str, arguments: Mapping[str, Any]) -> Made:
    """A builder's loss, from its recipe."""
    made = load(BUILDERS[name][0])
    weights: dict[str, Any] = made.pop("weights")
    per_atom = arguments.get("per_atom_energy", True)
    if not per_atom:
        made["terms"]["energy"]["residual"] = "difference"
    if arguments.get("per_type_forces_coeffs") is not None:
        made["terms"]["forces"]["reduction"] = _per_element(arguments["per_type_forces_coeffs"])
    fields = {"energy": "total_energy"}
    if arguments.get("coeffs") is not None:
        coeffs = mapping_of(f"NequIP {name} coeffs", arguments["coeffs"])
        wanted: dict[str, str] = {fields.get(term, term): term for term in weights}
        check_keys(f"NequIP {name} coeffs", coeffs, wanted)
        check_keys(f"NequIP {name} coeffs given", dict.fromkeys(wanted), coeffs)
        weights = {term: coeffs[field] for field, term in wanted.items()}
    names = {"energy": "per_atom_energy_mse" if per_atom else "total_energy_mse"}
    return Made(made, weights, {names.get(term, f"{term}_mse"): term for term in weights})


def _table(name: str, arguments: Mapping[str, Any]) -> Made:
    """Errors of a builder of metrics, as a loss."""
    known = [f"{quantity}_{error}" for quantity in TABLES[name] for error in ERRORS]
    coeffs = arguments.get("coeffs") or {
        f"{quantity}_rmse": 1.0 for quantity in TABLES[name] if quantity != "per_atom_energy"
    }
    check_keys(f"NequIP {name} coeffs", coeffs, known)
    per_atom = {"_target_": "PerAtomModifier", "field": "total_energy"}
    return _managed(
        {
            "name": key,
            "coeff": coeff,
            "field": per_atom if key.startswith("per_atom_energy") else key.rpartition("_")[0],
            "metric": {"_target_": ERRORS[key.rpartition("_")[2]]},
        }
        for key, coeff in coeffs.items()
        if coeff is not None
    )


def _per_element(coeffs: Mapping[str, float] | None) -> dict[str, Any]:
    given = {str(name): float(value) for name, value in (coeffs or {}).items()}
    if any(not value > 0 for value in given.values()):
        raise ValueError(f"NequIP: coefficients of types must be positive, got {given}.")
    return {"_target_": "pesloss.losses.PerElement", "coefficients": given}


def _entry(config: Mapping[str, Any]) -> tuple[str, dict[str, Any], float | None]:
    """Name, term and Huber delta of a metric."""
    check_keys("NequIP metric", mapping_of("NequIP metric", config), ENTRY)
    kind, arguments = _target("NequIP metric", config.get("metric"), METRICS)
    short, known = METRICS[kind]
    check_keys(f"NequIP {kind}", arguments, (*known, "dist_sync_on_step"))
    if config.get("field") is None:
        raise ValueError(
            f"NequIP metric {kind}: a metric without a field has a formula of its own; give one."
        )
    named, term = _field(config["field"])
    name = str(config.get("name") or f"{named}_{short}")
    if kind == "MaximumAbsoluteError" and config.get("coeff") is not None:
        raise ValueError(
            f"NequIP metric '{name}': the largest error of a batch is no loss; give it no coeff."
        )
    if kind == "StratifiedHuberForceLoss" and term["property"] != "forces":
        raise ValueError(f"NequIP metric '{name}': strata are of the length of forces, not of '{named}'.")
    term["penalty"] = _penalty(kind, arguments)
    if config.get("per_type") or config.get("per_type_coeffs") is not None:
        if kind == "RootMeanSquaredError" or arguments.get("reduction") == "sum":
            raise ValueError(f"NequIP metric '{name}': per_type is of means; {kind} gives a root or a sum.")
        term["reduction"] = _per_element(config.get("per_type_coeffs"))
    elif kind == "RootMeanSquaredError" or arguments.get("reduction") == "sum":
        term["reduction"] = "root_mean" if kind == "RootMeanSquaredError" else "sum"
    return name, term, float(arguments.get("delta", 1.0)) if kind == "HuberLoss" else None


def _penalty(kind: str, arguments: Mapping[str, Any]) -> str | dict[str, Any]:
    if arguments.get("reduction", "mean") not in ("mean", "sum"):
        raise ValueError(f"NequIP {kind}: {unknown('reduction', arguments['reduction'], ('mean', 'sum'))}")
    if kind != "StratifiedHuberForceLoss":
        return {"HuberLoss": "huber", "MeanAbsoluteError": "absolute"}.get(kind, "squared")
    deltas = {float(bound): float(delta) for bound, delta in arguments.get("delta_dict", {}).items()}
    if list(deltas) != sorted(deltas):
        raise ValueError(
            f"NequIP {kind}: bounds must rise, as NequIP reads them in order; got {list(deltas)}."
        )
    return {"_target_": "pesloss.losses.StratifiedHuber", "deltas": deltas}


def _field(field: Any) -> tuple[str, dict[str, Any]]:
    """How NequIP calls a field in the names of terms, and what of a term is of the field."""
    if isinstance(field, str):
        return SHORT.get(field, field), {"property": _property(field)}
    known = {
        "BaseModifier": ("field",),
        "PerAtomModifier": ("field", "factor"),
        "MappedFieldModifier": ("pred_field", "target_field"),
    }
    name, arguments = _target("NequIP field", field, known)
    check_keys(f"NequIP {name}", arguments, known[name])
    if name == "BaseModifier":
        return _field(arguments["field"])
    if name == "PerAtomModifier":
        named, term = _field(arguments["field"])
        factor = arguments.get("factor")
        scaled = {"_target_": "pesloss.losses.Scaled", "residual": "per_atom", "factor": factor}
        return f"per_atom_{named}", {**term, "residual": "per_atom" if factor is None else scaled}
    named, term = _field(arguments["pred_field"])
    label = _property(arguments["target_field"])
    return (
        f"pred_{named}_label_{SHORT.get(arguments['target_field'], arguments['target_field'])}",
        {**term, "label": label if isinstance(label, str) else label["name"]},
    )


def _property(field: str) -> str | dict[str, Any]:
    if field not in FIELDS:
        raise ValueError(f"NequIP field: {unknown('field', field, FIELDS)}")
    prop = FIELDS[field]
    return prop if isinstance(prop, str) else dict(prop)


def _callbacks(callbacks: Sequence[Mapping[str, Any]], made: Made) -> dict[str, Any]:
    """Weights and weighting from the callbacks that change coefficients."""
    found = [(str(one["_target_"]).rpartition(".")[2], one) for one in callbacks if "_target_" in one]
    found = [(name, one) for name, one in found if name in SCHEDULERS]
    for name, one in found:
        arguments = [key for key in one if key != "_target_"]
        check_keys(f"NequIP {name}", dict.fromkeys(arguments), SCHEDULERS[name])
    kinds = {name for name, _ in found}
    if len(kinds) > 1 or (len(found) > 1 and "SoftAdapt" in kinds):
        raise ValueError(
            f"NequIP: only one kind of callback can change the coefficients, got {sorted(kinds)}."
        )
    if not found:
        return {}
    change = {
        "LossCoefficientScheduler": _steps,
        "LinearLossCoefficientScheduler": _lines,
        "SoftAdapt": _soft,
    }
    return change[kinds.pop()]([one for _, one in found], made)


def _steps(callbacks: Sequence[Mapping[str, Any]], made: Made) -> dict[str, Any]:
    stages = {0: made.weights}
    for callback in callbacks:
        for epoch, coeffs in sorted((int(at), coeffs) for at, coeffs in callback["schedule"].items()):
            stages[epoch] = made.stage(coeffs, f"NequIP schedule of epoch {epoch}")
    return staged(dict(sorted(stages.items())), normalize=True)


def _lines(callbacks: Sequence[Mapping[str, Any]], made: Made) -> dict[str, Any]:
    current = _normalized(made.weights)
    stages = {0: current}
    for callback in sorted(callbacks, key=lambda one: int(one.get("start_epoch", 0))):
        start = int(callback.get("start_epoch", 0))
        if start < max(stages):
            raise ValueError(
                f"NequIP: a transition starts in epoch {start}, before the one before it has ended."
            )
        final = callback["final_coeffs"]
        missing = [name for name, term in made.names.items() if made.weights[term] and name not in final]
        if missing:
            raise ValueError(
                f"NequIP final_coeffs of epoch {start} has no {missing}; give all terms, 0 for none."
            )
        stages[start] = current
        current = _normalized(made.stage(final, f"NequIP final_coeffs of epoch {start}"))
        stages[start + int(callback["transition_epochs"])] = current
    # a line between normalized weights is normalized
    return {**staged(stages, between="linear"), "normalize": False}


def _soft(callbacks: Sequence[Mapping[str, Any]], made: Made) -> dict[str, Any]:
    arguments = {key: value for key, value in callbacks[0].items() if key != "_target_"}
    arguments["interval"] = "step" if arguments.get("interval") == "batch" else arguments.get("interval")
    if "eps" in arguments:
        arguments["epsilon"] = arguments.pop("eps")
    weighting = {"_target_": "pesloss.weighting.SoftAdapt", **arguments}
    original = {
        "because": (
            "SoftAdapt averages over the interval that ends at a multiple of `frequency` and the next one, "
            "not over all of them, and a frequency of 1 never updates."
        ),
        "weighting": {**weighting, "faithful": True},
    }
    return {"weighting": weighting, "original": original}


def _normalized(weights: Mapping[str, float]) -> dict[str, float]:
    return {term: weight / sum(weights.values()) for term, weight in weights.items()}


def EnergyOnlyLoss(**arguments: Any) -> Recipe:
    """Squared errors of the energy; arguments as in NequIP."""
    return build(node({"_target_": "EnergyOnlyLoss", **arguments}))


def EnergyForceLoss(**arguments: Any) -> Recipe:
    """Squared errors of energy and forces; arguments as in NequIP."""
    return build(node({"_target_": "EnergyForceLoss", **arguments}))


def EnergyForceStressLoss(**arguments: Any) -> Recipe:
    """Squared errors of energy, forces and stress; arguments as in NequIP."""
    return build(node({"_target_": "EnergyForceStressLoss", **arguments}))


def MetricsManager(metrics: Sequence[Mapping[str, Any]], type_names: Sequence[str] = ()) -> Recipe:
    """Weighted sum of the metrics that have a coefficient; each a mapping as in NequIP's config."""
    return build(node({"_target_": "MetricsManager", "metrics": metrics, "type_names": type_names}))
