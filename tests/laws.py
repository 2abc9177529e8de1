"""Laws that hold for every part, as functions that fail with what broke them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pesloss.losses import TotalLoss
from tests.batches import parameters, predict

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def gradients(total: Tensor, loss: TotalLoss, theta: Mapping[str, Tensor]) -> list[Tensor]:
    """Gradients of a total with respect to the model and to what the loss learns; zero where not connected."""
    inputs = [*theta.values(), *loss.parameters()]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


def value_and_gradients(loss: TotalLoss, batch: dict[str, Tensor]) -> list[Tensor]:
    """Total and all gradients of one batch."""
    theta = parameters()
    total = loss(predict(theta, batch), batch)
    return [total.detach(), *gradients(total, loss, theta)]


def accumulated(loss: TotalLoss, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    """Total and all gradients of an optimizer step over several batches."""
    theta = parameters()
    predictions = None if loss.linear else [predict(theta, batch) for batch in batches]
    step = loss.step(batches, predictions)
    sums: list[Tensor] = []
    for batch in batches:
        total = loss(predict(theta, batch), batch, step)
        parts = [total.detach(), *gradients(total, loss, theta)]
        sums = parts if not sums else [a + b for a, b in zip(sums, parts, strict=True)]
    return sums


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """Equal to 1e-12, every gradient too."""
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def assert_finite(values: list[Tensor]) -> None:
    assert all(bool(value.isfinite().all()) for value in values)
