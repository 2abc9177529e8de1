"""Weightings: values of terms in, weights out. One file a method."""

from pesloss.weighting.base import Weighting, Weights
from pesloss.weighting.fixed import Fixed
from pesloss.weighting.uncertainty import Uncertainty

WEIGHTINGS = {"fixed": Fixed, "uncertainty": Uncertainty}

__all__ = ["WEIGHTINGS", "Fixed", "Uncertainty", "Weighting", "Weights"]
