"""Losses: predictions and labels in, one scalar out. Read in the order of the imports."""

from pesloss.losses.batch import Batch, Predictions, group_code
from pesloss.losses.contributions import Contributions
from pesloss.losses.derived import DERIVED, Combination, Derived, DipoleFromCharges, Spin, SumOverAtoms
from pesloss.losses.gradients import TermGradients
from pesloss.losses.masks import MASKS, Elements, FreeAtoms, Given, Labelled, Mask
from pesloss.losses.named import NormalLoss, UncertaintyLoss
from pesloss.losses.nonfinite import explain_nonfinite
from pesloss.losses.penalties import (
    PENALTIES,
    Absolute,
    ConditionalHuber,
    ConditionalSquared,
    Huber,
    HuberNorm,
    L2Norm,
    LogCosh,
    Penalty,
    Quantile,
    QuantileHuber,
    Squared,
    SquaredNorm,
    StratifiedHuber,
)
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.losses.reductions import (
    REDUCTIONS,
    Mean,
    PerElement,
    PerGroup,
    PerStructure,
    Reduction,
    RootMean,
    Sum,
)
from pesloss.losses.residuals import (
    RESIDUALS,
    Cumulative,
    Difference,
    Direction,
    Magnitude,
    ModuloQuantum,
    PerAtom,
    Relative,
    Residual,
    Scaled,
    Standardized,
    Trace,
    Voigt,
)
from pesloss.losses.step import Step
from pesloss.losses.terms.base import Counts, RowSums, Term
from pesloss.losses.terms.classification import ClassTerm
from pesloss.losses.terms.confidence import ConfidenceTerm
from pesloss.losses.terms.conservative import CurlPenalty, EquivariancePenalty, RotationPenalty
from pesloss.losses.terms.denoising import DenoisingTerm
from pesloss.losses.terms.distillation import Distillation
from pesloss.losses.terms.dos import DOSTerm
from pesloss.losses.terms.ensemble import EnsembleTerm
from pesloss.losses.terms.generalized import GeneralizedForcesTerm
from pesloss.losses.terms.hessian import HessianProductTerm
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.reaction import ReactionTerm
from pesloss.losses.terms.regularisers import ModelTerm, WeightPenalty
from pesloss.losses.terms.sign_symmetric import SignSymmetricTerm
from pesloss.losses.terms.variance import EvidentialTerm, VarianceTerm
from pesloss.losses.total import LossOutput, TotalLoss
from pesloss.losses.wellformed import check_batch

__all__ = [
    "DERIVED",
    "MASKS",
    "PENALTIES",
    "PROPERTIES",
    "REDUCTIONS",
    "RESIDUALS",
    "Absolute",
    "Batch",
    "ClassTerm",
    "Combination",
    "ConditionalHuber",
    "ConditionalSquared",
    "ConfidenceTerm",
    "Contributions",
    "Counts",
    "Cumulative",
    "CurlPenalty",
    "DOSTerm",
    "DenoisingTerm",
    "Derived",
    "Difference",
    "DipoleFromCharges",
    "Direction",
    "Distillation",
    "Elements",
    "EnsembleTerm",
    "EquivariancePenalty",
    "EvidentialTerm",
    "FreeAtoms",
    "GeneralizedForcesTerm",
    "Given",
    "HessianProductTerm",
    "Huber",
    "HuberNorm",
    "L2Norm",
    "Labelled",
    "LogCosh",
    "LossOutput",
    "Magnitude",
    "Mask",
    "Mean",
    "ModelTerm",
    "ModuloQuantum",
    "NormalLoss",
    "Penalty",
    "PerAtom",
    "PerElement",
    "PerGroup",
    "PerStructure",
    "Predictions",
    "Property",
    "PropertyTerm",
    "Quantile",
    "QuantileHuber",
    "ReactionTerm",
    "Reduction",
    "Relative",
    "Residual",
    "RootMean",
    "RotationPenalty",
    "RowSums",
    "Scaled",
    "SignSymmetricTerm",
    "Spin",
    "Squared",
    "SquaredNorm",
    "Standardized",
    "Step",
    "StratifiedHuber",
    "Sum",
    "SumOverAtoms",
    "Term",
    "TermGradients",
    "TotalLoss",
    "Trace",
    "UncertaintyLoss",
    "VarianceTerm",
    "Voigt",
    "WeightPenalty",
    "check_batch",
    "explain_nonfinite",
    "group_code",
]
