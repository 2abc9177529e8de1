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
    PROPERTIES,
    Absolute,
    Combination,
    ConditionalHuber,
    ConditionalSquared,
    Cumulative,
    Derived,
    Difference,
    DipoleFromCharges,
    Direction,
    Elements,
    FreeAtoms,
    Given,
    Huber,
    HuberNorm,
    L2Norm,
    Labelled,
    LogCosh,
    Magnitude,
    Mask,
    Mean,
    ModuloQuantum,
    NormalLoss,
    Penalty,
    PerAtom,
    PerElement,
    PerGroup,
    PerStructure,
    PropertyTerm,
    Quantile,
    QuantileHuber,
    Reduction,
    Relative,
    Residual,
    RootMean,
    Scaled,
    Spin,
    Squared,
    SquaredNorm,
    Standardized,
    StratifiedHuber,
    Sum,
    SumOverAtoms,
    Term,
    TotalLoss,
    Trace,
    UncertaintyLoss,
    Voigt,
)
from pesloss.losses.terms.classification import ClassTerm
from pesloss.losses.terms.confidence import ConfidenceTerm
from pesloss.losses.terms.conservative import CurlPenalty, EquivariancePenalty, RotationPenalty
from pesloss.losses.terms.denoising import DenoisingTerm
from pesloss.losses.terms.distillation import Distillation
from pesloss.losses.terms.dos import DOSTerm
from pesloss.losses.terms.ensemble import EnsembleTerm
from pesloss.losses.terms.generalized import GeneralizedForcesTerm
from pesloss.losses.terms.hessian import HessianProductTerm
from pesloss.losses.terms.reaction import ReactionTerm
from pesloss.losses.terms.regularisers import WeightPenalty
from pesloss.losses.terms.sign_symmetric import SignSymmetricTerm
from pesloss.losses.terms.variance import EvidentialTerm, VarianceTerm
from pesloss.weighting import ConflictFree, Fixed, Schedule, SoftAdapt, Uncertainty, Weighting
from tests.batches import ALL, DOS, PHASE, USER
from tests.references import COEFFICIENTS, GROUPS

