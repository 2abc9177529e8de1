"""Labels whose sign is a matter of convention: magnetic moments, known up to a flip of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.arguments import check_arguments
from pesloss.losses.batch import Batch, Channels, Predictions
from pesloss.losses.penalties import QuantileHuber
from pesloss.losses.properties import Property
from pesloss.losses.reductions import Entries
from pesloss.losses.terms.base import Counts, RowSums, Term, compute_dtype
from pesloss.losses.terms.property import PropertyTerm
from pesloss.names import unknown

TOGETHER = ("structure", "batch")


class SignSymmetricTerm(Term):
    r"""Cost of a property against its label or against minus its label, whichever is smaller.

    Without spin-orbit coupling all magnetic moments of a structure may be flipped together; which of the two
    states a calculation ended in says nothing.

    .. math:: \min\Big(\sum_i w_i\, \rho(p_i - l_i),\; \sum_i w_i\, \rho(p_i + l_i)\Big)

    Args:
        property: name of the property, or a :class:`Property` of your own, or its arguments as a mapping.
        by: what is flipped together: the atoms of a ``structure``, each structure for itself; or the whole
            ``batch``, the optimizer step.
        weight: prior weight in the total.
        options: other arguments of a :class:`pesloss.PropertyTerm`.

    Raises:
        ValueError: for an unknown ``by``, and for a penalty that follows the residuals of one sign.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "magnetic_moments",
        *,
        by: str = "structure",
        weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(weight)
        if by not in TOGETHER:
            raise ValueError(f"by: {unknown('choice', by, TOGETHER)}")
        check_arguments(PropertyTerm, {"property": property, **options}, "a sign-symmetric term")
        self.by, self.term = by, PropertyTerm(property, **options)
        if isinstance(self.term.penalty, QuantileHuber):
            raise ValueError("Penalty 'quantile_huber' follows residuals, of which there are two kinds here.")
        self.needs_fit = self.term.needs_fit
        self.linear, self.is_mean, self.channels = self.term.linear, self.term.is_mean, self.term.channels
        if by == "batch":
            self.linear, self.is_mean, self.channels = False, False, 2 * self.term.channels

    @property
    def required(self) -> Mapping[str, Property]:
        return self.term.required

    @property
    def labels(self) -> Mapping[str, Property]:
        return self.term.labels

    def forward(self, predictions: Predictions, batch: Batch) -> Channels:
        costs, entries = self._costs(predictions, batch)
        return torch.cat([self.term.reduction(each, entries) for each in costs])

    def by_row(self, predictions: Predictions, batch: Batch) -> RowSums:
        costs, entries = self._costs(predictions, batch)
        sums = torch.cat([self.term.reduction(each, entries) for each in costs])
        rows = torch.cat([self.term.reduction.by_row(each, entries) for each in costs], dim=1)
        return RowSums(sums, rows, entries.structures(rows.shape[0]))

    def _costs(self, predictions: Predictions, batch: Batch) -> tuple[list[Tensor], Entries]:
        """Costs of every entry, for each of the sums."""
        prediction = self.term.predicted(predictions, batch)
        label = self.term.label_of(batch, prediction)
        entries = self.term.entries_of(label, batch)
        dtype = compute_dtype(prediction, label)
        prediction, label = prediction.to(dtype), label.to(dtype)
        plain, flipped = (self.term.costs(prediction, sign * label, entries, predictions) for sign in (1, -1))
        return [plain, flipped] if self.by == "batch" else [_smaller(plain, flipped, entries)], entries

    def count(self, batch: Batch) -> Counts:
        counts, labels = self.term.count(batch)
        return Counts(counts.repeat(self.channels // self.term.channels), labels)

    def value(self, sums: Channels, counts: Channels) -> Float[Tensor, ""]:
        if self.by == "structure":
            return self.term.value(sums, counts)
        channels = self.term.channels
        plain, flipped = map(self.term.value, sums.split(channels), counts.split(channels))
        return torch.where(flipped < plain, flipped, plain)

    def slope(self, sums: Channels, counts: Channels) -> Channels:
        if self.by == "structure":
            return self.term.slope(sums, counts)
        return torch.func.grad(self.value)(sums, counts)

    def fit(self, batch: Batch) -> None:
        self.term.fit(batch)

    def fitted(self) -> None:
        self.term.fitted()

    def formula(self) -> str:
        what = "each structure" if self.by == "structure" else "the whole step"
        return f"{self.term.formula()}, with the sign of the label in {what} that makes it smaller"

    def extra_repr(self) -> str:
        return f"by={self.by}, weight={self.weight}"


def _smaller(plain: Tensor, flipped: Tensor, entries: Entries) -> Tensor:
    """Costs of the sign that makes the sum over their structure smaller."""
    with torch.no_grad():
        better = entries.by_structure(flipped) < entries.by_structure(plain)
        chosen = better[entries.structures(plain.shape[0])]
    return torch.where(chosen.reshape(-1, *[1] * (plain.dim() - 1)), flipped, plain)
