"""What a training waits for while others compute, one model alone or many together; and what it ends with."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from pesloss.losses import Batch, Step


class Fitted(NamedTuple):
    """How a training ended.

    Args:
        best_epoch: epoch of the checkpoint that was selected.
        best_score: its score on the validation structures; ``None`` if there are none.
        score: name of the score.
        seconds: time the training took.
        ended: why it ended, in words.
        complete: whether that is its end; if not, it can be resumed.
    """

    best_epoch: int
    best_score: float | None
    score: str
    seconds: float
    ended: str
    complete: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        score = {"name": self.score, "value": self.best_score, "epoch": self.best_epoch}
        return {"score": score, "seconds": round(self.seconds, 3), "ended": self.ended}


class Place(NamedTuple):
    """Where in a training a request stands; trainings on the same batches meet at the same places.

    Args:
        epochs: that are done.
        steps: of the epoch under way that are done.
        part: of a step or an epoch: before it, in it, after it.
        batch: of the validation structures.
    """

    epochs: int
    steps: int
    part: int
    batch: int = 0


class EpochStart(NamedTuple):
    """An epoch is to begin, and what was before it is saved. The answer is why to stop here, or ``None``."""

    place: Place


class Gradient(NamedTuple):
    """Gradients of the loss of a step are to stand in ``grad`` of all parameters.

    The answer is a list of :class:`pesloss.losses.LossOutput` whose shares add up to the step.

    Args:
        place: in the training.
        parts: batches of the step.
        step: their denominators, if there are several.
    """

    place: Place
    parts: Sequence[Batch]
    step: Step | None


class Prediction(NamedTuple):
    """Predictions of the model that is evaluated, for a batch; they are the answer.

    Args:
        place: in the training.
        batch: structures that are not learned from.
    """

    place: Place
    batch: Batch


Request: TypeAlias = EpochStart | Gradient | Prediction
Training: TypeAlias = Generator[Request, Any, Fitted]
