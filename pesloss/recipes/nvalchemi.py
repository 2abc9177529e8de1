"""nvalchemi-toolkit: compositions of its losses, as its checkpoints spell them or as one writes them down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pesloss.losses.properties import as_property
from pesloss.names import unknown
from pesloss.recipes.nvalchemi_sums import composed, parse
from pesloss.recipes.reading import check_keys, mapping_of
from pesloss.recipes.stages import at_epoch

Node = dict[str, Any]

META = ("cls_path", "timestamp")
SHARED = ("target_key", "prediction_key", "ignore_nonfinite", "dtype_policy")
COMPOSED = ("components", "weights", "normalize_weights", "dtype_policy")
PROPERTIES = {"Energy": "energy", "Force": "forces", "Stress": "stress"}
PENALTIES = {"MSE": "squared", "MAE": "absolute", "Huber": "huber", "L2Norm": "l2_norm"}
LEAVES: Mapping[str, Mapping[str, Any]] = {
    "EnergyMSELoss": {"per_atom": False},
    "EnergyMAELoss": {"per_atom": True},
    "EnergyHuberLoss": {"per_atom": True, "delta": 0.01},
    "ForceMSELoss": {"normalize_by_atom_count": True},
    "ForceHuberLoss": {"normalize_by_atom_count": False, "delta": 0.01},
    "ForceL2NormLoss": {"normalize_by_atom_count": True},
    "StressMSELoss": {},
    "StressHuberLoss": {"delta": 0.01},
}
"""Arguments of each loss, and their defaults."""
SCHEDULES: Mapping[str, Sequence[str]] = {
    "ConstantWeight": ("value",),
    "LinearWeight": ("start", "end", "num_steps"),
    "CosineWeight": ("start", "end", "num_steps"),
    "PiecewiseWeight": ("boundaries", "values"),
}
KNOWN = (*LEAVES, *SCHEDULES, "ComposedLossFunction")
ALL: Node = {"_target_": "pesloss.losses.PerStructure", "denominator": "structures"}
ATOMS: Node = {"_target_": "pesloss.losses.Mean", "denominator": "atoms"}
BECAUSE = "Structures without a label contribute zero to the mean over structures, and weaken it."


def term(kind: str, **options: Any) -> Node:
    """A loss of nvalchemi by the name of its class, as arguments of a :class:`pesloss.PropertyTerm`.

    Args:
        kind: ``EnergyMSELoss``, ``ForceL2NormLoss``, ...
        options: its arguments.

    Raises:
        ValueError: for an unknown class or argument.

    Example:
        >>> term("ForceMSELoss")
        {'property': 'forces', 'penalty': 'squared', 'reduction': 'per_structure'}
    """
    if kind not in LEAVES:
        raise ValueError(unknown("loss", kind, LEAVES))
    check_keys(kind, options, LEAVES[kind])
    options = {**LEAVES[kind], **options}
    prop = next(ours for name, ours in PROPERTIES.items() if kind.startswith(name))
    penalty: Any = next(ours for name, ours in PENALTIES.items() if f"{name}Loss" in kind)
    made: Node = {"property": prop, "penalty": penalty}
    if options.get("per_atom"):
        made |= _per_atom(penalty)
    if prop == "stress" or options.get("normalize_by_atom_count"):
        made["reduction"] = "per_structure"
    if "delta" in options:
        made["penalty"] = {"_target_": "pesloss.losses.Huber", "delta": options["delta"]}
    return made


def _per_atom(penalty: str) -> Node:
    """Squared and absolute errors per atom are averaged over atoms there, Huber's over structures."""
    if penalty == "huber":
        return {"residual": "per_atom"}
    half = {"residual": {"_target_": "pesloss.losses.PerAtom", "exponent": 0.5}}
    return {**(half if penalty == "squared" else {}), "reduction": dict(ATOMS)}


