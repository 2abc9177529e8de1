"""A mean for each chemical element, config type or dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pesloss.losses.batch import flat_rows, group_code, sum_over_atoms
from pesloss.losses.elements import NUMBERS, atomic_number
from pesloss.losses.properties import Property
from pesloss.losses.reductions.base import Entries, Reduction, mean


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

    def by_row(self, costs: Tensor, entries: Entries) -> Tensor:
        per_row = flat_rows(costs).sum(1, keepdim=True)
        channel = self._channel(entries, per_row.shape[0])
        return per_row.new_zeros(per_row.shape[0], self.channels).scatter(1, channel[:, None], per_row)

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
        table = torch.ones(NUMBERS, dtype=torch.float64)
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
