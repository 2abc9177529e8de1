"""A training by itself: one model, on one device or on several processes that share each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any, TypeAlias

import torch
from lightning_fabric import Fabric
from rich.console import Console

from pesloss.losses import Batch, LossOutput, Predictions, Step, TermGradients
from pesloss.training.console import Watch
from pesloss.training.fit import Fit
from pesloss.training.requests import EpochStart, Fitted, Gradient, Prediction, Request
from pesloss.training.stops import Signals
from pesloss.weighting import GradientWeighting

Model: TypeAlias = Callable[..., Predictions]
"""A potential, or what stands for it: compiled, or one that averages gradients over ranks."""


class Alone:
    """Computes what one training asks for.

    Args:
        fit: the training.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        if fit.trainer.compile:
            torch.compiler.reset()  # the jobs of a sweep are many models of one code
            fit.potential.compile(fullgraph=True, dynamic=True)
        self.model = fit.fabric.setup(fit.potential)

    def run(self, console: Console) -> Fitted:
        """The whole training; raises what it raises, see :meth:`Fit.training`."""
        fit, progress = self.fit, self.fit.progress
        watch = Watch(
            fit.trainer.epochs,
            fit.steps_of_epoch,
            console,
            done=progress.step + progress.skipped,
            silent=not fit.fabric.is_global_zero,
        )
        with watch, Signals() as signals:
            training, answer = fit.training(watch, signals), None
            try:
                while True:
                    answer = self.answer(training.send(answer))
            except StopIteration as end:
                return end.value

    def answer(self, request: Request) -> Any:
        """What was asked for."""
        if isinstance(request, EpochStart):
            return None
        if isinstance(request, Prediction):
            self.fit.evaluated.eval()
            return self.fit.evaluated(request.batch, list(self.fit.compared))
        return differentiate(self.fit, self.model, request)


def differentiate(fit: Fit, model: Model, wanted: Gradient) -> list[LossOutput]:
    """Gradients of the loss over the batches of a step, added up in ``grad``.

    Where the weights depend on the gradient of each term, there is one backward pass for each.
    """
    if isinstance(fit.loss.weighting, GradientWeighting):
        return _differentiate_terms(fit, model, wanted.parts, wanted.step)
    outputs = []
    for i, batch in enumerate(wanted.parts):
        with _without_average(fit.fabric, model, enabled=i < len(wanted.parts) - 1):
            predictions = learned_from(fit, model, batch)
            outputs.append(fit.loss.evaluate(predictions, batch, wanted.step))
            fit.fabric.backward(outputs[-1].total)
    return outputs


def learned_from(fit: Fit, model: Model, batch: Batch) -> Predictions:
    """What a model says of a batch that it learns from."""
    with in_precision(fit):
        return model(batch, fit.required)


def in_precision(fit: Fit) -> AbstractContextManager[Any]:
    """Matrix products within it are in the precision of a training."""
    bfloat16 = fit.trainer.precision == "bfloat16"
    return torch.autocast(fit.fabric.device.type, torch.bfloat16, enabled=bfloat16)


def _differentiate_terms(
    fit: Fit, model: Model, parts: Sequence[Batch], step: Step | None
) -> list[LossOutput]:
    gradients = TermGradients(fit.loss, fit.potential.parameters(), fit.fabric.backward)
    # a compiled graph may reuse the memory of what it holds, so that it is good for one pass
    passes = [[name] for name in fit.loss.terms] if fit.trainer.compile else [[*fit.loss.terms]]
    for batch, terms in product(parts, passes):
        with _without_average(fit.fabric, model, enabled=True):
            predictions = learned_from(fit, model, batch)
            gradients.add(fit.loss.values(predictions, batch, step), terms)
    return [gradients.combine()]


def _without_average(fabric: Fabric, model: Any, *, enabled: bool) -> AbstractContextManager[Any]:
    """Gradients are averaged over the ranks with the last batch of a step."""
    return nullcontext() if fabric.world_size == 1 else fabric.no_backward_sync(model, enabled=enabled)