def node(config: Any, *, epoch: int | None = None) -> Node:
    """The loss of a composition of nvalchemi's.

    Args:
        config: the ``loss_fn_spec`` of a checkpoint, or of a strategy that has one; or the composition as it
            is written down in Python, ``1.0 * EnergyMSELoss() + 10.0 * ForceMSELoss()``.
        epoch: the fixed weights of that epoch, instead of a schedule.

    Raises:
        ValueError: for unknown classes and arguments, and weights that one schedule cannot follow.
    """
    spec = parse(config) if isinstance(config, str) else mapping_of("nvalchemi config", config)
    spec = mapping_of("loss_fn_spec", spec.get("loss_fn_spec", spec))
    if _kind("loss_fn_spec", spec) != "ComposedLossFunction":
        spec = composed([spec], [1.0])
    terms, plans, deltas = {}, {}, {}
    for leaf, plan in _flat("loss_fn_spec", spec):
        made = _leaf(leaf)
        name = _name(made, terms)
        if isinstance(made["penalty"], dict):  # open, so that it can be swept
            deltas[name] = made["penalty"]["delta"]
            made["penalty"] = "huber"
        terms[name], plans[name] = made, plan
    recipe = {"_target_": "pesloss.recipes.Recipe", "project": "nvalchemi", "terms": terms}
    recipe |= {"huber_delta": deltas} if deltas else {}
    recipe |= {**_weighted(plans, spec.get("normalize_weights", True)), **_original(terms)}
    return recipe if epoch is None else at_epoch(recipe, epoch)


def _kind(where: str, spec: Mapping[str, Any]) -> str:
    if "cls_path" not in spec:
        raise ValueError(f"{where} needs 'cls_path', the class it is of; found {sorted(spec)}.")
    kind = str(spec["cls_path"]).rpartition(".")[2]
    if kind not in (*KNOWN, "_ProductWeight"):
        raise ValueError(f"{where}: {unknown('class', kind, KNOWN)}")
    return kind


def _leaf(spec: Mapping[str, Any]) -> Node:
    kind = _kind("component", spec)
    check_keys(kind, spec, (*META, *SHARED, *LEAVES.get(kind, {})))
    made = term(kind, **{key: value for key, value in spec.items() if key not in (*META, *SHARED)})
    base = made["property"]
    name = spec.get("prediction_key", f"predicted_{base}").removeprefix("predicted_")
    if name != base:
        prop = as_property(base)
        shape = {"shape": list(prop.shape), "extensive": prop.extensive, "unit": prop.unit}
        made["property"] = {"name": name, "rows": prop.rows, **shape}
    target = spec.get("target_key", base)
    return made if target == name else {**made, "label": target}


def _name(made: Mapping[str, Any], terms: Mapping[str, Any]) -> str:
    prop = made["property"]
    name = prop if isinstance(prop, str) else prop["name"]
    number = sum(other == name or other.startswith(f"{name}_") for other in terms)
    return f"{name}_{number + 1}" if number else name


def _original(terms: Mapping[str, Any]) -> Node:
    balanced = {
        name: {"reduction": dict(ALL)}
        for name, made in terms.items()
        if made.get("reduction") == "per_structure"
    }
    return {"original": {"because": BECAUSE, "terms": balanced}} if balanced else {}


@dataclass(frozen=True)
class Plan:
    """A weight and how it changes.

    Args:
        points: weight by step or epoch; one point for a weight that stays.
        between: how it goes from one point to the next, ``constant``, ``linear`` or ``cosine``.
        by: ``step`` or ``epoch``.
    """

    points: Mapping[int, float]
    between: str = "constant"
    by: str = "step"

    @property
    def moves(self) -> bool:
        """Whether it changes at all."""
        return len(self.points) > 1

    def times(self, factor: float) -> Plan:
        """The same, scaled."""
        return Plan({at: factor * value for at, value in self.points.items()}, self.between, self.by)

    def as_slopes(self) -> Plan:
        """The same weights at all whole steps, jumps spelt as slopes of one step."""
        if self.between != "constant":
            return self
        points: dict[int, float] = {}
        for at, value in sorted(self.points.items()):
            points |= {at - 1: points[max(points)], at: value} if points else {at: value}
        return Plan(points, self.between, self.by)


