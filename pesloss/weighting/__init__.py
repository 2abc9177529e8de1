"""Weightings: values of terms in, weights out. One file a method."""

from pesloss.weighting.base import Weighting, Weights
from pesloss.weighting.conflict_free import ConflictFree
from pesloss.weighting.fixed import Fixed
from pesloss.weighting.gradients import GradientWeighting
from pesloss.weighting.schedule import Schedule
from pesloss.weighting.soft_adapt import SoftAdapt
from pesloss.weighting.uncertainty import Uncertainty

WEIGHTINGS = {
    "fixed": Fixed,
    "uncertainty": Uncertainty,
    "soft_adapt": SoftAdapt,
    "conflict_free": ConflictFree,
}
"""``Schedule`` has no short name: it needs its points."""

__all__ = [
    "WEIGHTINGS",
    "ConflictFree",
    "Fixed",
    "GradientWeighting",
    "Schedule",
    "SoftAdapt",
    "Uncertainty",
    "Weighting",
    "Weights",
]
