"""graph-pes: the ``loss`` section of its YAML files, and its classes by the names its users know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pesloss import losses
from pesloss.losses import Batch, Property, PropertyTerm
from pesloss.names import unknown
from pesloss.recipes.reading import as_data, check_keys

ORIGINAL = {
    "because": "Each rank divides by its own number of labels, so that labels of a small batch count more.",
    "across_ranks": False,
}
PROPERTIES: Mapping[str, Any] = {
    "energy": "energy",
    "forces": "forces",
    "stress": "stress",
    "virial": "virial",
    "local_energies": {"name": "local_energies", "rows": "atom", "unit": "eV"},
    "tensor": {"name": "tensor", "rows": "atom", "shape": [9]},
}


@dataclass(frozen=True)
class Metric:
    """A measure of how far predictions are from labels, over all components of a batch.

    Args:
        penalty: name of our penalty.
        reduction: name of our reduction.
        delta: of a Huber penalty.
    """

    penalty: str
    reduction: str = "mean"
    delta: float | None = None

    def arguments(self) -> dict[str, Any]:
        """What it is as arguments of a term, without its delta."""
        return {"penalty": self.penalty, "reduction": self.reduction}


MSE = Metric("squared")
RMSE = Metric("squared", "root_mean")
MAE = Metric("absolute")
METRICS: Mapping[str, Metric] = {
    "RMSE": RMSE,
    "MSE": MSE,
    "MAE": MAE,
    "Huber": Metric("huber", delta=0.5),
    "ScaleFreeHuber": Metric("scaled_huber", delta=0.5),
}
KINDS: Mapping[str, Sequence[str]] = {
    "PropertyLoss": ("property", "metric", "weight"),
    "PerAtomEnergyLoss": ("metric", "weight"),
    "ForceRMSE": ("weight",),
}
"""Losses by name, with their arguments."""


class PropertyLoss(PropertyTerm):
    """A property against its label, by a metric of its name or a :class:`Metric`.

    Args:
        property: name, or a property of your own.
        metric: ``RMSE``, ``MSE``, ``MAE``, ``Huber``, ``ScaleFreeHuber``, or a :class:`Metric`.
        weight: in the total.
        options: further arguments of :class:`pesloss.PropertyTerm`.

    Raises:
        ValueError: for an unknown metric.
        KeyError: for an unknown property.
    """

    def __init__(
        self,
        property: str | Property,
        metric: str | Metric | None = "RMSE",
        weight: float = 1.0,
        **options: Any,
    ) -> None:
        made = metric_of("metric", metric)
        penalty = losses.PENALTIES[made.penalty](*([] if made.delta is None else [made.delta]))
        its = _property("property", property, {}) if isinstance(property, str) else property
        super().__init__(its, penalty=penalty, reduction=made.reduction, weight=weight, **options)

    @property
    def required_properties(self) -> list[str]:
        """Names of what the model must predict."""
        return list(self.required)


def PerAtomEnergyLoss(metric: str | Metric | None = "RMSE", weight: float = 1.0) -> PropertyLoss:  # noqa: N802
    """Energies per atom by a metric, see :class:`PropertyLoss`."""
    return PropertyLoss("energy", metric, weight, residual="per_atom")


def ForceRMSE(weight: float = 1.0) -> PropertyLoss:  # noqa: N802
    """Root mean squared error of the force components, see :class:`PropertyLoss`."""
    return PropertyLoss("forces", "RMSE", weight)


def Huber(delta: float = 0.5) -> Metric:  # noqa: N802
    """Huber's penalty, linear beyond delta."""
    return replace(METRICS["Huber"], delta=delta)


def ScaleFreeHuber(delta: float = 0.5) -> Metric:  # noqa: N802
    """Huber's penalty over delta, of slope 1 beyond it."""
    return replace(METRICS["ScaleFreeHuber"], delta=delta)


