"""Reports: what a person reads when a run or a sweep has ended."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pesloss.report.final import conclude
    from pesloss.report.predictions import PredictionFiles

__all__ = ["PredictionFiles", "conclude"]
_HOMES = {"PredictionFiles": "pesloss.report.predictions", "conclude": "pesloss.report.final"}


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: the report of a sweep needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'pesloss.report' has no attribute '{name}'; it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)
