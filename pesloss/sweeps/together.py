"""Trainings on the same batches in one process, step by step: one reading, one pass over the data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pesloss.data import Packed
from pesloss.data.loader import loader
from pesloss.losses import Batch
from pesloss.sweeps.computing import Computing
from pesloss.training import Fit, Fitted, Interrupted
from pesloss.training.console import Watch
from pesloss.training.requests import EpochStart, Place, Request, Training
from pesloss.training.stops import Signals

Outcome: TypeAlias = Fitted | BaseException


class Together:
    """Several trainings in lockstep: each is what it would be alone, but for rounding.

    Every training keeps its own optimizer, schedule, average, loss, guard, checkpoints and tables. Those that
    wait at the same place of their training are computed together. One that is behind, since it was resumed
    from an older checkpoint, catches up first; one that fails or ends leaves the others alone.

    Args:
        fits: trainings on the same structures in the same order, on one device, with what is told of each.
        computing: how gradients and predictions are computed.
        signals: reasons to stop.
        ended: told of each training that has ended, with its result or its error.
        passed: told of each place that trainings have passed.
    """

    def __init__(
        self,
        fits: Mapping[Fit, Watch],
        computing: Computing,
        signals: Signals,
        ended: Callable[[Fit, Outcome], None],
        passed: Callable[[Place], None] = lambda place: None,
    ) -> None:
        self._computing, self._ended, self._passed = computing, ended, passed
        self._trainings: dict[Fit, Training] = {}
        self._waiting: dict[Fit, Request] = {}
        shared = Shared(next(iter(fits)).fabric.device, max(fit.trainer.accumulate for fit in fits))
        for fit, watch in fits.items():
            fit.loaded = shared
            self._trainings[fit] = fit.training(watch, signals)
            self._go_on(fit, None)

    @property
    def fits(self) -> list[Fit]:
        """Trainings that have not ended."""
        return list(self._waiting)

    def advance(self, pause: Callable[[Fit], int] | None = None) -> None:
        """Train until every training has ended, or is at the start of the epoch where it pauses.

        Args:
            pause: number of epochs after which a training pauses; by default none does.
        """
        while ready := self._ready(pause):
            place = min(request.place for request in ready.values())
            at_place = {fit: request for fit, request in ready.items() if request.place == place}
            self._answer(at_place)
            self._passed(place)

    def dismiss(self, fit: Fit, reason: str) -> None:
        """End a training that pauses; it keeps the best weights so far."""
        self._go_on(fit, reason)

    def _ready(self, pause: Callable[[Fit], int] | None) -> dict[Fit, Request]:
        """What is waited for, but by trainings that pause."""
        return {
            fit: request
            for fit, request in self._waiting.items()
            if pause is None or not isinstance(request, EpochStart) or request.place.epochs < pause(fit)
        }

    def _answer(self, requests: Mapping[Fit, Request]) -> None:
        """Give several trainings what they wait for at one place; they are requests of one kind."""
        asked = [(fit, one) for fit, one in requests.items() if not isinstance(one, EpochStart)]
        answers = self._computing.answer(asked) if asked else [None] * len(requests)
        for fit, answer in zip(requests, answers, strict=True):
            self._go_on(fit, answer)

    def _go_on(self, fit: Fit, answer: Any) -> None:
        """Let a training go on to its next request, or its end."""
        training = self._trainings[fit]
        try:
            failed = isinstance(answer, Exception)
            self._waiting[fit] = training.throw(answer) if failed else training.send(answer)
        except StopIteration as end:
            self._end(fit, end.value)
        except (Exception, Interrupted) as error:
            self._end(fit, error)

    def _end(self, fit: Fit, outcome: Outcome) -> None:
        self._waiting.pop(fit, None)
        self._ended(fit, outcome)


class Shared:
    """Batches that several trainings ask for one after another are made once.

    Args:
        device: where they go.
        last: how many of the last ones are remembered: those of a step.
    """

    def __init__(self, device: torch.device, last: int) -> None:
        self._device = device
        self._made: deque[tuple[Packed, Tensor, Batch]] = deque(maxlen=last)

    def __call__(self, part: Packed, steps: Sequence[Tensor], *, workers: int = 0) -> Iterator[Batch]:
        """The batches of some steps; workers are not used, since a batch is made for many models."""
        for indices in steps:
            yield self._batch(part, indices)

    def _batch(self, part: Packed, indices: Tensor) -> Batch:
        for known, chosen, batch in self._made:
            if known is part and torch.equal(chosen, indices):
                return batch
        (batch,) = loader(part, [indices], self._device)
        self._made.append((part, indices, batch))
        return batch
