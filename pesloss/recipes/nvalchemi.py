"""nvalchemi-toolkit: compositions of its leaves, as its checkpoints spell them or as one writes them down."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any

from pesloss.losses.properties import as_property
from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of

Node = dict[str, Any]

PROPERTIES = {"Energy": "energy", "Force": "forces", "Stress": "stress"}
META = ("cls_path", "timestamp")
SHARED = ("target_key", "prediction_key", "ignore_nonfinite", "dtype_policy")
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
"""Arguments of each leaf, and their defaults."""
PENALTIES = {"MSE": "squared", "MAE": "absolute", "Huber": "huber", "L2Norm": "l2_norm"}
SCHEDULES: Mapping[str, Sequence[str]] = {
    "ConstantWeight": ("value",),
    "LinearWeight": ("start", "end", "num_steps"),
    "CosineWeight": ("start", "end", "num_steps"),
    "PiecewiseWeight": ("boundaries", "values"),
}
COMPOSED = ("components", "weights", "normalize_weights", "dtype_policy")
ALL: Node = {"_target_": "pesloss.losses.PerStructure", "denominator": "structures"}
ATOMS: Node = {"_target_": "pesloss.losses.Mean", "denominator": "atoms"}
BECAUSE = "Structures without a label contribute zero to the mean over structures, and weaken it."


@dataclass(frozen=True)
class Plan:
    """A weight that may change: values at points, and how it goes from one to the next.

    Args:
        points: weight by step or epoch.
        between: ``constant``, ``linear`` or ``cosine``; of a single point, any.
        by: ``step`` or ``epoch``; of a single point, any.
    """

    points: Mapping[int, float]
    between: str = "any"
    by: str = "any"

    def times(self, factor: float) -> Plan:
        """The same, scaled."""
        return Plan({at: factor * value for at, value in self.points.items()}, self.between, self.by)

    def at(self, position: int) -> float:
        """The weight at a step or epoch."""
        before = [at for at in self.points if at <= position]
        after = [at for at in self.points if at > position]
        if not (before and after) or self.between == "constant":
            return self.points[max(before)] if before else self.points[min(after)]
        left, right = max(before), min(after)
        share = (position - left) / (right - left)
        if self.between == "cosine":
            share = 0.5 - 0.5 * cos(pi * share)
        return self.points[left] + (self.points[right] - self.points[left]) * share

    def between_points(self, between: str) -> Plan:
        """The same weights at all whole steps, with the jumps spelt as short slopes."""
        if self.between in ("any", between):
            return self
        if self.between != "constant":
            raise ValueError(f"Weights of one loss cannot go '{self.between}' and '{between}' at once.")
        points: dict[int, float] = {}
        for at, value in sorted(self.points.items()):
            if points:
                points[at - 1] = points[max(points)]
            points[at] = value
        return Plan(points, between, self.by)


def EnergyMSELoss(per_atom: bool = False) -> Node:  # noqa: N802
    """Squared energies, or with ``per_atom`` Σ ΔE²/N over Σ N, as arguments of a :class:`pesloss.PropertyTerm`."""
    return _term("EnergyMSELoss", {"per_atom": per_atom})[0]


def EnergyMAELoss(per_atom: bool = True) -> Node:  # noqa: N802
    """Absolute energies, with ``per_atom`` Σ |ΔE| over Σ N, as arguments of a :class:`pesloss.PropertyTerm`."""
    return _term("EnergyMAELoss", {"per_atom": per_atom})[0]


def EnergyHuberLoss(per_atom: bool = True, delta: float = 0.01) -> Node:  # noqa: N802
    """Huber errors of energies, or of energies per atom, as arguments of a :class:`pesloss.PropertyTerm`."""
    return _closed(_term("EnergyHuberLoss", {"per_atom": per_atom})[0], delta)


def ForceMSELoss(normalize_by_atom_count: bool = True) -> Node:  # noqa: N802
    """Squared forces, a mean of structures or of components, as arguments of a :class:`pesloss.PropertyTerm`."""
    return _term("ForceMSELoss", {"normalize_by_atom_count": normalize_by_atom_count})[0]


def ForceHuberLoss(normalize_by_atom_count: bool = False, delta: float = 0.01) -> Node:  # noqa: N802
    """Huber errors of forces, as arguments of a :class:`pesloss.PropertyTerm`."""
    return _closed(_term("ForceHuberLoss", {"normalize_by_atom_count": normalize_by_atom_count})[0], delta)


def ForceL2NormLoss(normalize_by_atom_count: bool = True) -> Node:  # noqa: N802
    """Lengths of force errors, as arguments of a :class:`pesloss.PropertyTerm`."""
    return _term("ForceL2NormLoss", {"normalize_by_atom_count": normalize_by_atom_count})[0]


def StressMSELoss() -> Node:  # noqa: N802
    """Squared stresses, a mean of structures, as arguments of a :class:`pesloss.PropertyTerm`."""
    return _term("StressMSELoss", {})[0]


def StressHuberLoss(delta: float = 0.01) -> Node:  # noqa: N802
    """Huber errors of stresses, a mean of structures, as arguments of a :class:`pesloss.PropertyTerm`."""
    return _closed(_term("StressHuberLoss", {})[0], delta)


def node(config: Any, *, epoch: int | None = None, step: int | None = None) -> Node:
    """The loss of a composition of nvalchemi's.

    Args:
        config: the ``loss_fn_spec`` of a checkpoint or of a strategy that has one, or the composition as it
            is written down in Python, ``1.0 * EnergyMSELoss() + 10.0 * ForceMSELoss()``.
        epoch: the fixed weights of that epoch, instead of a schedule.
        step: likewise, of that step.

    Raises:
        ValueError: for unknown classes and arguments, weights of several kinds, and negative ones.
    """
    spec = parse(config) if isinstance(config, str) else mapping_of("nvalchemi config", config)
    spec = mapping_of("loss_fn_spec", spec.get("loss_fn_spec", spec))
    if _kind("loss_fn_spec", spec) != "ComposedLossFunction":
        spec = _composed([spec], [1.0])
    check_keys("loss_fn_spec", spec, (*META, *COMPOSED))
    weights, terms, original, deltas = {}, {}, {}, {}
    for leaf, plan in _flat("loss_fn_spec", spec):
        term, counts_all, delta = _leaf(leaf)
        name = _name(term, terms)
        terms[name], weights[name] = term, plan
        if counts_all:
            original[name] = {"reduction": dict(ALL)}
        if delta is not None:
            deltas[name] = delta
    recipe: Node = {
        "_target_": "pesloss.recipes.Recipe",
        "project": "nvalchemi",
        "terms": terms,
        **_weighted(weights, spec.get("normalize_weights", True), epoch, step),
    }
    if deltas:
        recipe["huber_delta"] = deltas
    return {**recipe, "original": {"because": BECAUSE, "terms": original}} if original else recipe


def parse(text: str) -> Node:
    """A composition written in Python as its specs: calls of nvalchemi's classes, sums, products with numbers.

    Raises:
        ValueError: for anything else.
    """
    text = text.strip().removeprefix("loss_fn").lstrip().removeprefix("=").strip()
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"'{text}' is no sum of losses: {error.msg}.") from None
    found = _value(tree.body)
    if not isinstance(found, dict):
        raise ValueError(f"'{text}' is no sum of losses, but {found!r}.")
    return found


def _value(tree: ast.expr) -> Any:
    if isinstance(tree, ast.Call):
        return _call(tree)
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, (ast.Add, ast.Mult)):
        left, right = _value(tree.left), _value(tree.right)
        return _sum(left, right) if isinstance(tree.op, ast.Add) else _product(left, right)
    if isinstance(tree, (ast.List, ast.Tuple)):
        return [_value(item) for item in tree.elts]
    try:
        return ast.literal_eval(tree)
    except ValueError:
        raise ValueError(f"'{ast.unparse(tree)}' is no loss, weight or sum of them.") from None


def _call(tree: ast.Call) -> Node:
    name = ast.unparse(tree.func).rpartition(".")[2]
    positional = ["components"] if name == "ComposedLossFunction" else []
    if len(tree.args) > len(positional):
        raise ValueError(f"{name} takes its arguments by name, got '{ast.unparse(tree)}'.")
    arguments = dict(zip(positional, map(_value, tree.args), strict=False))
    arguments |= {str(keyword.arg): _value(keyword.value) for keyword in tree.keywords}
    return {"cls_path": name, **arguments}


def _composed(components: Sequence[Any], weights: Sequence[Any] | None, normalize: bool = True) -> Node:
    return {
        "cls_path": "ComposedLossFunction",
        "components": list(components),
        "weights": weights,
        "normalize_weights": normalize,
    }


def _sum(left: Any, right: Any) -> Node:
    parts = [_as_composed(side) for side in (left, right)]
    flags = {bool(part.get("normalize_weights", True)) for part in parts}
    if len(flags) > 1:
        raise ValueError("Compositions with and without normalize_weights cannot be added.")
    return _composed(parts, [1.0, 1.0], flags.pop())


def _product(left: Any, right: Any) -> Node:
    weight, loss = (right, left) if _is_loss(left) else (left, right)
    if not _is_loss(loss) or _is_loss(weight):
        raise ValueError(f"A product is of a weight and a loss, got {left!r} and {right!r}.")
    return _composed([loss], [weight], _as_composed(loss).get("normalize_weights", True))


def _is_loss(value: Any) -> bool:
    return isinstance(value, dict) and _kind("loss", value) not in SCHEDULES


def _as_composed(loss: Any) -> Node:
    if not _is_loss(loss):
        raise ValueError(f"A sum is of losses, got {loss!r}.")
    composed = _kind("loss", loss) == "ComposedLossFunction"
    return loss if composed else _composed([loss], [1.0])


def _kind(where: str, spec: Mapping[str, Any]) -> str:
    if "cls_path" not in spec:
        raise ValueError(f"{where} needs 'cls_path', the class it is of; found {sorted(spec)}.")
    kind = str(spec["cls_path"]).rpartition(".")[2]
    known = (*LEAVES, *SCHEDULES, "ComposedLossFunction", "_ProductWeight")
    if kind not in known:
        raise ValueError(f"{where}: {unknown('class', kind, known[:-1])}")
    return kind


def _flat(where: str, spec: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Plan]]:
    """Leaves of a composition of compositions, with the products of their weights."""
    check_keys(where, spec, (*META, *COMPOSED))
    components = spec.get("components") or []
    weights = [1.0] * len(components) if spec.get("weights") is None else spec["weights"]
    if not components or len(weights) != len(components):
        raise ValueError(f"{where} has {len(components)} components and {len(weights)} weights.")
    flat = []
    for i, (component, weight) in enumerate(zip(components, weights, strict=True)):
        place = f"{where}.components[{i}]"
        plan = _plan(f"{where}.weights[{i}]", weight)
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
    return _scheduled(kind, spec, "epoch" if spec.get("per_epoch") else "step")


def _scheduled(kind: str, spec: Mapping[str, Any], by: str) -> Plan:
    if kind == "ConstantWeight":
        return Plan({0: float(spec["value"])})
    if kind == "PiecewiseWeight":
        starts = [-1, *spec["boundaries"]]
        return Plan(dict(zip(starts, map(float, spec["values"]), strict=True)), "constant", by)
    points = {0: float(spec["start"]), int(spec["num_steps"]): float(spec["end"])}
    return Plan(points, "linear" if kind == "LinearWeight" else "cosine", by)


def _times(where: str, left: Plan, right: Plan) -> Plan:
    for plan, other in ((left, right), (right, left)):
        if len(plan.points) == 1:
            return other.times(next(iter(plan.points.values())))
    raise ValueError(f"{where}: the product of two schedules is none of ours; give the weights themselves.")


def _weighted(plans: Mapping[str, Plan], normalize: bool, epoch: int | None, step: int | None) -> Node:
    if epoch is not None or step is not None or all(len(plan.points) == 1 for plan in plans.values()):
        at = {"epoch": epoch or 0, "step": step or 0, "any": 0}
        weights = {name: plan.at(at[plan.by]) for name, plan in plans.items()}
        return {"weights": weights, **({"normalize": True} if normalize else {})}
    by, between = ({getattr(plan, key) for plan in plans.values()} - {"any"} for key in ("by", "between"))
    if len(by) > 1:
        raise ValueError("Some weights change by step and some by epoch; give all of them the same per_epoch.")
    kind = next(iter(sorted(between, key=["constant", "linear", "cosine"].index, reverse=True)))
    weights = {name: max(plan.points.values()) for name, plan in plans.items()}
    factors = {
        name: plan.between_points(kind).times(1 / weights[name]).points
        for name, plan in plans.items()
        if len(plan.points) > 1
    }
    options = {"by": by.pop(), "between": kind, **({"normalize": True} if normalize else {})}
    schedule = {"_target_": "pesloss.weighting.Schedule", **options}
    return {"weights": weights, "weighting": {**schedule, "factors": {k: dict(v) for k, v in factors.items()}}}


def _leaf(spec: Mapping[str, Any]) -> tuple[Node, bool, float | None]:
    """Term of a leaf, whether the original counts structures without a label, and its delta."""
    kind = _kind("component", spec)
    if kind not in LEAVES:
        raise ValueError(f"component: {unknown('loss', kind, LEAVES)}")
    check_keys(kind, spec, (*META, *SHARED, *LEAVES[kind]))
    options = {**LEAVES[kind], **{key: spec[key] for key in LEAVES[kind] if key in spec}}
    term, counts_all = _term(kind, options)
    base = term["property"]
    prediction, target = spec.get("prediction_key", f"predicted_{base}"), spec.get("target_key", base)
    if prediction != f"predicted_{base}":
        prop = as_property(base)
        shape = {"shape": list(prop.shape), "extensive": prop.extensive, "unit": prop.unit}
        term["property"] = {"name": prediction.removeprefix("predicted_"), "rows": prop.rows, **shape}
    if target != (base if isinstance(term["property"], str) else term["property"]["name"]):
        term["label"] = target
    return term, counts_all, options.get("delta")


def _term(kind: str, options: Mapping[str, Any]) -> tuple[Node, bool]:
    base = next(prop for name, prop in PROPERTIES.items() if kind.startswith(name))
    penalty = next(ours for name, ours in PENALTIES.items() if f"{name}Loss" in kind)
    term: Node = {"property": base, "penalty": penalty}
    if options.get("per_atom"):
        term |= _per_atom(penalty)
    balanced = base == "stress" or bool(options.get("normalize_by_atom_count"))
    return ({**term, "reduction": "per_structure"} if balanced else term), balanced


def _per_atom(penalty: str) -> Node:
    """Squared and absolute errors per atom are averaged over atoms there, Huber's over structures."""
    if penalty == "huber":
        return {"residual": "per_atom"}
    root = {"residual": {"_target_": "pesloss.losses.PerAtom", "exponent": 0.5}} if penalty == "squared" else {}
    return {**root, "reduction": dict(ATOMS)}


def _closed(term: Node, delta: float) -> Node:
    return {**term, "penalty": {"_target_": "pesloss.losses.Huber", "delta": delta}}


def _name(term: Mapping[str, Any], terms: Mapping[str, Any]) -> str:
    prop = term["property"]
    name = prop if isinstance(prop, str) else prop["name"]
    number = sum(other == name or other.rpartition("_")[0] == name for other in terms)
    return f"{name}_{number + 1}" if number else name