STRATA = {"thresholds": (0.5, 1.0, 2.0), "factors": (1.0, 0.7, 0.4, 0.1)}
PENALTIES: dict[str, Callable[[], Penalty]] = {
    "squared": Squared,
    "absolute": Absolute,
    "quantile": partial(Quantile, 0.3),
    "huber": partial(Huber, 0.7),
    "scaled_huber": partial(Huber, 0.7, scale=True),
    "log_cosh": partial(LogCosh, 0.7),
    "scaled_log_cosh": partial(LogCosh, 0.7, scale=True),
    "quantile_huber": partial(QuantileHuber, 0.8, 0.7),
    "l2_norm": L2Norm,
    "squared_norm": SquaredNorm,
    "huber_norm": partial(HuberNorm, 0.7),
    "scaled_huber_norm": partial(HuberNorm, 0.7, scale=True),
    "conditional_huber": partial(ConditionalHuber, 0.7, **STRATA),
    "scaled_conditional_huber": partial(ConditionalHuber, 0.7, **STRATA, scale=True),
    "conditional_squared": partial(ConditionalSquared, **STRATA),
    "stratified_huber": partial(StratifiedHuber, {1.5: 0.2, 0.5: 0.7}),
}
REDUCTIONS: dict[str, Callable[[], Reduction]] = {
    "mean": Mean,
    "mean_over_weights": partial(Mean, "weights"),
    "mean_over_entries": partial(Mean, "entries"),
    "mean_over_labelled": partial(Mean, "labelled"),
    "mean_over_atoms": partial(Mean, "atoms"),
    "sum": Sum,
    "per_structure": PerStructure,
    "per_structure_all": partial(PerStructure, "structures"),
    "per_structure_nonzero": partial(PerStructure, "nonzero"),
    "per_element": partial(PerElement, COEFFICIENTS),
    "per_group": partial(PerGroup, GROUPS),
    "per_group_sum": partial(PerGroup, GROUPS, normalize=False),
    "root_mean": RootMean,
}
RESIDUALS: dict[str, Callable[[], Residual]] = {
    "difference": Difference,
    "per_atom": PerAtom,
    "voigt": Voigt,
    "voigt_doubled": partial(Voigt, "doubled"),
    "voigt_mandel": partial(Voigt, "mandel"),
    "voigt_upper": partial(Voigt, triangle="upper"),
    "voigt_lower_vasp": partial(Voigt, "doubled", "vasp", "lower"),
    "trace": Trace,
    "per_atom_root": partial(PerAtom, 0.5),
    "relative": partial(Relative, 0.3),
    "relative_entry": partial(Relative, 0.3, of="entry"),
    "scaled": partial(Scaled, "per_atom", factor=1602.1766208),
    "standardized": partial(Standardized, scale=0.7),
    "standardized_voigt": partial(Standardized, "voigt", scale=0.7),
    "standardized_element": partial(Standardized, scale={"H": 0.3, "O": 2.0}, by="element"),
    "cumulative": partial(Cumulative, 0.1),
    "cumulative_trapezoid": partial(Cumulative, 0.1, "trapezoid"),
    "direction": Direction,
    "magnitude": Magnitude,
    "magnitude_vector": Magnitude,
    "magnitude_label": partial(Magnitude, "label"),
    "modulo_quantum": ModuloQuantum,
    "modulo_quantum_per_atom": partial(ModuloQuantum, 2.0, per_atom=True),
}
RESIDUAL_OF = {
    **dict.fromkeys(RESIDUALS, "virial"),
    **dict.fromkeys(("standardized_element", "direction", "magnitude_vector"), "forces"),
    **dict.fromkeys(("magnitude", "magnitude_label"), "charges"),
    **dict.fromkeys(("modulo_quantum", "modulo_quantum_per_atom"), "polarization"),
}
"""A property that makes sense for each residual."""
MASKS: dict[str, Callable[[], Mask]] = {
    "labelled": Labelled,
    "free_atoms": FreeAtoms,
    "elements": partial(Elements, ["H", 8]),
    "given": partial(Given, "chosen"),
}
DERIVED: dict[str, Callable[[], Derived]] = {
    "sum_over_atoms": SumOverAtoms,
    "total_charge": partial(SumOverAtoms, "charges", "total_charge"),
    "combination": Combination,
    "dipole_from_charges": DipoleFromCharges,
    "dipole_from_center_of_mass": partial(DipoleFromCharges, "mass"),
    "dipole_of_positions": partial(DipoleFromCharges, "none", atomic_dipoles=True),
    "spin": Spin,
}
WEIGHTINGS: dict[str, Callable[[], Weighting]] = {
    "fixed": Fixed,
    "likelihood": Uncertainty,
    "kendall": partial(Uncertainty, "kendall"),
    "tace": partial(Uncertainty, "tace"),
    "schedule": partial(Schedule, {"forces": {0: 1.0, 10: 0.5}}, between="cosine"),
    "soft_adapt": SoftAdapt,
}
OTHER_WEIGHTINGS: dict[str, Callable[[], Weighting]] = {"conflict_free": ConflictFree}
"""Weightings that values say too little about; their tests have the laws."""
SHAPES = {(prop.rows, prop.shape): prop for prop in reversed(ALL.values())}
"""A property for each kind of row and shape of an entry."""
TERMS: dict[str, Callable[[], Term]] = {
    **{f"property {prop.name}": partial(PropertyTerm, prop) for prop in SHAPES.values()},
    "energy per atom": partial(PropertyTerm, "energy", residual="per_atom"),
    "user per atom": partial(PropertyTerm, USER, residual="per_atom"),
    "stress voigt": partial(PropertyTerm, "stress", residual="voigt", components=[1, 1, 1, 0.5, 0, 2]),
    "free atoms": partial(PropertyTerm, "forces", mask="free_atoms", components=[1.0, 0.5, 2.0]),
    "weight inside": lambda: PropertyTerm("forces", penalty=Huber(0.3), weight_inside=True),
    "reactions": partial(ReactionTerm, penalty="absolute"),
    "ensemble likelihood": partial(EnsembleTerm, "energy", members=4, per_atom=True),
    "ensemble crps": partial(EnsembleTerm, "forces", score="gaussian_crps"),
    "ensemble empirical crps": partial(EnsembleTerm, "energy", score="empirical_crps"),
    "ensemble fair crps": partial(EnsembleTerm, "forces", score="empirical_crps", fair=True, members=4),
    "variance": partial(VarianceTerm, "forces", floor=0.1),
    "log variance": partial(
        VarianceTerm, "energy", beta=0, form="log_variance", variance="energy_log_variance"
    ),
    "evidence": partial(EvidentialTerm, "forces"),
    "classes": partial(ClassTerm, PHASE, classes=3, class_weights=[1.0, 0.5, 0.0]),
    "soft classes": partial(ClassTerm, "forces"),
    "yes or no": partial(ClassTerm, "charges", kind="sigmoid"),
    "confidence": partial(ConfidenceTerm, bins=4, largest=2.0),
    "confidence last": partial(ConfidenceTerm, bins=4, largest=2.0, beyond="last"),
    "signs": SignSymmetricTerm,
    "signs of all": partial(SignSymmetricTerm, "charges", by="batch", penalty="absolute"),
    "dos": partial(DOSTerm, DOS, extra=3, prediction="dos_wide", gradient_weight=0.1, cumulative_weight=0.2),
    "dos with zeros": partial(
        DOSTerm, DOS, zeros=True, method="sum", prediction="dos_aligned", gradient_weight=0.1
    ),
}
OTHER_TERMS: dict[str, Callable[[], Term]] = {
    "curl": CurlPenalty,
    "rotation": RotationPenalty,
    "equivariance": EquivariancePenalty,
    "denoising": DenoisingTerm,
    "distillation": partial(Distillation, "forces", teacher="direct_forces"),
    "generalized forces": partial(GeneralizedForcesTerm, 4),
    "hessian product": HessianProductTerm,
    "weights": WeightPenalty,
}
"""Terms of which a batch of labels and numbers for predictions says too little; their tests have the laws."""
TABLES: dict[type, dict[str, Callable[[], Any]]] = {
    Penalty: PENALTIES,
    Reduction: REDUCTIONS,
    Residual: RESIDUALS,
    Mask: MASKS,
    Derived: DERIVED,
    Weighting: {**WEIGHTINGS, **OTHER_WEIGHTINGS},
    Term: {**TERMS, **OTHER_TERMS},
}


