"""modelforge: the table ``training.loss_parameter`` of its TOML files."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from pesloss.building import build
from pesloss.losses import PropertyTerm
from pesloss.recipes.reading import check_keys, mapping_of
from pesloss.recipes.recipe import load
from pesloss.recipes.stages import at_epoch, staged

Node = dict[str, Any]

KEYS = ("loss_components", "weight", "target_weight", "mixing_steps")
SPINS = {"name": "spin_multiplicities", "rows": "atom"}
PER_ATOM: Node = {"penalty": "squared", "reduction": "per_structure"}


def ForceSquaredError(*, weight: float = 1.0) -> PropertyTerm:  # noqa: N802
    """Squared errors of the forces of each structure, over 3N; in (kJ/mol/nm)²."""
    return _build({**_components()["per_atom_force"][1], "weight": weight})


def EnergySquaredError(  # noqa: N802
    scale_by_number_of_atoms: bool = True, *, weight: float = 1.0
) -> PropertyTerm:
    """Squared errors of the energy, or these over N; in (kJ/mol)²."""
    name = "per_atom_energy" if scale_by_number_of_atoms else "per_system_energy"
    return _build({**_components()[name][1], "weight": weight})


def TotalChargeError(  # noqa: N802
    scale_by_number_of_atoms: bool = False, *, derived: bool = True, weight: float = 1.0
) -> PropertyTerm:
    """Squared errors of the total charge, or these over N; in e².

    Args:
        scale_by_number_of_atoms: divide by N, which modelforge offers and does not do.
        derived: whether it is the sum of predicted charges, or predicted itself.
        weight: prior weight in the total.
    """
    return _molecular("per_system_total_charge", scale_by_number_of_atoms, derived, weight)


def PerSystemDipoleMomentError(  # noqa: N802
    scale_by_number_of_atoms: bool = False, *, derived: bool = True, weight: float = 1.0
) -> PropertyTerm:
    """Squared lengths of the errors of the dipole, or these over N; in (e·nm)².

    Args:
        scale_by_number_of_atoms: divide by N, which modelforge offers and does not do.
        derived: whether it follows from predicted charges, or is predicted itself.
        weight: prior weight in the total.
    """
    return _molecular("per_system_dipole_moment", scale_by_number_of_atoms, derived, weight)


def _molecular(component: str, scaled: bool, derived: bool, weight: float) -> PropertyTerm:
    term = {**_components()[component][1], "weight": weight}
    if scaled:
        outer = term.get("residual", {"_target_": "pesloss.losses.Scaled", "factor": 1.0})
        term["residual"] = {**outer, "residual": {"_target_": "pesloss.losses.PerAtom", "exponent": 0.5}}
    return _build(term if derived else {key: value for key, value in term.items() if key != "prediction"})


def _build(term: Node) -> PropertyTerm:
    return build({"_target_": "pesloss.losses.PropertyTerm", **term})


def _components() -> dict[str, tuple[str, Node]]:
    """Name and arguments of the term of each component of modelforge."""
    dipole = load("modelforge_dipole")["terms"]
    nm2 = {"_target_": "pesloss.losses.Scaled", "factor": 0.01, "name_of_unit": "e·nm²"}
    return {
        "per_system_energy": ("energy", dipole["energy"]),
        "per_atom_energy": ("energy_per_atom", load("modelforge_per_atom_energy_force")["terms"]["energy"]),
        "per_atom_force": ("forces", dipole["forces"]),
        "per_system_total_charge": ("total_charge", dipole["total_charge"]),
        "per_system_dipole_moment": ("dipole", dipole["dipole"]),
        "per_system_quadrupole_moment": (
            "quadrupole",
            {"property": "quadrupole", "penalty": "squared_norm", "residual": nm2},
        ),
        "per_atom_charge": ("charges", {"property": "charges", **PER_ATOM}),
        "per_atom_spin_multiplicity": ("spin_multiplicities", {"property": dict(SPINS), **PER_ATOM}),
    }


def node(config: Any, *, epoch: int | None = None, derived: bool = True) -> Node:
    """The loss of a training section of modelforge, in its units of kJ/mol and nm.

    ``mixing_steps`` is by how much a weight changes in an epoch, towards ``target_weight``, where it stays.
    Here its sign does not matter.

    Args:
        config: the table, or what it stands in, ``loss_parameter`` or ``training.loss_parameter``.
        epoch: the fixed weights of that epoch, instead of a schedule.
        derived: whether dipole and total charge follow from predicted charges, as in modelforge, or are
            predicted themselves.

    Raises:
        ValueError: for unknown keys and components, weights that do not fit the components, and steps of 0.
    """
    table = _table(config)
    components, terms, plans = _components(), {}, {}
    for component in table["loss_components"]:
        name, term = components[component]
        if not derived:
            term = {key: value for key, value in term.items() if key != "prediction"}
        terms[name], plans[name] = term, _plan(component, table)
    recipe = {"_target_": "pesloss.recipes.Recipe", "project": "modelforge", "terms": terms}
    last = max(map(len, plans.values()))
    stages = {at: {name: plan[min(at, len(plan) - 1)] for name, plan in plans.items()} for at in range(last)}
    recipe |= staged(stages)
    return recipe if epoch is None else at_epoch(recipe, epoch)


def _table(config: Any) -> dict[str, Any]:
    table, where = mapping_of("modelforge config", config), "modelforge config"
    for key in ("training", "loss_parameter"):
        if key in table:
            where = key if where == "modelforge config" else f"{where}.{key}"
            table = mapping_of(where, table[key])
    check_keys(where, table, KEYS)
    for key in KEYS[:2]:
        if key not in table:
            raise ValueError(f"{where} needs '{key}'; found {sorted(table)}.")
    known = _components()
    components = table["loss_components"]
    check_keys(f"{where}.loss_components", dict.fromkeys(components), known)
    for key in KEYS[1:]:
        check_keys(f"{where}.{key}", mapping_of(f"{where}.{key}", table.get(key, {})), components)
    for name in components:
        if name not in table["weight"]:
            raise ValueError(f"{where}.weight has no '{name}', which loss_components names.")
    return table


def _plan(component: str, table: Mapping[str, Any]) -> list[float]:
    """Weight of a component epoch by epoch, the last one for all that follow."""
    start = float(table["weight"][component])
    end = float(table.get("target_weight", {}).get(component, start))
    if end == start:
        return [start]
    step = table.get("mixing_steps", {}).get(component)
    if not step:
        raise ValueError(
            f"mixing_steps.{component} must say by how much the weight changes in an epoch, got {step!r}."
        )
    step = abs(float(step)) if end > start else -abs(float(step))
    return [*(start + i * step for i in range(ceil((end - start) / step))), end]
