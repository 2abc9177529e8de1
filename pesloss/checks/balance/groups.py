"""Sums over datasets, config types and elements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from pesloss.checks.balance.result import GroupBalance, largest
from pesloss.losses.batch import (
    Batch,
    group_code,
    num_atoms,
    num_structures,
    structure_of_atom,
    structure_of_row,
)
from pesloss.losses.elements import NUMBERS


class Groups:
    """What the structures of each group, and the atoms of each element, add to a loss and its gradient.

    Args:
        names: of the groups, by the batch's entry with their codes.
        device: of the sums.

    Attributes:
        sums: how many, their loss and their product with the gradient, one row a group.
        product: of all rows with the gradient; both add up over ranks.
    """

    def __init__(self, names: Mapping[str, Sequence[str]], device: torch.device) -> None:
        self.names = {key: tuple(found) for key, found in names.items()}
        self.sums: Float[Tensor, "groups 3"]
        size = sum(len(found) + 1 for found in self.names.values()) + NUMBERS
        self.sums = torch.zeros(size, 3, dtype=torch.float64, device=device)
        self.product = self.sums.new_zeros(1)

    def add(self, batch: Batch, rows: Mapping[str, Tensor], projections: Mapping[str, Tensor]) -> None:
        """Rows of every term of a batch, and the products of their gradients with that of the loss."""
        structures = self.sums.new_zeros(num_structures(batch), 3)
        structures[:, 0] = 1
        atoms = self.sums.new_zeros(num_atoms(batch), 3)
        atoms[:, 0] = 1
        for name, values in rows.items():
            numbers = torch.stack([values, projections[name]], dim=1).double()
            owner = _structure_of(values, batch)
            structures[:, 1:].index_add_(0, owner, numbers)
            self.product += numbers[:, 1].sum()
            if len(values) == len(atoms):
                atoms[:, 1:] += numbers
        for key, part in self._parts():
            if key == "element" and "numbers" in batch:
                part.index_add_(0, batch["numbers"], atoms)
            elif key in batch:
                part.index_add_(0, self._codes(key, batch), structures)

    def shares(self, loss: float, squared_norm: float) -> tuple[GroupBalance, ...]:
        """Shares of every group that has a structure, where there are several.

        Args:
            loss: of which they are shares.
            squared_norm: of its gradient.
        """
        found: list[GroupBalance] = []
        for key, part in self._parts():
            names = chemical_symbols if key == "element" else (*self.names[key], "others")
            whole = float(part[:, 1].sum()) if key == "element" else loss
            product = float(part[:, 2].sum()) if key == "element" else squared_norm
            groups = [
                GroupBalance(key, name, int(number), _over(share, whole), _known(_over(pull, product)))
                for name, (number, share, pull) in zip(names, part.tolist(), strict=False)
                if number
            ]
            found += largest(groups) if len(groups) > 1 else ()
        return tuple(found)

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        sizes = {key: len(found) + 1 for key, found in self.names.items()} | {"element": NUMBERS}
        yield from zip(sizes, self.sums.split([*sizes.values()]), strict=True)

    def _codes(self, key: str, batch: Batch) -> Int[Tensor, "structures"]:
        """Place of the group of each structure."""
        codes = torch.tensor([group_code(name) for name in self.names[key]], device=batch[key].device)
        member = batch[key][:, None] == codes
        others = torch.full_like(batch[key], len(codes))
        return torch.where(member.any(1), member.int().argmax(1), others) if len(codes) else others


def _structure_of(values: Float[Tensor, "rows"], batch: Batch) -> Int[Tensor, "rows"]:
    """The structure that each row of a term belongs to: rows are structures, atoms or pairs of atoms."""
    if len(values) == num_structures(batch):
        return structure_of_row(batch, "structure", len(values))
    if len(values) == num_atoms(batch):
        return structure_of_atom(batch, len(values))
    return structure_of_row(batch, "pair", len(values))


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 0.0 * part  # NaN stays


def _known(number: float) -> float | None:
    return None if number != number else number  # noqa: PLR0124, NaN
