"""A mean for each structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from pesloss.losses.batch import flat_rows
from pesloss.losses.reductions.base import Entries, Reduction, mean
from pesloss.names import unknown


class PerStructure(Reduction):
    """Mean within each structure, then over structures: every structure counts the same.

    Args:
        denominator: which structures count: ``labelled``, those with a label; ``structures``, all of them, as
            in codes where one without a label contributes 0; ``nonzero``, those whose mean is not 0.

    Raises:
        ValueError: for an unknown denominator.
    """

    words: ClassVar[Mapping[str, str]] = {
        "labelled": "labelled structures",
        "structures": "all structures, labelled or not",
        "nonzero": "structures where it is not 0",
    }

    def __init__(self, denominator: str = "labelled") -> None:
        super().__init__()
        if denominator not in self.words:
            raise ValueError(unknown("denominator", denominator, self.words))
        self.denominator = denominator
        self.by_value = denominator == "nonzero"
        self.explicit = not self.by_value
        self.is_mean, self.linear, self.channels = not self.by_value, not self.by_value, 1 + self.by_value

    def forward(self, costs: Tensor, entries: Entries) -> Tensor:
        means = mean(entries.by_structure(costs), entries.labels_by_structure)
        sums = means.sum().reshape(1)
        return torch.cat([sums, (means.detach() != 0).sum().reshape(1)]) if self.by_value else sums

    def by_row(self, costs: Tensor, entries: Entries) -> Tensor:
        rows = flat_rows(costs).sum(1) * self.factors(entries).to(costs.dtype)
        return pad(rows[:, None], (0, self.channels - 1))

    def factors(self, entries: Entries) -> Tensor:
        labels = entries.labels_by_structure
        return (1 / labels.double().clamp(min=1))[entries.structures(entries.labelled.shape[0])]

    def count(self, entries: Entries) -> Tensor:
        if self.denominator == "structures":
            return torch.ones_like(entries.labels_by_structure).sum().reshape(1)
        return entries.labels_by_structure.count_nonzero().expand(self.channels)

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return mean(sums[:1], sums[1:].detach() if self.by_value else counts).sum()

    def formula(self, cost: str) -> str:
        return (
            f"mean over {self.words[self.denominator]} of the mean over their labelled components of {cost}"
        )

    def extra_repr(self) -> str:
        return "" if self.denominator == "labelled" else f"denominator={self.denominator}"