class TotalLoss(losses.TotalLoss):
    """Weighted sum of losses.

    Args:
        losses: terms, or terms by name; those in a list are named after their property.
        options: arguments of :class:`pesloss.losses.TotalLoss`.
    """

    def __init__(self, losses: Sequence[PropertyTerm] | Mapping[str, PropertyTerm], **options: Any) -> None:
        if not isinstance(losses, Mapping):
            losses = dict(zip(_distinct([term.property.name for term in losses]), losses, strict=True))
        super().__init__(losses, **options)

    @property
    def required_properties(self) -> list[str]:
        """Names of what the model must predict."""
        return list(self.required)

    def pre_fit(self, training_data: Batch | Iterable[Batch]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Let the losses that standardise learn their scales, from one batch or from several."""
        one = isinstance(training_data, Mapping)
        super().pre_fit([training_data] if one else training_data)  # pyright: ignore[reportArgumentType]


def node(
    config: Any, *, overrides: Sequence[str] = (), properties: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The ``loss`` section of a graph-pes YAML, or the whole file, as a node of ours.

    Args:
        config: one loss, a list of them, or losses by name, each as ``+PerAtomEnergyLoss()`` or
            ``{+ForceRMSE: {weight: 2}}``.
        overrides: arguments of ``graph-pes-train`` after the file, ``loss/forces/+ForceRMSE/weight=0.5``.
        properties: arguments of properties that graph-pes does not say the shape of (``tensor``), by name.

    Raises:
        ValueError: for losses, metrics, arguments and properties that do not exist, and for losses of your
            own, which are terms here.
    """
    whole = config if isinstance(config, Mapping) and "loss" in config else {"loss": config}
    for override in overrides:
        whole = _overridden(whole, override)
    found = _losses(_filled(whole["loss"], whole, ["loss"]))
    made = {name: _term(name, kind, arguments, properties or {}) for name, (kind, arguments) in found.items()}
    deltas = {name: term.pop("delta") for name, term in made.items() if "delta" in term}
    return {
        "_target_": "pesloss.recipes.Recipe",
        "project": "graph_pes",
        "weights": {name: term.pop("weight") for name, term in made.items()},
        "huber_delta": deltas or None,
        "terms": made,
        "original": dict(ORIGINAL),
    }


def metric_of(where: str, config: Any) -> Metric:
    """The metric of a name, or of ``+Huber: {delta: ...}``.

    Raises:
        ValueError: if there is no such metric, or it has no such argument.
    """
    if config is None or isinstance(config, Metric):
        return config or RMSE
    if config in ("RMSE", "MSE", "MAE", "Huber", "ScaleFreeHuber"):
        return METRICS[config]
    name, arguments = _called(where, config)
    if name not in METRICS:
        raise ValueError(f"{where}: {unknown('metric', name, METRICS)}")
    metric = METRICS[name]
    check_keys(f"{where}, {name}", arguments, [] if metric.delta is None else ["delta"])
    return replace(metric, **arguments)


def _losses(config: Any) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Class and arguments of every loss, by name."""
    if isinstance(config, Mapping) and not any(str(key).startswith("+") for key in config):
        return {str(name): _loss(f"loss.{name}", loss) for name, loss in config.items()}
    listed = config if isinstance(config, list) else [config]
    found = [loss for i, entry in enumerate(listed) for loss in _flattened(f"loss[{i}]", entry)]
    return dict(zip(_distinct([_property_name(*loss) for loss in found]), found, strict=True))


def _flattened(where: str, config: Any) -> list[tuple[str, Mapping[str, Any]]]:
    name, arguments = _called(where, config)
    if name != "TotalLoss":
        return [_loss(where, config)]
    check_keys(f"{where}, {name}", arguments, ["losses"])
    return [_loss(f"{where}.losses[{i}]", loss) for i, loss in enumerate(arguments.get("losses", []))]


def _loss(where: str, config: Any) -> tuple[str, Mapping[str, Any]]:
    name, arguments = _called(where, config)
    if "." in name:
        raise ValueError(
            f"{where}: '{name}' is a class of your own, which graph-pes would call with its model and graph. "
            "Here it is a pesloss.Term; give it to pesloss.TotalLoss beside the terms of this config."
        )
    if name not in KINDS:
        raise ValueError(f"{where}: {unknown('loss', name, KINDS)}")
    check_keys(f"{where}, {name}", arguments, KINDS[name])
    if name == "PropertyLoss" and "property" not in arguments:
        raise ValueError(f"{where}: PropertyLoss needs a property, one of {', '.join(sorted(PROPERTIES))}.")
    return name, arguments


def _called(where: str, config: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and arguments of ``+Name()`` or ``{+Name: {...}}``."""
    arguments: Any = {}
    if isinstance(config, Mapping) and len(config) == 1:
        ((config, arguments),) = config.items()
    elif not (isinstance(config, str) and config.endswith("()")):
        raise ValueError(f"{where} must be '+Name()' or {{+Name: {{...}}}}, got {config!r}.")
    if not (isinstance(config, str) and config.startswith("+")):
        raise ValueError(f"{where}: '{config}' has no '+' in front, by which graph-pes tells a class.")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where}: the arguments of '{config}' must be a mapping, got {arguments!r}.")
    name = config.removeprefix("+").removesuffix("()")
    return name.removeprefix("graph_pes.training.loss.").removeprefix("graph_pes.training."), arguments


