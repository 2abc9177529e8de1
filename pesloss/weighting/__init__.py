"""Weightings: values of terms in, weights out. One file a method."""

from pesloss.weighting.base import Weighting, Weights
from pesloss.weighting.fixed import Fixed
from pesloss.weighting.schedule import Schedule
from pesloss.weighting.soft_adapt import SoftAdapt
from pesloss.weighting.uncertainty import Uncertainty

WEIGHTINGS = {"fixed": Fixed, "uncertainty": Uncertainty, "soft_adapt": SoftAdapt}
"""``Schedule`` has no short name: it needs its points."""

__all__ = ["WEIGHTINGS", "Fixed", "Schedule", "SoftAdapt", "Uncertainty", "Weighting", "Weights"]
