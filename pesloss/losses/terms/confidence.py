"""How wrong a prediction is, predicted: a class of error for each atom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import Batch, Channels, flat_rows
from pesloss.losses.masks import Mask
from pesloss.losses.properties import Property
from pesloss.losses.reductions import Entries, Reduction
from pesloss.losses.terms.base import Counts
from pesloss.losses.terms.scored import ScoredTerm
from pesloss.names import unknown

SPACINGS = ("linear", "exponential")
BEYOND = ("ignore", "last")


class ConfidenceTerm(ScoredTerm):
    r"""Cross-entropy of the class of error that a prediction turns out to have: how far it is to be trusted.

    The error e of a row (of a force: of an atom) is the mean of its components' absolute errors. It lies in
    one of B bins, whose logits x are predicted.

    .. math:: -\ln p_b, \quad p_b = e^{x_b} \Big/ \sum_k e^{x_k}, \qquad
              \text{edge}_b < e \le \text{edge}_{b+1}

    The error is only looked at: the term has no gradient for the property itself.

    Args:
        property: name of the property whose error is predicted, or a :class:`Property` of your own.
        bins: B.
        largest: upper edge of the last bin, in the property's unit.
        spacing: whether the edges are ``linear``, from 0, or ``exponential``.
        smallest: upper edge of no bin, where exponential edges begin; the first bin reaches down to 0.
        beyond: whether larger errors are left out (``ignore``), or count as in the ``last`` bin.
        logits: key of the predicted logits, [rows, B]; ``<property>_confidence`` by default.
        label: key of the label in the batch, if it is not the property's name.
        mask: part or name.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows.

    Raises:
        ValueError: for fewer than two bins, edges that do not rise, and unknown names.

    References:
        J. Jumper et al., Nature 596, 583 (2021), supplement 1.9.6: classes of error as confidence.
    """

    per_row = True

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "forces",
        *,
        bins: int = 50,
        largest: float = 0.3,
        spacing: str = "linear",
        smallest: float = 1e-18,
        beyond: str = "ignore",
        logits: str | None = None,
        label: str | None = None,
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            property, label=label, mask=mask, reduction=reduction, weight=weight, weighted_by=weighted_by
        )
        if beyond not in BEYOND:
            raise ValueError(f"beyond: {unknown('choice', beyond, BEYOND)}")
        self.beyond, self.spacing = beyond, spacing
        self.edges: Tensor
        self.register_buffer("edges", _edges(bins, largest, spacing, smallest), persistent=False)
        name = f"{self.property.name}_confidence" if logits is None else logits
        self.outputs = (self.property, Property(name, self.property.rows, (bins,)))
        if beyond == "ignore":
            # how many are left out is known with the predictions only: a sum beside the others
            self.channels, self.linear, self.is_mean = 2 * self.reduction.channels, False, False

    @property
    def entry(self) -> tuple[int, ...]:
        return ()

    def score(self, predicted: Sequence[Tensor], label: Tensor, batch: Batch) -> Tensor:
        prediction, logits = predicted
        error = _error(prediction, label)
        edges = self.edges.to(error.dtype)
        seen = torch.minimum(error.detach(), edges[-1])[:, None]
        inside = (seen > edges[:-1]) & (seen <= edges[1:])
        # connected to the property with a gradient of zero, and NaN where the error is not finite
        return torch.where(inside, -logits.log_softmax(-1), 0).sum(-1) + 0 * error

    def value(self, sums: Channels, counts: Channels) -> Float[Tensor, ""]:
        if self.beyond == "last":
            return super().value(sums, counts)
        sums, counts = sums.split(self.reduction.channels)
        return self.reduction.value(sums, counts.detach())

    def slope(self, sums: Channels, counts: Channels) -> Channels:
        if self.beyond == "last":
            return super().slope(sums, counts)
        return torch.func.grad(self.value)(sums, counts)

    def formula(self) -> str:
        number, last = len(self.edges) - 1, self.edges[-1].item()
        bins = f"{number} {self.spacing} bins of |Δ{self.property.name}| up to {last:g}"
        beyond = "larger ones left out" if self.beyond == "ignore" else "larger ones in the last"
        said = (
            f"{self.weight_symbol()}(−ln p_b), p = softmax({self.outputs[1].name}), b among {bins}, {beyond}"
        )
        return self.reduction.formula(" ".join(filter(None, [said, self.mask.formula()])))

    def kept(self, prediction: Tensor, label: Tensor, entries: Entries) -> Entries:
        if self.beyond == "last":
            return entries
        error = _error(prediction.detach(), label)
        within = ~((error > self.edges[-1].to(error.dtype)) & error.isfinite())
        return Entries(entries.labelled & within, entries.weights, entries.rows, entries.batch)

    def reduced(self, costs: Tensor, entries: Entries) -> Channels:
        sums = self.reduction(costs, entries)
        if self.beyond == "last":
            return sums
        return torch.cat([sums, self.reduction.count(entries).to(sums.dtype)])

    def _counts(self, entries: Entries) -> Counts:
        counts, labels = super()._counts(entries)
        return Counts(counts.repeat(self.channels // self.reduction.channels), labels)


def _error(prediction: Float[Tensor, "rows *entry"], label: Float[Tensor, "rows *entry"]) -> Tensor:
    return flat_rows((prediction - label).abs()).mean(1)


def _edges(bins: int, largest: float, spacing: str, smallest: float) -> Float[Tensor, "edges"]:
    """Edges of the bins, the lowest one below every error."""
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise ValueError(f"Errors need two bins or more to differ, got bins={bins!r}.")
    if spacing not in SPACINGS:
        raise ValueError(unknown("spacing of bins", spacing, SPACINGS))
    if not 0 < smallest < largest < inf:
        raise ValueError(
            f"Edges rise from smallest > 0 to largest, got smallest={smallest}, largest={largest}."
        )
    if spacing == "linear":
        edges = torch.linspace(0.0, largest, bins + 1, dtype=torch.float64)
    else:
        edges = torch.linspace(log(smallest), log(largest), bins + 1, dtype=torch.float64).exp()
    edges[0] = -inf
    return edges
