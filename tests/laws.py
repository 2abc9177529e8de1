"""Laws that hold for every part, as functions that fail with what broke them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pesloss.losses import Step, TotalLoss
from tests.batches import parameters, predict

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def gradients(total: Tensor, loss: TotalLoss, theta: Mapping[str, Tensor]) -> list[Tensor]:
    """Gradients of a total with respect to the model and what the loss learns; zero where not connected."""
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


def leaves(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Predictions of a batch as variables of their own, to see the gradient of every entry."""
    return {name: p.detach().requires_grad_() for name, p in predict(parameters(), batch).items()}


def forward(
    loss: TotalLoss, predictions: dict[str, Tensor], batch: dict[str, Tensor], step: Step | None = None
) -> list[Tensor]:
    """Total, then the gradient of every prediction and of what the loss learns."""
    total = loss(predictions, batch, step)
    return [total.detach(), *gradients(total, loss, predictions)]


def whole_step(loss: TotalLoss, batches: list[dict[str, Tensor]]) -> Step:
    """Denominators of a step, with predictions where the loss needs them."""
    return loss.step(batches, None if loss.linear else [leaves(batch) for batch in batches])


def without_labels(batch: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    """The batch with every label of some properties missing."""
    return {key: torch.full_like(value, torch.nan) if key in names else value for key, value in batch.items()}


class HostSynchronisations(TorchDispatchMode):
    """Names of the operations that would make a host wait for its device, or make shapes depend on data."""

    WAITING = (
        "_local_scalar_dense",
        "item",
        "nonzero",
        "masked_select",
        "unique",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "repeat_interleave",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        waits = name in self.WAITING and kwargs.get("output_size") is None
        if waits or (name.startswith(("index", "_index")) and _by_mask(args)):
            self.found.append(name)
        return func(*args, **kwargs)


def _by_mask(args: tuple[Any, ...]) -> bool:
    indices = [index for arg in args if isinstance(arg, (list, tuple)) for index in arg]
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
