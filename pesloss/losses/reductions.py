"""From costs to a sum and a count. Means do not add up over batches and ranks; sums and counts do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from pesloss.losses.batch import (
    Batch,
    Channels,
    atom_counts,
    flat_rows,
    group_code,
    num_structures,
    spread_rows,
    structure_of_row,
    sum_over_atoms,
)
from pesloss.losses.elements import atomic_number
from pesloss.losses.properties import Property, Rows
from pesloss.names import unknown

DENOMINATORS = ("labels", "labelled", "weights", "entries", "atoms")


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
    def count(self, entries: Entries) -> Num[Tensor, "channels"]:
        """What the sum is divided by."""

    @abstractmethod
    def value(self, sums: Channels, counts: Channels) -> Float[Tensor, ""]:
        """Value of the term; 0 if nothing counted."""

    def slope(self, sums: Channels, counts: Channels) -> Channels:
        """Derivative of the value with respect to the sum, for reductions that are not linear."""
        raise NotImplementedError

    def factors(self, entries: Entries) -> Float[Tensor, "rows"] | None:
        """What each row's costs enter the sum with, for reductions that are ``explicit``; ``None`` for 1."""
        return None

    @abstractmethod
    def formula(self, cost: str) -> str:
        """The value in words and symbols, ``cost`` being the weighted cost of an entry."""


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
            raise ValueError(f"Denominator 'atoms' is of structures, but '{prop.name}' is one a {prop.rows}.")

    def forward(self, costs: Tensor, entries: Entries) -> Tensor:
        return costs.sum().reshape(1)

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

    def factors(self, entries: Entries) -> Tensor:
        labels = entries.labels_by_structure
        return (1 / torch.where(labels > 0, labels, 1))[entries.structures(entries.labelled.shape[0])]

    def count(self, entries: Entries) -> Tensor:
        if self.denominator == "structures":
            return torch.ones_like(entries.labels_by_structure).sum().reshape(1)
        return entries.labels_by_structure.count_nonzero().expand(self.channels)

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return mean(sums[:1], sums[1:].detach() if self.by_value else counts).sum()

    def slope(self, sums: Tensor, counts: Tensor) -> Tensor:
        return torch.stack([1 / sums[1].clamp(min=1), torch.zeros_like(sums[1])])

    def formula(self, cost: str) -> str:
        return (
            f"mean over {self.words[self.denominator]} of the mean over their labelled components of {cost}"
        )

    def extra_repr(self) -> str:
        return "" if self.denominator == "labelled" else f"denominator={self.denominator}"


class Grouped(Reduction, ABC):
    r"""A mean for each group, then the mean of these: a rare group counts as much as a common one.

    .. math:: \sum_g c_g M_g \Big/ \sum_{g\ \text{present}} c_g, \qquad
              M_g = \frac{1}{n_g} \sum_{i \in g} w_i\, \text{cost}_i

    A group without labels in the optimizer step is in neither sum.

    Args:
        coefficients: c by name of the group; 1 for those that are not named, 0 removes a group.
        normalize: divide by the coefficients of the groups present.

    Raises:
        ValueError: for coefficients that are negative or not finite.
    """

    what: ClassVar[str]

    def __init__(self, coefficients: Mapping[str, float] | None = None, *, normalize: bool = True) -> None:
        super().__init__()
        self.coefficients = dict(coefficients or {})
        for name, value in self.coefficients.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"Coefficient of '{name}' must be finite and not negative, got {value}.")
        self.normalize = normalize
        self.table: Tensor
        self.register_buffer("table", self._table(), persistent=False)
        self.channels = self.table.shape[0]

    @abstractmethod
    def _table(self) -> Float[Tensor, "channels"]:
        """Coefficient of each channel."""

    @abstractmethod
    def _channel(self, entries: Entries, num: int) -> Int[Tensor, "rows"]:
        """Channel of each of so many rows."""

    def forward(self, costs: Tensor, entries: Entries) -> Tensor:
        per_row = flat_rows(costs).sum(1)
        return sum_over_atoms(per_row, self._channel(entries, per_row.shape[0]), self.channels)

    def count(self, entries: Entries) -> Tensor:
        return self.forward(entries.included.long(), entries)

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        coefficients = self.table.to(sums.dtype)
        total = (coefficients * mean(sums, counts)).sum()
        if not self.normalize:
            return total
        present = torch.where(counts > 0, coefficients, 0).sum()
        return total / torch.where(present > 0, present, 1)

    def formula(self, cost: str) -> str:
        kind = "mean" if self.normalize else "sum"
        named = ", ".join(f"{name}: {value:g}" for name, value in self.coefficients.items())
        weights = f", weighted by {{{named}}} and else 1," if named else ""
        return (
            f"{kind} over the {self.what} present{weights} of their mean over labelled components of {cost}"
        )

    def extra_repr(self) -> str:
        return f"{self.coefficients}{'' if self.normalize else ', normalize=False'}"


