"""Losses whose weights change with the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pesloss.building import build
from pesloss.weighting import Schedule


def staged(stages: Mapping[int, Mapping[str, float]], **options: Any) -> dict[str, Any]:
    """Weights, and the weighting that changes them, as keys of a node.

    Args:
        stages: weights of all terms by the epoch from which on they hold; the first epoch is 0.
        options: further arguments of :class:`pesloss.weighting.Schedule`.
    """
    weights = {
        term: next((weights[term] for weights in stages.values() if weights[term]), 0.0) for term in stages[0]
    }
    factors = {
        term: {epoch: stage[term] / weight for epoch, stage in stages.items()}
        for term, weight in weights.items()
        if any(stage[term] != weight for stage in stages.values())
    }
    schedule = {"_target_": "pesloss.weighting.Schedule", "by": "epoch", "factors": factors, **options}
    return {"weights": weights, "weighting": schedule if factors else "fixed"}


def at_epoch(node: Mapping[str, Any], epoch: int) -> dict[str, Any]:
    """The node of a loss with the weights that it has in one epoch, fixed."""
    made = {key: at_epoch(value, epoch) if key == "original" else value for key, value in node.items()}
    if not isinstance(made.get("weighting"), Mapping):
        return made
    schedule = build(made["weighting"])
    if not isinstance(schedule, Schedule):
        raise ValueError(
            f"Weights of one epoch need a schedule; {type(schedule).__name__} follows the values."
        )
    schedule.setup(made["weights"])
    schedule.advance(epoch=epoch, step=0, learning_rate=1.0)
    weights = dict(zip(schedule.names, schedule.current.tolist(), strict=True))
    return {**made, "weights": weights, "weighting": "fixed"}
