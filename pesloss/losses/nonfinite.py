"""Who made the loss NaN: a sentence for the moment it happens, not a cost of every step."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import torch
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, flat_rows, structure_of_atom
from pesloss.losses.properties import Property
from pesloss.losses.terms.base import Term
from pesloss.losses.total import TotalLoss


@torch.no_grad()
def explain_nonfinite(loss: TotalLoss, predictions: Predictions, batch: Batch) -> str:
    """Says which term, which structures, and whether label, prediction, weight or cost is not finite.

    Waits for the device, so it belongs after the total has been found to be NaN or infinite.

    Args:
        loss: the loss.
        predictions: what the model said.
        batch: the structures; their ``index`` names them, else their place in the batch.
    """
    found = [
        line for name, term in loss.by_name.items() for line in _culprits(name, term, predictions, batch)
    ]
    values = {name: float(value) for name, value in _values(loss, predictions, batch).items()}
    found += [
        f"loss: value of term '{name}' is {value}" for name, value in values.items() if not isfinite(value)
    ]
    return "; ".join(found) or "every label, prediction and value is finite: look at the weights of the terms"


def _values(loss: TotalLoss, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
    training = loss.training
    loss.eval()  # on this rank alone
    try:
        return loss.evaluate(predictions, batch).values
    finally:
        loss.train(training)


def _culprits(name: str, term: Term, predictions: Predictions, batch: Batch) -> Iterator[str]:
    for prop in term.required.values():
        prediction = predictions[prop.name]
        label = batch.get(prop.name, torch.full_like(prediction, float("nan")))
        counted = ~label.isnan()
        yield from _rows(name, "label", prop, label.isinf(), batch)
        yield from _rows(name, "prediction", prop, counted & ~prediction.isfinite(), batch)
        weight = batch.get(f"{prop.name}_weight", label.new_ones(()))
        yield from _rows(name, "weight", prop, ~weight.isfinite(), batch)


def _rows(name: str, what: str, prop: Property, bad: Tensor, batch: Batch) -> Iterator[str]:
    rows = flat_rows(bad).any(1).nonzero().flatten() if bad.dim() else bad.nonzero().flatten()
    if not rows.numel():
        return
    structures = structure_of_atom(batch, bad.shape[0])[rows] if prop.rows == "atom" else rows
    structures = batch["index"][structures] if "index" in batch else structures
    names = structures.unique().tolist()
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    listed = ", ".join(map(str, names[:5]))
    yield f"term '{name}': {what} of '{prop.name}' is not finite in structures {listed}{more}"
