"""What a training waits for while something else computes: one model alone, or many together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pesloss.losses import Batch, Step

if TYPE_CHECKING:
    from pesloss.training.fit import Fitted


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
Training: TypeAlias = "Generator[Request, Any, Fitted]"