class PerElement(Grouped):
    """A mean for each chemical element, so that the few atoms of a rare element are not outvoted.

    Reads ``numbers [N]`` of the batch. See :class:`Grouped` for the formula.

    Args:
        coefficients: by chemical symbol.
        normalize: divide by the coefficients of the elements present.

    Raises:
        ValueError: for an unknown symbol, or a property that has not one row an atom.
        KeyError: if the batch has no ``numbers``.
    """

    what = "elements"

    def check(self, prop: Property) -> None:
        if prop.rows != "atom":
            raise ValueError(f"Reduction 'per_element' is of atoms, but '{prop.name}' is one a {prop.rows}.")

    def _table(self) -> Tensor:
        table = torch.ones(_ELEMENTS, dtype=torch.float64)
        for symbol, value in self.coefficients.items():
            table[atomic_number(symbol)] = value
        return table

    def _channel(self, entries: Entries, num: int) -> Tensor:
        if "numbers" not in entries.batch:
            raise KeyError(f"Reduction 'per_element' needs 'numbers' [atoms]; found {sorted(entries.batch)}.")
        return entries.batch["numbers"]


class PerGroup(Grouped):
    """A mean for each config type or dataset, so that a small one is not outvoted.

    Groups that ``coefficients`` does not name count as one. The formula is in :class:`Grouped`.

    Args:
        coefficients: by name of the group; names the groups.
        key: entry of the batch with the groups' codes, ``config_type`` or ``dataset``.
        normalize: divide by the coefficients of the groups present.

    Raises:
        ValueError: if no group is named.
        KeyError: if the batch has no such entry.
    """

    what = "groups"

    def __init__(
        self, coefficients: Mapping[str, float], key: str = "config_type", *, normalize: bool = True
    ) -> None:
        if not coefficients:
            raise ValueError("Reduction 'per_group' needs the names of its groups, coefficients={name: 1.0}.")
        super().__init__(coefficients, normalize=normalize)
        self.key = key
        self.codes: Tensor
        codes = torch.tensor([group_code(name) for name in coefficients])
        self.register_buffer("codes", codes, persistent=False)

    def _table(self) -> Tensor:
        return torch.tensor([*self.coefficients.values(), 1.0], dtype=torch.float64)

    def _channel(self, entries: Entries, num: int) -> Tensor:
        if self.key not in entries.batch:
            raise KeyError(
                f"Reduction 'per_group' needs '{self.key}' [structures] of group codes "
                f"(pesloss.losses.group_code); found {sorted(entries.batch)}."
            )
        member = entries.batch[self.key][:, None] == self.codes
        channel = torch.where(member.any(1), member.int().argmax(1), len(self.codes))
        return channel[entries.structures(num)]


def mean(sums: Float[Tensor, "channels"], counts: Num[Tensor, "channels"]) -> Float[Tensor, "channels"]:
    """Sums over counts, each for itself; 0 where nothing counted."""
    return (sums / (counts + (counts == 0))).to(sums.dtype)


_ELEMENTS = 119

REDUCTIONS = {
    "mean": Mean,
    "sum": Sum,
    "per_structure": PerStructure,
    "per_element": PerElement,
    "root_mean": RootMean,
}
"""``PerGroup`` has no short name: it needs the names of its groups."""
