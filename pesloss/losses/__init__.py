"""Losses: predictions and labels in, one scalar out. Read in the order of the imports."""

from pesloss.losses.batch import Batch, Predictions, group_code
from pesloss.losses.masks import MASKS, FreeAtoms, Labelled, Mask
from pesloss.losses.named import NormalLoss, UncertaintyLoss
from pesloss.losses.nonfinite import explain_nonfinite
from pesloss.losses.penalties import PENALTIES, Absolute, Huber, L2Norm, Penalty, Squared
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.losses.reductions import REDUCTIONS, Mean, PerStructure, Reduction, RootMean, Sum
from pesloss.losses.residuals import RESIDUALS, Difference, PerAtom, Residual, Voigt
from pesloss.losses.terms.base import Counts, Term
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.total import LossOutput, Step, TotalLoss

__all__ = [
    "MASKS",
    "PENALTIES",
    "PROPERTIES",
    "REDUCTIONS",
    "RESIDUALS",
    "Absolute",
    "Batch",
    "Counts",
    "Difference",
    "FreeAtoms",
    "Huber",
    "L2Norm",
    "Labelled",
    "LossOutput",
    "Mask",
    "Mean",
    "NormalLoss",
    "Penalty",
    "PerAtom",
    "PerStructure",
    "Predictions",
    "Property",
    "PropertyTerm",
    "Reduction",
    "Residual",
    "RootMean",
    "Squared",
    "Step",
    "Sum",
    "Term",
    "TotalLoss",
    "UncertaintyLoss",
    "Voigt",
    "explain_nonfinite",
    "group_code",
]
