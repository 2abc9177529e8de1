"""Who made the loss NaN: a sentence for the moment it happens, not a cost of every step."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import torch
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, flat_rows, num_structures, structure_of_atom
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
    values = {name: float(value) for name, value in _values(loss, predictions, batch).items()}
    guilty = [name for name, value in values.items() if not isfinite(value)]
    found = [
        f"term '{name}': {what} is not finite in structures {_structures(bad, batch)}"
        for name in guilty
        for what, bad in _suspects(loss.by_name[name], loss.structure_weight, predictions, batch)
        if bool(bad.any())
    ]
    found += [f"loss: value of term '{name}' is {values[name]}" for name in guilty]
    return "; ".join(found) or "every label, prediction and value is finite: look at the weights of the terms"


def _values(loss: TotalLoss, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
    training = loss.training
    loss.eval()  # on this rank alone
    try:
        return loss.evaluate(predictions, batch).values
    finally:
        loss.train(training)


def _suspects(
    term: Term, structure_weight: str, predictions: Predictions, batch: Batch
) -> Iterator[tuple[str, Tensor]]:
    """What could have made the value of a term not finite, and where it is not finite itself."""
    for prop in term.labels.values():
        if prop.name in batch:
            yield f"label of '{prop.name}'", batch[prop.name].isinf()
        for key in (structure_weight, f"{prop.name}_weight", *["atom_weight"] * (prop.rows == "atom")):
            if key in batch:
                yield f"weight '{key}'", ~batch[key].isfinite()
    for name in term.required:
        bad, label = ~predictions[name].isfinite(), batch.get(name)
        # what is predicted beside the label has no label that could be missing
        if label is not None and label.shape == bad.shape:
            bad = bad & ~label.isnan()
        yield f"prediction of '{name}'", bad


def _structures(bad: Tensor, batch: Batch) -> str:
    """Names of the structures that rows belong to, the first five of them."""
    rows = flat_rows(bad).any(1).nonzero().flatten()
    of_atoms = bad.shape[0] != num_structures(batch)
    structures = structure_of_atom(batch, bad.shape[0])[rows] if of_atoms else rows
    names = (batch["index"][structures] if "index" in batch else structures).unique().tolist()
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(str, names[:5])) + more
