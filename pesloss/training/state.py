"""What a checkpoint holds: enough to use the model, and enough to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from pesloss.checks.postmortem import random_state
from pesloss.training.about import of_loss

if TYPE_CHECKING:
    from pesloss.training.fit import Fit


@dataclass
class Progress:
    """How far a training has come: all that is needed to go on from there, besides the states of its parts.

    Args:
        epochs: that are done.
        steps: of the epoch under way that are done, or skipped.
        taken: those that were not skipped.
        loss: sum of their losses.
        step: optimizer steps in all.
        skipped: steps that were skipped or followed by a return to the last checkpoint, in all.
        bad: how many of these there were in a row.
        written: how many bad steps were written down.
        best_epoch: with the best score so far, 0 before the first.
        best_score: ``None`` without validation structures.
        seconds: time that was spent on training.
    """

    epochs: int = 0
    steps: int = 0
    taken: int = 0
    loss: float = 0.0
    step: int = 0
    skipped: int = 0
    bad: int = 0
    written: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    seconds: float = 0.0

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """From a checkpoint."""
        return cls(**{field.name: state[field.name] for field in fields(cls)})


def usable(fit: Fit) -> dict[str, Any]:
    """The model that is evaluated, and what it is: config, properties, references, formula, errors."""
    return {
        **fit.about,
        "model": _detached(fit.evaluated),
        "progress": asdict(fit.progress),
        "formula": of_loss(fit.loss),
        "metrics": fit.validated,
    }


def resumable(fit: Fit) -> dict[str, Any]:
    """What the next steps depend on, but random numbers."""
    return {
        "weights": _detached(fit.potential),
        "average": None if fit.average is None else int(fit.average.n_averaged),
        "terms": list(fit.loss.by_name),
        "loss": fit.loss.state_dict(),
        "optimizer": fit.optimizer.state_dict(),
        "scheduler": None if fit.scheduler is None else fit.scheduler.state_dict(),
        "guard": fit.guard.state(),
        "order": order(fit),
        "score": fit.score,
    }


def order(fit: Fit) -> dict[str, Any]:
    """What decides which structures make up a step; a position in an epoch means nothing without it."""
    settings = ("shuffle_seed", "batch_size", "max_atoms", "max_edges", "accumulate")
    return {
        "data": fit.data.fingerprint,
        **{name: getattr(fit.trainer, name) for name in settings},
    }


def random_states(fabric: Fabric) -> list[dict[str, Tensor]]:
    """Random states of each rank, in their order."""
    mine = random_state(fabric.device)
    if fabric.world_size == 1:
        return [mine]
    found: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(found, mine)
    return found


def _detached(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}
