"""How gradients and predictions of several models on one batch are computed: together or in turn."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.func import functional_call

from pesloss.losses import Batch, Predictions, TermGradients
from pesloss.models import Potential
from pesloss.models.potential import SECOND
from pesloss.models.stacked import StackedPotential
from pesloss.training import Fit
from pesloss.training.alone import Model, differentiate, in_precision
from pesloss.training.guard import places
from pesloss.training.requests import Gradient, Prediction
from pesloss.weighting import GradientWeighting

Asked: TypeAlias = "tuple[Fit, Gradient | Prediction]"


class Computing(ABC):
    """Answers what several trainings ask for at the same place."""

    @abstractmethod
    def answer(self, asked: Sequence[Asked]) -> list[Any]:
        """Answers in the order of the requests; an exception stands for what could not be computed."""


class InTurn(Computing):
    """One model after another, each as if it were alone."""

    def answer(self, asked: Sequence[Asked]) -> list[Any]:
        return [_or_error(self._one, fit, request) for fit, request in asked]

    def model(self, potential: Potential) -> Model:
        """What computes the predictions of a potential."""
        return potential

    def _one(self, fit: Fit, request: Gradient | Prediction) -> Any:
        if isinstance(request, Gradient):
            return differentiate(fit, self.model(fit.potential), request)
        fit.evaluated.eval()
        return self.model(fit.evaluated)(request.batch, list(fit.compared))


class Compiled(InTurn):
    """The same, each with the one compiled function that all models share: it is compiled once.

    On a CPU this is the fastest: compiled functions of stacked weights are no faster, and are compiled anew
    for each number of edges (torch 2.13).

    Args:
        backend: of ``torch.compile``.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self._backend = backend
        self._functions: dict[str, Callable[..., Predictions]] = {}
        self._models: dict[Potential, Model] = {}

    def model(self, potential: Potential) -> Model:
        if potential not in self._models:
            self._models[potential] = self._made(potential)
        return self._models[potential]

    def _made(self, potential: Potential) -> Model:
        structure = repr(potential)
        if structure not in self._functions:
            self._functions[structure] = _compiled(potential, self._backend)
        function, parameters = self._functions[structure], dict(potential.named_parameters())
        names, owners = [name for name, _ in potential.named_buffers()], places(potential)

        def model(batch: Batch, properties: Sequence[str]) -> Predictions:
            # a buffer may be another tensor by now, a parameter is not
            buffers = {name: getattr(*place) for name, place in zip(names, owners, strict=True)}
            return function({**parameters, **buffers}, batch, list(properties), potential.training)

        return model


class Stacked(Computing):
    """All models at once, as one function of stacked weights; what cannot be stacked goes one after another.

    Args:
        say: told why models could not be stacked, once.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say, self._in_turn, self._failed = say, InTurn(), False
        self._stacks: dict[bool, tuple[list[Potential], StackedPotential]] = {}

    def answer(self, asked: Sequence[Asked]) -> list[Any]:
        if self._failed or len(asked) == 1 or not _alike(asked):
            return self._in_turn.answer(asked)
        try:
            return self._together(asked)
        except Exception as error:  # whatever it was: one after another it has a culprit, or does not occur
            self._failed = True
            self._say(f"The models are computed one after another, because stacked they failed: {error}")
            return self._in_turn.answer(_begun_again(asked))

    def _together(self, asked: Sequence[Asked]) -> list[Any]:
        fits = [fit for fit, _ in asked]
        _, first = asked[0]
        if isinstance(first, Prediction):
            stack = self._stack([fit.evaluated for fit in fits], own=fits[0].average is None)
            return stack(first.batch, list(fits[0].compared), training=False)
        stack = self._stack([fit.potential for fit in fits], own=True)
        by_term = isinstance(fits[0].loss.weighting, GradientWeighting)
        wanted = [request for _, request in asked if isinstance(request, Gradient)]
        return (_combined if by_term else _added)(stack, fits, wanted)

    def _stack(self, potentials: list[Potential], *, own: bool) -> StackedPotential:
        """The stack of these, made anew if they are not those of the last time."""
        known = self._stacks.get(own)
        if known is None or known[0] != potentials:
            known = self._stacks[own] = (potentials, StackedPotential(potentials))
        return known[1]


def _added(stack: StackedPotential, fits: Sequence[Fit], wanted: Sequence[Gradient]) -> list[Any]:
    """Gradients of the losses, from one backward pass for each batch of a step."""
    outputs: list[list[Any]] = [[] for _ in fits]
    failed: dict[int, Exception] = {}
    stack.clear()
    for part, batch in enumerate(wanted[0].parts):
        predicted = _learned_from(stack, fits[0], batch)
        for k in range(len(fits)):
            found = _or_error(fits[k].loss.evaluate, predicted[k], batch, wanted[k].step)
            if isinstance(found, Exception):
                failed.setdefault(k, found)
            outputs[k].append(found)
        torch.autograd.backward([own[part].total for k, own in enumerate(outputs) if k not in failed])
    stack.hand_out()
    return [failed.get(k, own) for k, own in enumerate(outputs)]


def _combined(stack: StackedPotential, fits: Sequence[Fit], wanted: Sequence[Gradient]) -> list[Any]:
    """The same where weights depend on the gradient of each term: a backward pass for each of them."""
    gradients = [TermGradients(fit.loss, fit.potential.parameters()) for fit in fits]
    for part in range(len(wanted[0].parts)):
        predicted = _learned_from(stack, fits[0], wanted[0].parts[part])
        values = [
            dict(zip(fit.loss.terms, fit.loss.values(own, one.parts[part], one.step).unbind(), strict=True))
            for fit, own, one in zip(fits, predicted, wanted, strict=True)
        ]
        names = list(dict.fromkeys(name for own in values for name in own))
        for name in names:
            stack.clear()
            every = [own[name] for own in values if name in own]
            torch.autograd.backward(every, retain_graph=name != names[-1])
            stack.hand_out()
            for own, gradient in zip(values, gradients, strict=True):
                if name in own:
                    gradient.take(name, own[name])
    return [[gradient.combine()] for gradient in gradients]


def _learned_from(stack: StackedPotential, fit: Fit, batch: Batch) -> list[Predictions]:
    with in_precision(fit):
        return stack(batch, fit.required, training=True)


def _alike(asked: Sequence[Asked]) -> bool:
    """Whether all ask for the same of the same structures."""
    return len({_what(fit, request) for fit, request in asked}) == 1 and not any(
        set(SECOND) & {*fit.required, *fit.compared} for fit, _ in asked
    )


def _what(fit: Fit, request: Gradient | Prediction) -> tuple[Any, ...]:
    if isinstance(request, Prediction):
        return (Prediction, id(request.batch), *fit.compared)
    by_term = isinstance(fit.loss.weighting, GradientWeighting)
    return (Gradient, by_term, *map(id, request.parts), *fit.required)


def _begun_again(asked: Sequence[Asked]) -> Sequence[Asked]:
    """The same requests, as if nothing had been computed for them."""
    for fit, request in asked:
        if isinstance(request, Gradient):
            fit.guard.undo()
            fit.optimizer.zero_grad()
    return asked


def _or_error(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return error


def _compiled(potential: Potential, backend: str) -> Callable[..., Predictions]:
    """A function of weights and structures."""
    shell: nn.Module = copy.deepcopy(potential)

    def predict(
        state: dict[str, Any], batch: Batch, properties: Sequence[str], training: bool
    ) -> Predictions:
        return functional_call(shell, state, (batch, properties), {"training": training})

    return torch.compile(predict, fullgraph=True, dynamic=True, backend=backend)
