"""From costs to a sum and a count. Means do not add up over batches and ranks; sums and counts do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from pesloss.losses.batch import (
    Batch,
    Channels,
    flat_rows,
    num_structures,
    structure_of_atom,
    sum_over_atoms,
)
from pesloss.losses.properties import Rows
from pesloss.names import unknown

DENOMINATORS = ("labels", "weights", "entries")


@dataclass
class Entries:
    """Which costs of a term count, and how much.

    Args:
        included: the entries that count, in the shape of the costs.
        weights: their weights, broadcastable to the costs; ``None`` for ones.
        rows: whether a row is a structure or an atom.
        batch: the structures they belong to.
    """

    included: Bool[Tensor, "rows *cost"]
    weights: Float[Tensor, "#rows *weight"] | None
    rows: Rows
    batch: Batch
    _labels: Tensor | None = None
    _labels_by_structure: Tensor | None = None

    @property
    def labels(self) -> Int[Tensor, ""]:
        """How many entries count."""
        if self._labels is None:  # functools.cached_property holds a lock, which no compiler can trace
            self._labels = self.included.count_nonzero()
        return self._labels

    @property
    def labels_by_structure(self) -> Int[Tensor, "structures"]:
        """How many entries count in each structure."""
        if self._labels_by_structure is None:
            self._labels_by_structure = self.by_structure(self.included.long())
        return self._labels_by_structure

    def by_structure(self, values: Num[Tensor, "rows *cost"]) -> Num[Tensor, "structures"]:
        """Sums of entries over each structure."""
        per_row = flat_rows(values).sum(1)
        if self.rows == "structure":
            return per_row
        index = structure_of_atom(self.batch, per_row.shape[0])
        return sum_over_atoms(per_row, index, num_structures(self.batch))


class Reduction(nn.Module, ABC):
    """Sum and count of the costs of a term, both additive over batches, and the value they make.

    ``linear`` says whether the value of a whole step is the sum of what its batches contribute, ``is_mean``
    whether it is the sum over the count and nothing else.
    """

    linear: ClassVar[bool] = True
    is_mean: ClassVar[bool] = False

    @abstractmethod
    def forward(self, costs: Float[Tensor, "rows *cost"], entries: Entries) -> Float[Tensor, "channels"]:
        """Sum of the weighted costs; costs that do not count are zero."""

    @abstractmethod
    def count(self, entries: Entries) -> Num[Tensor, "channels"]:
        """What the sum is divided by."""

    @abstractmethod
    def value(self, sums: Channels, counts: Channels) -> Float[Tensor, ""]:
        """Value of the term; 0 if nothing counted."""

    def slope(self, sums: Channels, counts: Channels) -> Channels:
        """Derivative of the value with respect to the sum, for reductions that are not linear."""
        raise NotImplementedError


class Pooled(Reduction, ABC):
    """All components of all rows in one sum.

    Args:
        denominator: what the count is. ``labels``: the components with a label and a weight that is not 0;
            ``weights``: the sum of their weights; ``entries``: all components, labelled or not, as in
            codes that fill missing labels with zeros (it makes the term weaker the more labels are missing).

    Raises:
        ValueError: for an unknown denominator.
    """

    def __init__(self, denominator: str = "labels") -> None:
        super().__init__()
        if denominator not in DENOMINATORS:
            raise ValueError(unknown("denominator", denominator, DENOMINATORS))
        self.denominator = denominator

    def forward(self, costs: Tensor, entries: Entries) -> Tensor:
        return costs.sum().reshape(1)

    def count(self, entries: Entries) -> Tensor:
        if self.denominator == "weights" and entries.weights is not None:
            return torch.where(entries.included, entries.weights, 0).sum(dtype=torch.float64).reshape(1)
        if self.denominator == "entries":
            return torch.ones_like(entries.included).count_nonzero().reshape(1)
        return entries.labels.reshape(1)

    def extra_repr(self) -> str:
        return "" if self.denominator == "labels" else f"denominator={self.denominator}"


class Mean(Pooled):
    r"""Weighted mean over the components that count, Σ w·cost / n.

    See :class:`Pooled` for n.
    """

    is_mean: ClassVar[bool] = True

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return mean(sums, counts).sum()


class Sum(Pooled):
    """Sum over the components that count, in the whole optimizer step."""

    def __init__(self) -> None:
        super().__init__()

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return sums.sum()


class RootMean(Pooled):
    r"""Root of the mean cost; of squared errors, the RMSE.

    .. math:: \sqrt{\textstyle\sum_i w_i c_i / n}

    The gradient at a mean of zero is zero, where :math:`1/\sqrt0` would make it NaN.
    Not linear in the batch: an accumulated step needs the predictions of all its batches.
    """

    linear: ClassVar[bool] = False

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        value = mean(sums, counts).sum()
        positive = value > 0
        return torch.where(positive, torch.where(positive, value, 1).sqrt(), value.detach())

    def slope(self, sums: Tensor, counts: Tensor) -> Tensor:
        product = sums * counts
        return torch.where(product > 0, 0.5 * torch.where(product > 0, product, 1).rsqrt(), 0)


class PerStructure(Reduction):
    """Mean within each structure, then over the structures with a label: every structure counts the same."""

    is_mean: ClassVar[bool] = True

    def forward(self, costs: Tensor, entries: Entries) -> Tensor:
        return mean(entries.by_structure(costs), entries.labels_by_structure).sum().reshape(1)

    def count(self, entries: Entries) -> Tensor:
        return entries.labels_by_structure.count_nonzero().reshape(1)

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return mean(sums, counts).sum()


def mean(sums: Float[Tensor, "channels"], counts: Num[Tensor, "channels"]) -> Float[Tensor, "channels"]:
    """Sums over counts, each for itself; 0 where nothing counted."""
    return (sums / (counts + (counts == 0))).to(sums.dtype)


REDUCTIONS = {"mean": Mean, "sum": Sum, "per_structure": PerStructure, "root_mean": RootMean}
