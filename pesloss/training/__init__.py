"""Training: optimizer steps, checkpoints, metrics and logs of a run."""

from pesloss.checkpoint import CheckpointError
from pesloss.terminal import open_console
from pesloss.training.alone import Alone
from pesloss.training.fit import Fit
from pesloss.training.guard import NonFiniteError, SpikeError
from pesloss.training.launch import launch
from pesloss.training.loggers import CSV, JobName, Logger, Loggers, TensorBoard, WandB
from pesloss.training.metrics import MeanPredictor, Metric, Metrics, displayed_unit
from pesloss.training.predict import predict
from pesloss.training.prepare import prepare
from pesloss.training.requests import Fitted
from pesloss.training.stops import Interrupted
from pesloss.training.trainer import Trainer

__all__ = [
    "CSV",
    "Alone",
    "CheckpointError",
    "Fit",
    "Fitted",
    "Interrupted",
    "JobName",
    "Logger",
    "Loggers",
    "MeanPredictor",
    "Metric",
    "Metrics",
    "NonFiniteError",
    "SpikeError",
    "TensorBoard",
    "Trainer",
    "WandB",
    "displayed_unit",
    "launch",
    "open_console",
    "predict",
    "prepare",
]