def three_terms(
    penalty: Callable[[], Penalty], reduction: Callable[[], Reduction], **options: Any
) -> TotalLoss:
    """Energy, forces and stress, with one penalty and one reduction."""
    residuals = [("energy", "per_atom"), ("forces", "difference"), ("stress", "voigt")]
    terms = {
        name: PropertyTerm(
            name,
            residual=residual,
            penalty=penalty(),
            reduction=reduction() if fits(reduction(), name) else Mean(),
        )
        for name, residual in residuals
    }
    return TotalLoss(terms, weights={"energy": 1.0, "forces": 5.0, "stress": 0.3}, **options)


def fits(reduction: Reduction, prop: str) -> bool:
    """Whether a reduction makes sense for the property."""
    try:
        reduction.check(PROPERTIES[prop])
    except ValueError:
        return False
    return True


def losses() -> dict[str, Callable[[], TotalLoss]]:
    """Losses in which every part takes its turn."""
    made: dict[str, Callable[[], TotalLoss]] = {}
    pairs = [(penalty, "mean") for penalty in PENALTIES]
    pairs += [(p, r) for p in ("squared", "huber", "l2_norm") for r in REDUCTIONS if r != "mean"]
    for penalty, reduction in pairs:
        made[f"{penalty}, {reduction}"] = partial(three_terms, PENALTIES[penalty], REDUCTIONS[reduction])
    for weighting in WEIGHTINGS:
        made[f"weighting {weighting}"] = partial(_weighted, weighting, "mean")
        made[f"weighting {weighting}, root mean"] = partial(_weighted, weighting, "root_mean")
    for term in TERMS:
        made[term] = partial(_single, term)
    mixed = {"forces": {}, "energy": {"residual": "relative"}, "stress": {"penalty": "l2_norm"}}
    made["mixed"] = partial(TotalLoss, mixed)
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
    loss = three_terms(Squared, REDUCTIONS[reduction], weighting=WEIGHTINGS[weighting]())
    loss.place()
    return loss


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
