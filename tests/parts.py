"""Every part there is, found by walking the package, with an example of each to try the laws on."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any

import pesloss.losses
import pesloss.weighting
from pesloss.losses import (
    Absolute,
    Difference,
    FreeAtoms,
    Huber,
    L2Norm,
    Labelled,
    Mask,
    Mean,
    NormalLoss,
    Penalty,
    PerAtom,
    PerStructure,
    PropertyTerm,
    Reduction,
    Residual,
    RootMean,
    Squared,
    Sum,
    Term,
    TotalLoss,
    UncertaintyLoss,
    Voigt,
)
from pesloss.weighting import Fixed, Uncertainty, Weighting
from tests.batches import ALL, USER

PENALTIES: dict[str, Callable[[], Penalty]] = {
    "squared": Squared,
    "absolute": Absolute,
    "huber": partial(Huber, 0.7),
    "scaled_huber": partial(Huber, 0.7, scale=True),
    "l2_norm": L2Norm,
}
REDUCTIONS: dict[str, Callable[[], Reduction]] = {
    "mean": Mean,
    "mean_over_weights": partial(Mean, "weights"),
    "mean_over_entries": partial(Mean, "entries"),
    "sum": Sum,
    "per_structure": PerStructure,
    "root_mean": RootMean,
}
RESIDUALS: dict[str, Callable[[], Residual]] = {
    "difference": Difference,
    "per_atom": PerAtom,
    "voigt": Voigt,
    "voigt_doubled": partial(Voigt, "doubled"),
    "voigt_mandel": partial(Voigt, "mandel"),
}
MASKS: dict[str, Callable[[], Mask]] = {"labelled": Labelled, "free_atoms": FreeAtoms}
WEIGHTINGS: dict[str, Callable[[], Weighting]] = {
    "fixed": Fixed,
    "likelihood": Uncertainty,
    "kendall": partial(Uncertainty, "kendall"),
    "tace": partial(Uncertainty, "tace"),
}
TERMS: dict[str, Callable[[], Term]] = {
    **{f"property {name}": partial(PropertyTerm, prop) for name, prop in ALL.items()},
    "energy per atom": partial(PropertyTerm, "energy", residual="per_atom"),
    "user per atom": partial(PropertyTerm, USER, residual="per_atom"),
    "stress voigt": partial(PropertyTerm, "stress", residual="voigt", components=[1, 1, 1, 0.5, 0, 2]),
    "free atoms": partial(PropertyTerm, "forces", mask="free_atoms", components=[1.0, 0.5, 2.0]),
    "weight inside": lambda: PropertyTerm("forces", penalty=Huber(0.3), weight_inside=True),
}
TABLES: dict[type, dict[str, Callable[[], Any]]] = {
    Penalty: PENALTIES,
    Reduction: REDUCTIONS,
    Residual: RESIDUALS,
    Mask: MASKS,
    Weighting: WEIGHTINGS,
    Term: TERMS,
}


def three_terms(
    penalty: Callable[[], Penalty], reduction: Callable[[], Reduction], **options: Any
) -> TotalLoss:
    """Energy, forces and stress, with one penalty and one reduction."""
    fits = [("energy", "per_atom"), ("forces", "difference"), ("stress", "voigt")]
    terms = {
        name: PropertyTerm(name, residual=residual, penalty=penalty(), reduction=reduction())
        for name, residual in fits
    }
    return TotalLoss(terms, weights={"energy": 1.0, "forces": 5.0, "stress": 0.3}, **options)


def losses() -> dict[str, Callable[[], TotalLoss]]:
    """Losses in which every part takes its turn."""
    made: dict[str, Callable[[], TotalLoss]] = {}
    for penalty in PENALTIES:
        for reduction in REDUCTIONS:
            made[f"{penalty}, {reduction}"] = partial(three_terms, PENALTIES[penalty], REDUCTIONS[reduction])
    for weighting in WEIGHTINGS:
        made[f"weighting {weighting}"] = partial(_weighted, weighting, "mean")
        made[f"weighting {weighting}, root mean"] = partial(_weighted, weighting, "root_mean")
    for term in TERMS:
        made[term] = partial(_single, term)
    made["groups"] = partial(
        three_terms,
        Squared,
        Mean,
        weight=0.7,
        config_type_weights={"surface": 3.0, "bulk": 0.0},
        dataset_weights={"a": 0.5},
    )
    flat = {
        "loss_property": ["energy", "forces"],
        "loss_function_name": ["huber_energy_per_atom", "l2mae_forces"],
    }
    made["NormalLoss"] = partial(NormalLoss, **flat, loss_property_weights=[1, 5], normalize=True)
    made["UncertaintyLoss"] = partial(UncertaintyLoss, **flat, loss_property_weights=[1, 5])
    return made


def _weighted(weighting: str, reduction: str) -> TotalLoss:
    return three_terms(Squared, REDUCTIONS[reduction], weighting=WEIGHTINGS[weighting]())


def _single(term: str) -> TotalLoss:
    return TotalLoss({"term": TERMS[term]()}, weights={"term": 2.0})


LOSSES = losses()


def final_classes(base: type) -> set[type]:
    """All classes of a family that a config can name."""
    found = set()
    for package in (pesloss.losses, pesloss.weighting):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value):
                    found.add(value)
    return found
