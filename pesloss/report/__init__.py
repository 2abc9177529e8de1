"""Reports: what a person reads when a run has ended."""

from pesloss.report.final import conclude

__all__ = ["conclude"]
