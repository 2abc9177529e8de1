"""The stress doctor: sign, order, unit and symmetry of stress labels, from the data and with a model."""

from pesloss.checks.stress.by_model import stress_by_model
from pesloss.checks.stress.doctor import stress
from pesloss.checks.stress.finite_strain import finite_strain
from pesloss.checks.stress.symmetry import stress_symmetry

__all__ = ["finite_strain", "stress", "stress_by_model", "stress_symmetry"]
