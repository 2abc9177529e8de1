"""Losses written by hand, the least that eager torch does: means of squares of a batch. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

Run = Callable[[], object]
Values = Mapping[str, Tensor]


class Labels(NamedTuple):
    """Labels as a loss written by hand takes them.

    Args:
        complete: labels by property, zero where they are missing.
        missing: labels by property, NaN in a fifth of the rows.
        num_atoms: of each structure, as numbers to divide by.
        batch: structure of each atom.
        weight: of each structure.
        rows: the same for each row of a property, computed beforehand.
    """

    complete: Values
    missing: Values
    num_atoms: Tensor
    batch: Tensor
    weight: Tensor
    rows: Values


def labels_of(names: list[str], batch: Values) -> Labels:
    """Labels and weights of a batch; which rows lack a label is drawn."""
    weight, ptr = batch["weight"], batch["ptr"]
    complete = {name: batch[name].nan_to_num(nan=0.0) for name in names}
    missing = {name: some_missing(value) for name, value in complete.items()}
    per_atom = weight[batch["batch"]]
    rows = {
        name: (weight if len(value) == len(weight) else per_atom).reshape(-1, *[1] * (value.dim() - 1))
        for name, value in complete.items()
    }
    return Labels(complete, missing, ptr.diff().to(weight.dtype), batch["batch"], weight, rows)


def some_missing(label: Tensor, share: float = 0.2) -> Tensor:
    """The label, NaN in a share of its rows."""
    chosen = torch.rand(len(label), device=label.device) < share
    return label.masked_fill(chosen.reshape(-1, *[1] * (label.dim() - 1)), torch.nan)


def plain(predictions: Values, labels: Labels) -> Tensor:
    """Neither weights nor missing labels: fused means of squares."""
    parts = []
    for name, prediction in predictions.items():
        label = labels.complete[name]
        if name == "energy":
            prediction, label = prediction / labels.num_atoms, label / labels.num_atoms
        parts.append(mse_loss(prediction, label))
    return _added(parts)


def weighted(predictions: Values, labels: Labels) -> Tensor:
    """With weights of structures, which were spread over the atoms beforehand."""
    parts = []
    for name, prediction in predictions.items():
        residual = prediction - labels.complete[name]
        if name == "energy":
            residual = residual / labels.num_atoms
        parts.append((labels.rows[name] * residual.square()).mean())
    return _added(parts)


def substituted(predictions: Values, labels: Labels) -> Tensor:
    """With weights and missing labels: a missing one becomes the prediction itself."""
    parts = []
    for name, prediction in predictions.items():
        label, rows = labels.missing[name], labels.weight
        if len(label) != len(rows):
            rows = rows[labels.batch]
        known = ~label.isnan()
        residual = prediction - torch.where(known, label, prediction.detach())
        if name == "energy":
            residual = residual / labels.num_atoms
        rows = rows.reshape(-1, *[1] * (label.dim() - 1))
        parts.append((rows * residual.square()).sum() / known.sum())
    return _added(parts)


def indexed(predictions: Values, labels: Labels) -> Tensor:
    """Missing labels by boolean indexing, as most codes do, without weights."""
    parts = []
    for name, prediction in predictions.items():
        label = labels.missing[name]
        known = ~label.isnan()
        if name == "energy":
            prediction, label = prediction / labels.num_atoms, label / labels.num_atoms
        parts.append(mse_loss(prediction[known], label[known]))
    return _added(parts)


MINIMA: Mapping[str, Callable[[Values, Labels], Tensor]] = {
    "plain": plain,
    "weighted": weighted,
    "weighted, 20 % missing": substituted,
}


def minima(predictions: Values, batch: Values) -> dict[str, Run]:
    """Forward and gradient of each, to be timed beside a loss of the same predictions."""
    labels = labels_of(list(predictions), batch)
    return {
        name: gradient(lambda loss=loss: loss(predictions, labels), predictions)
        for name, loss in MINIMA.items()
    }


def gradient(loss: Callable[[], Tensor], predictions: Values) -> Run:
    """A loss and its gradient with respect to predictions."""
    inputs = list(predictions.values())
    return lambda: torch.autograd.grad(loss(), inputs, allow_unused=True)


def _added(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