def _flat(where: str, spec: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Plan]]:
    """Losses of a composition of compositions, with the products of their weights."""
    check_keys(where, spec, (*META, *COMPOSED))
    components = spec.get("components") or []
    weights = [1.0] * len(components) if spec.get("weights") is None else spec["weights"]
    if not components or len(weights) != len(components):
        raise ValueError(f"{where} has {len(components)} components and {len(weights)} weights.")
    flat = []
    for i, (component, weight) in enumerate(zip(components, weights, strict=True)):
        place, plan = f"{where}.components[{i}]", _plan(f"{where}.weights[{i}]", weight)
        if _kind(place, mapping_of(place, component)) == "ComposedLossFunction":
            flat += [(leaf, _times(place, plan, inner)) for leaf, inner in _flat(place, component)]
        else:
            flat.append((component, plan))
    return flat


def _plan(where: str, weight: Any) -> Plan:
    if weight is None or (isinstance(weight, (int, float)) and not isinstance(weight, bool)):
        return Plan({0: 1.0 if weight is None else float(weight)})
    spec = mapping_of(where, weight)
    kind = _kind(where, spec)
    if kind == "_ProductWeight":
        return _times(where, _plan(where, spec["left"]), _plan(where, spec["right"]))
    if kind not in SCHEDULES:
        raise ValueError(f"{where}: {unknown('schedule', kind, SCHEDULES)}")
    check_keys(where, spec, (*META, "per_epoch", *SCHEDULES[kind]))
    for needed in SCHEDULES[kind]:
        if needed not in spec:
            raise ValueError(f"{where}: {kind} needs '{needed}'; found {sorted(spec)}.")
    return _scheduled(where, kind, spec, "epoch" if spec.get("per_epoch") else "step")


def _scheduled(where: str, kind: str, spec: Mapping[str, Any], by: str) -> Plan:
    if kind == "ConstantWeight":
        return Plan({0: float(spec["value"])})
    if kind != "PiecewiseWeight":
        points = {0: float(spec["start"]), int(spec["num_steps"]): float(spec["end"])}
        return Plan(points, "linear" if kind == "LinearWeight" else "cosine", by)
    boundaries, values = spec["boundaries"], spec["values"]
    if len(values) != len(boundaries) + 1:
        raise ValueError(f"{where}: {len(boundaries)} boundaries need one value more, got {len(values)}.")
    return Plan(dict(zip([-1, *boundaries], map(float, values), strict=True)), "constant", by)


def _times(where: str, left: Plan, right: Plan) -> Plan:
    for plan, other in ((left, right), (right, left)):
        if not plan.moves:
            return other.times(next(iter(plan.points.values())))
    raise ValueError(f"{where}: the product of two schedules is none of ours; give the weights themselves.")


def _weighted(plans: Mapping[str, Plan], normalize: bool) -> Node:
    moving = {name: plan for name, plan in plans.items() if plan.moves}
    weights = {name: max(plan.points.values()) for name, plan in plans.items()}
    if not moving:
        return {"weights": weights, **({"normalize": True} if normalize else {})}
    by = {plan.by for plan in moving.values()}
    between = sorted({plan.between for plan in moving.values()})  # constant comes first of the three
    if len(by) > 1 or between[-2:] == ["cosine", "linear"]:
        raise ValueError(
            "One schedule follows steps or epochs, on lines or on cosines; these weights need both: "
            + ", ".join(f"{name} ({plan.between}, by {plan.by})" for name, plan in moving.items())
        )
    if len(between) > 1:
        moving = {name: plan.as_slopes() for name, plan in moving.items()}
    factors = {name: dict(plan.times(1 / weights[name]).points) for name, plan in moving.items()}
    options = {"by": by.pop(), "between": between[-1], **({"normalize": True} if normalize else {})}
    schedule = {"_target_": "pesloss.weighting.Schedule", **options, "factors": factors}
    return {"weights": weights, "weighting": schedule}
