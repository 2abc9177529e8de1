"""Who made the loss NaN: names for the moment it happens, not a cost of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, flat_rows, num_atoms, num_structures, structure_of_row
from pesloss.losses.terms.base import Term
from pesloss.losses.total import TotalLoss

Kind: TypeAlias = Literal["label", "weight", "prediction", "value", "parameter", "gradient"]

MOST = 5
"""Names of a kind that a sentence tells."""


@dataclass(frozen=True)
class Culprit:
    """One thing that is NaN or infinite.

    Args:
        kind: what it is; ``value`` is that of a whole term, ``gradient`` that of a term by parameters.
        names: of the property, the entry of the batch with weights, or the parameters; of a value, the value.
        term: whose it is; ``None`` for parameters, which are of no term.
        structures: ``index`` of those it is found in, else their place in the batch; empty if nobody knows.
            Of a value, those that make it so although their label, weight and prediction are finite.
    """

    kind: Kind
    names: tuple[str, ...]
    term: str | None = None
    structures: tuple[int, ...] = ()

    def sentence(self, name_of: Callable[[int], str] | None = None) -> str:
        """The same in words.

        Args:
            name_of: from a structure to its name.
        """
        of = f"term '{self.term}': " if self.term is not None else ""
        names = list(map(name_of or str, self.structures))
        where = f" in {'' if name_of else 'structures '}{first(names)}" if names else ""
        return f"{of}{self._what()}{where}"

    def __str__(self) -> str:
        return self.sentence()

    def _what(self) -> str:
        if self.kind == "value":
            return f"value is {self.names[0]}"
        shown = first([f"'{name}'" for name in self.names])
        between = " " if self.kind in ("weight", "parameter") else " of "
        return f"{self.kind}{between}{shown} is not finite"


def first(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are.

    Example:
        >>> first(["a", "b", "c", "d", "e", "f", "g"])
        'a, b, c, d, e and 2 more'
    """
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def explain_nonfinite(loss: TotalLoss, predictions: Predictions, batch: Batch) -> str:
    """Says which term, which structures, and whether label, prediction, weight or cost is not finite.

    Waits for the device, so it belongs after the total has been found to be NaN or infinite.

    Args:
        loss: the loss.
        predictions: what the model said.
        batch: the structures; their ``index`` names them, else their place in the batch.
    """
    found = map(str, find_nonfinite(loss, predictions, batch))
    return "; ".join(found) or "every label, prediction and value is finite: look at the weights of the terms"


@torch.no_grad()
def find_nonfinite(loss: TotalLoss, predictions: Predictions, batch: Batch) -> tuple[Culprit, ...]:
    """The same as data: what makes a value NaN or infinite, and the value itself; nothing if all is finite.

    Args:
        loss: the loss.
        predictions: what the model said.
        batch: the structures.
    """
    values = {name: float(value) for name, value in _values(loss, predictions, batch).items()}
    guilty = [name for name, value in values.items() if not isfinite(value)]
    found = [
        Culprit(kind, (name,), term, _structures(bad, batch))
        for term in guilty
        for kind, name, bad in _suspects(loss.by_name[term], loss.structure_weight, predictions, batch)
        if bool(bad.any())
    ]
    unseen = set(guilty) - {culprit.term for culprit in found}
    costs = loss.per_structure(predictions, batch).terms if unseen else {}
    overflown = {term: _structures(~cost.isfinite(), batch) for term, cost in costs.items() if term in unseen}
    return (
        *found,
        *(Culprit("value", (f"{values[term]}",), term, overflown.get(term, ())) for term in guilty),
    )


def _values(loss: TotalLoss, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
    training = loss.training
    loss.eval()  # on this rank alone
    try:
        return loss.evaluate(predictions, batch).values
    finally:
        loss.train(training)


def _suspects(
    term: Term, structure_weight: str, predictions: Predictions, batch: Batch
) -> Iterator[tuple[Kind, str, Tensor]]:
    """What could have made the value of a term not finite, and where it is not finite itself."""
    for prop in term.labels.values():
        if prop.name in batch:
            yield "label", prop.name, batch[prop.name].isinf()
        for key in (structure_weight, f"{prop.name}_weight", *["atom_weight"] * (prop.rows == "atom")):
            if key in batch:
                yield "weight", key, ~batch[key].isfinite()
    for name in term.required:
        bad, label = ~predictions[name].isfinite(), batch.get(name)
        # what is predicted beside the label has no label that could be missing
        if label is not None and label.shape == bad.shape:
            bad = bad & ~label.isnan()
        yield "prediction", name, bad


def _structures(bad: Tensor, batch: Batch) -> tuple[int, ...]:
    """Names of the structures that rows belong to."""
    kinds = {num_structures(batch): "structure", num_atoms(batch): "atom"}
    owner = structure_of_row(batch, kinds.get(bad.shape[0], "pair"), bad.shape[0])
    structures = owner[flat_rows(bad).any(1)]
    return tuple((batch["index"][structures] if "index" in batch else structures).unique().tolist())
