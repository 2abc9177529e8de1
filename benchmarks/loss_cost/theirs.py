"""Losses of other projects, run by a Python that has the project: see ``ours``.

A comparison of ``tests.parity`` builds a loss and its batch before it calls the loss. Here the call alone is
timed: its arguments are recorded once, and the loss is called with them again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import replace
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.loss_cost.clock import main, single
from benchmarks.loss_cost.minima import Run
from benchmarks.loss_cost.originals import ORIGINALS, Original
from tests.parity.cases import Case
from tests.parity.drawing import Drawn


class Call(NamedTuple):
    """A recorded call."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        return self.function(*self.args, **self.kwargs)


def recorded(original: Original, case: Case, drawn: Drawn) -> tuple[float, list[Call]]:
    """Total of a comparison and the calls it made of the project's loss."""
    case.original(case.drawing.draw(0))  # some import their project there, beside stand-ins
    module, _, path = original.call.partition(":")
    *outer, name = path.split(".")
    owner = importlib.import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), []

    def record(*args: Any, **kwargs: Any) -> Any:
        calls.append(Call(function, args, kwargs))
        return function(*args, **kwargs)

    with patch.object(owner, name, record):
        total = float(case.original(drawn).detach().sum())
    if not calls:
        raise LookupError(f"{case.project} {case.name} makes no call of {original.call}.")
    return total, calls


def inside(value: Any) -> Iterator[Any]:
    """What an argument of a loss holds that may lead to predictions."""
    if isinstance(value, nn.Module):  # a whole model, whose output was replaced
        yield getattr(value.forward, "__func__", value.forward)
    elif isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or ())
    elif isinstance(value, MutableMapping):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (Drawn, SimpleNamespace)):
        yield from vars(value).values()
    elif hasattr(value, "blocks"):  # metatensor's maps
        for block in value.blocks():
            yield block.values
            yield from (gradient.values for _, gradient in block.gradients())


def in_single(value: Any) -> None:
    """Weights, masks and models that a comparison made in float64 become float32, in their places."""
    if isinstance(value, nn.Module):
        value.float()
    elif isinstance(value, MutableMapping):
        value.update({key: single(entry) for key, entry in value.items() if isinstance(entry, Tensor)})
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            if isinstance(cell.cell_contents, Tensor):
                cell.cell_contents = single(cell.cell_contents)
    if not isinstance(value, Tensor):
        for part in inside(value):
            in_single(part)


def differentiated(value: Any) -> Iterator[Tensor]:
    """Predictions among the arguments."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield value
        return
    for part in inside(value):
        yield from differentiated(part)


def make(case: Case, drawn: Drawn) -> tuple[float, Run]:
    original = next(o for o in ORIGINALS if (o.project, o.case) == (case.project, case.name))
    if original.double:
        drawn = replace(case.drawing, sizes=drawn.num_atoms.tolist()).draw(0)
    total, calls = recorded(original, case, drawn)
    for call in calls:
        in_single([call.args, call.kwargs])
    inputs = list({id(t): t for call in calls for t in differentiated([call.args, call.kwargs])}.values())
    if len(inputs) < len(drawn.predictions):
        raise LookupError(f"{case.project} {case.name}: {len(inputs)} predictions among the arguments.")

    def run() -> object:
        outputs = [part for call in calls for part in original.totals(call())]
        return torch.autograd.grad(outputs, inputs, allow_unused=True)

    return total, run


if __name__ == "__main__":
    main(make)