def _property_name(kind: str, arguments: Mapping[str, Any]) -> str:
    return {"PerAtomEnergyLoss": "energy", "ForceRMSE": "forces"}.get(kind) or str(arguments["property"])


def _term(
    name: str, kind: str, arguments: Mapping[str, Any], properties: Mapping[str, Any]
) -> dict[str, Any]:
    metric = metric_of(f"loss.{name}.metric", arguments.get("metric"))
    term = {
        "property": _property(f"loss.{name}", _property_name(kind, arguments), properties),
        "residual": "per_atom" if kind == "PerAtomEnergyLoss" else "difference",
        **metric.arguments(),
        "weight": arguments.get("weight", 1.0),
    }
    return term if metric.delta is None else {**term, "delta": metric.delta}


def _property(where: str, name: str, given: Mapping[str, Any]) -> Any:
    if name in given:
        return {"name": name, **given[name]}
    if name not in PROPERTIES:
        hint = "Give its rows and shape: properties={name: {rows: atom, shape: [3]}}."
        raise ValueError(f"{where}: {unknown('property', name, PROPERTIES)} {hint}")
    return PROPERTIES[name]


def _distinct(names: Sequence[str]) -> list[str]:
    """Names, with a number at those that were there before."""
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}_{num + 1}" if num else name for name, num in zip(names, before, strict=True)]


def _overridden(config: Mapping[str, Any], override: str) -> dict[str, Any]:
    path, equals, value = override.partition("=")
    if not equals:
        raise ValueError(f"Override '{override}' must be of the form path/to/key=value.")
    keys = path.split("/")
    return _replaced(config, keys, as_data(value), path)


def _replaced(config: Any, keys: Sequence[str], value: Any, path: str) -> Any:
    if not keys:
        return value
    key, *rest = keys
    if config in (None, f"{key}()"):
        config = {key: {}}
    if not isinstance(config, Mapping):
        raise ValueError(f"Override '{path}': there is no '{key}' in {config!r}.")
    return {**config, key: _replaced(config.get(key, {} if rest else None), rest, value, path)}


def _filled(config: Any, whole: Mapping[str, Any], path: list[str]) -> Any:
    """The section with references to other parts of the file, ``=/KEY`` or ``=../key``, followed."""
    if isinstance(config, Mapping):
        return {key: _filled(value, whole, [*path, str(key)]) for key, value in config.items()}
    if isinstance(config, list):
        return [_filled(value, whole, [*path, str(i)]) for i, value in enumerate(config)]
    if not isinstance(config, str) or not config.startswith("="):
        return config
    target = config[1:]
    steps = target.split("/") if target.startswith("/") else [*path[:-1], *target.split("/")]
    found: Any = whole
    for step in _walked(steps):
        if not isinstance(found, Mapping) or step not in found:
            where = ".".join(path)
            known = [str(key) for key in found] if isinstance(found, Mapping) else []
            raise ValueError(f"{where}: '{config}' leads nowhere. {unknown('key', step, known)}")
        found = found[step]
    return found


def _walked(steps: Iterable[str]) -> list[str]:
    found: list[str] = []
    for step in steps:
        if step == "..":
            found = found[:-1]
        elif step not in ("", "."):
            found.append(step)
    return found
