"""How many entries of a term count, how much, and how many of them a Huber penalty takes for outliers."""

from __future__ import annotations

import torch

from pesloss.losses import Batch, Predictions
from pesloss.losses.batch import over_entries
from pesloss.losses.terms.base import Term, compute_dtype
from pesloss.losses.terms.labelled import LabelledTerm
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated


def counts(term: Term, predictions: Predictions, batch: Batch) -> list[float]:
    """Labelled components that count, sum of their weights, and how many residuals lie in a linear zone.

    The last of the four is how many could; 0 for terms without such a zone.
    """
    if isinstance(term, Restated):
        made = {**predictions, term.term.property.name: term.prediction(predictions, batch)}
        return counts(term.term, made, term.labelled(batch, predictions))
    if not isinstance(term, LabelledTerm):
        labels = float(term.count(batch).labels)
        return [labels, labels, 0.0, 0.0]
    entries = term.entries_of(term.label_of(batch), batch)
    weights = entries.included if entries.weights is None else entries.included * entries.weights
    labels = float(term.count(batch).labels)
    mean = float(weights.sum()) / max(float(entries.labels), 1.0)
    zone = _beyond(term, predictions, batch) if isinstance(term, PropertyTerm) else None
    return [labels, labels * mean, *(zone or (0.0, 0.0))]


def _beyond(term: PropertyTerm, predictions: Predictions, batch: Batch) -> tuple[float, float] | None:
    """How many residuals lie where the penalty is linear, and of how many."""
    prediction = term.predicted(predictions, batch)
    label = term.label_of(batch, prediction)
    entries, dtype = term.entries_of(label, batch), compute_dtype(prediction, label)
    residual = term.residual(prediction.to(dtype), label.to(dtype), batch)
    if term.weight_inside and entries.weights is not None:
        residual = residual * over_entries(entries.weights.to(dtype), len(term.entry))
    beyond = term.penalty.linear_share(residual, torch.where(label.isnan(), 0, label.to(dtype)))
    if beyond is None:
        return None
    return float((beyond & entries.included).sum()), float(entries.included.sum())
