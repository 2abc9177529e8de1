"""All components of all rows in one sum."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from pesloss.losses.batch import atom_counts, flat_rows, spread_rows
from pesloss.losses.properties import Property
from pesloss.losses.reductions.base import Entries, Reduction, mean
from pesloss.names import unknown

DENOMINATORS = ("labels", "labelled", "weights", "entries", "atoms")


class Pooled(Reduction, ABC):
    """All components of all rows in one sum.

    Args:
        denominator: what the count is. ``labels``: the components with a label and a weight that is not 0;
            ``labelled``: those of weight 0 as well; ``weights``: the sum of their weights; ``atoms``: the
            number of atoms of the structure, summed over the components that count (structures only);
            ``entries``: all components, labelled or not, as in codes that fill missing labels with zeros
            (it makes the term weaker the more labels are missing).

    Raises:
        ValueError: for an unknown denominator, or ``atoms`` for a property that is not of structures.
    """

    words: ClassVar[Mapping[str, str]] = {
        "labels": "labelled components",
        "labelled": "labelled components, those of weight 0 too",
        "weights": "labelled components, over the sum of their weights",
        "entries": "all components, labelled or not",
        "atoms": "labelled structures, over the number of their atoms",
    }

    explicit = True

    def __init__(self, denominator: str = "labels") -> None:
        super().__init__()
        if denominator not in DENOMINATORS:
            raise ValueError(unknown("denominator", denominator, DENOMINATORS))
        self.denominator = denominator

    def check(self, prop: Property) -> None:
        if self.denominator == "atoms" and prop.rows != "structure":
            raise ValueError(f"Denominator 'atoms' is of structures, but '{prop.name}' is of {prop.rows}s.")

    def forward(self, costs: Tensor, entries: Entries) -> Tensor:
        return costs.sum().reshape(1)

    def by_row(self, costs: Tensor, entries: Entries) -> Tensor:
        return flat_rows(costs).sum(1, keepdim=True)

    def count(self, entries: Entries) -> Tensor:
        if self.denominator == "weights" and entries.weights is not None:
            return torch.where(entries.included, entries.weights, 0).sum(dtype=torch.float64).reshape(1)
        if self.denominator == "entries":
            return torch.ones_like(entries.labelled).count_nonzero().reshape(1)
        if self.denominator == "labelled":
            return entries.labelled.count_nonzero().reshape(1)
        if self.denominator == "atoms":
            atoms = spread_rows(atom_counts(entries.batch), entries.included.dim() - 1)
            return (entries.included * atoms).sum().reshape(1)
        return entries.labels.reshape(1)

    def extra_repr(self) -> str:
        return "" if self.denominator == "labels" else f"denominator={self.denominator}"


class Mean(Pooled):
    r"""Weighted mean over the components that count, Σ w·cost / n.

    See :class:`Pooled` for n.
    """

    is_mean = True

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return mean(sums, counts).sum()

    def formula(self, cost: str) -> str:
        return f"mean over {self.words[self.denominator]} of {cost}"


class Sum(Pooled):
    """Sum over the components that count, in the whole optimizer step."""

    def __init__(self) -> None:
        super().__init__()

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return sums.sum()

    def formula(self, cost: str) -> str:
        return f"sum over {self.words[self.denominator]} of {cost}"


class RootMean(Pooled):
    r"""Root of the mean cost; of squared errors, the RMSE.

    .. math:: \sqrt{\textstyle\sum_i w_i c_i / n}

    The gradient at a mean of zero is zero, where :math:`1/\sqrt0` would make it NaN.
    Not linear in the batch: an accumulated step needs the predictions of all its batches.
    """

    linear = False

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        value = mean(sums, counts).sum()
        positive = value > 0
        return torch.where(positive, torch.where(positive, value, 1).sqrt(), value.detach())

    def slope(self, sums: Tensor, counts: Tensor) -> Tensor:
        product = sums * counts
        return torch.where(product > 0, 0.5 * torch.where(product > 0, product, 1).rsqrt(), 0)

    def formula(self, cost: str) -> str:
        return f"root of the mean over {self.words[self.denominator]} of {cost}"
