"""Reports: what a person reads when a run has ended."""

from pesloss.report.final import conclude
from pesloss.report.predictions import PredictionFiles

__all__ = ["PredictionFiles", "conclude"]
