"""Training: optimizer steps, checkpoints, metrics and logs of a run."""

from pesloss.training.console import open_console
from pesloss.training.loggers import CSV, Logger, Loggers, WandB
from pesloss.training.metrics import Errors, MeanPredictor, Metrics, displayed_unit
from pesloss.training.prepare import prepare
from pesloss.training.trainer import Fit, Fitted, NonFiniteError, Trainer

__all__ = [
    "CSV",
    "Errors",
    "Fit",
    "Fitted",
    "Logger",
    "Loggers",
    "MeanPredictor",
    "Metrics",
    "NonFiniteError",
    "Trainer",
    "WandB",
    "displayed_unit",
    "open_console",
    "prepare",
]
