"""What every reduction answers: a sum and a count of costs, and the value they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from pesloss.losses.batch import (
    Batch,
    Channels,
    flat_rows,
    num_structures,
    structure_of_row,
    sum_over_atoms,
)
from pesloss.losses.properties import Property, Rows


@dataclass
class Entries:
    """Which costs of a term count, and how much.

    Args:
        labelled: the entries with a label that the mask lets through, in the shape of the costs.
        weights: their weights, broadcastable to the costs; ``None`` for ones.
        rows: what a row is.
        batch: the structures they belong to.
    """

    labelled: Bool[Tensor, "rows *cost"]
    weights: Float[Tensor, "#rows *weight"] | None
    rows: Rows
    batch: Batch
    _included: Tensor | None = None
    _labels: Tensor | None = None
    _labels_by_structure: Tensor | None = None

    # functools.cached_property holds a lock, which no compiler can trace
    @property
    def included(self) -> Bool[Tensor, "rows *cost"]:
        """The entries that count: those with a label and a weight that is not 0."""
        if self._included is None:
            self._included = self.labelled if self.weights is None else self.labelled & (self.weights != 0)
        return self._included

    @property
    def labels(self) -> Int[Tensor, ""]:
        """How many entries count."""
        if self._labels is None:
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
        return sum_over_atoms(per_row, self.structures(per_row.shape[0]), num_structures(self.batch))

    def structures(self, num: int) -> Int[Tensor, "rows"]:
        """Structure of each of so many rows."""
        return structure_of_row(self.batch, self.rows, num)


class Reduction(nn.Module, ABC):
    """Sum and count of the costs of a term, both additive over batches, and the value they make.

    ``linear`` says whether the value of a whole step is the sum of what its batches contribute, ``is_mean``
    whether it is the sum over the count and nothing else, ``explicit`` whether its one sum is that of costs
    times :meth:`factors`. ``channels`` is how many sums and counts there are.
    """

    linear: bool = True
    is_mean: bool = False
    explicit: bool = False
    channels: int = 1

    def check(self, prop: Property) -> None:
        """Say whether costs of a property can be reduced so.

        Raises:
            ValueError: if they cannot.
        """

    @abstractmethod
    def forward(self, costs: Float[Tensor, "rows *cost"], entries: Entries) -> Float[Tensor, "channels"]:
        """Sum of the weighted costs; costs that do not count are zero."""

    @abstractmethod
    def by_row(self, costs: Float[Tensor, "rows *cost"], entries: Entries) -> Float[Tensor, "rows channels"]:
        """What each row adds to the sums of costs; 0 to those that only count."""

    @abstractmethod
    def count(self, entries: Entries) -> Num[Tensor, "channels"]:
        """What the sum is divided by."""

    @abstractmethod
    def value(self, sums: Channels, counts: Channels) -> Float[Tensor, ""]:
        """Value of the term; 0 if nothing counted."""

    def slope(self, sums: Channels, counts: Channels) -> Channels:
        """Derivative of the value with respect to the sum."""
        if self.is_mean:
            return mean(torch.ones_like(sums), counts)
        return torch.func.grad(self.value)(sums, counts)

    def factors(self, entries: Entries) -> Float[Tensor, "rows"] | None:
        """What each row's costs enter the sum with, for reductions that are ``explicit``; ``None`` for 1."""
        return None

    @abstractmethod
    def formula(self, cost: str) -> str:
        """The value in words and symbols, ``cost`` being the weighted cost of an entry."""


def mean(sums: Float[Tensor, "channels"], counts: Num[Tensor, "channels"]) -> Float[Tensor, "channels"]:
    """Sums over counts, each for itself; 0 where nothing counted."""
    if not counts.is_floating_point():
        return sums / counts.clamp(min=1)
    return (sums / (counts + (counts == 0))).to(sums.dtype)
