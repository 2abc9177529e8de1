"""Which jobs of a sweep can train together: those that learn the same network from the same batches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pesloss.training import Fit
from pesloss.weighting import GradientWeighting

T = TypeVar("T")

COMMON = (
    "batch_size",
    "max_atoms",
    "max_edges",
    "accumulate",
    "shuffle_seed",
    "eval_batch_size",
    "precision",
    "compile",
    "accelerator",
    "devices",
    "threads",
)
"""Settings of the trainer that decide what a batch is and where it is computed; others are a job's own."""


def common(config: Mapping[str, Any]) -> str:
    """What jobs that train together have in common, as text to be compared.

    Loss, weighting, optimizer, schedule, seed and the other settings of the trainer may differ.
    """
    trainer = {name: config["trainer"].get(name) for name in COMMON}
    averaged = config["trainer"].get("ema_decay") is not None
    return json.dumps([config["data"], config["model"], trainer, averaged], sort_keys=True, default=str)


def predicted(fit: Fit) -> str:
    """What trainings that are computed together ask of their model, as text to be compared."""
    by_term = isinstance(fit.loss.weighting, GradientWeighting)
    return repr((sorted(fit.required), sorted(fit.compared), sorted(fit.loss.labels), by_term))


def grouped(jobs: Sequence[T], keys: Sequence[str]) -> list[list[T]]:
    """Jobs with the same key, in the order of their first.

    Example:
        >>> grouped([1, 2, 3], ["a", "b", "a"])
        [[1, 3], [2]]
    """
    groups: dict[str, list[T]] = {}
    for job, key in zip(jobs, keys, strict=True):
        groups.setdefault(key, []).append(job)
    return list(groups.values())
