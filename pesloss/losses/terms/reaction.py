"""Energies of reactions: differences between structures, which are often known better than their energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, predicted
from pesloss.losses.penalties import Penalty
from pesloss.losses.properties import Property, as_property
from pesloss.losses.reductions import Reduction
from pesloss.losses.terms.base import RowSums
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated, entry

USUAL = ("weight", "{}_weight")


class ReactionTerm(Restated):
    r"""Energies of reactions between the structures of a batch, predicted against labelled.

    .. math:: \Delta E_r = \sum_{i \in r} c_i\, E_i

    with c negative for educts, positive for products: barriers, energies of formation, relative energies of
    conformers. The reference energies of the elements cancel in a balanced reaction.

    The batch says of each structure ``reaction [S]`` (a code, negative for none), ``reaction_size [S]`` (how
    many structures the whole reaction has) and ``reaction_coefficient [S]`` (c). A reaction counts if all of
    them are in the batch and labelled; its weight is the product of theirs. Members of a reaction have to be
    dealt to the same batch, which is the sampler's task.

    Args:
        property: what is combined, a number of each structure.
        label: entry of the batch [S] with the reaction's own label, the same for all of its members; by
            default the labels of the members are combined.
        penalty: part or name.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch [S] that weight the members; ``None`` for ``weight`` and
            ``<property>_weight``, [] for none.

    Raises:
        ValueError: if the property is not a number of structures.
        KeyError: if the batch does not say which reactions there are.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "energy",
        *,
        label: str | None = None,
        penalty: Penalty | str = "squared",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        self.property, self.label = as_property(property), label
        if self.property.rows != "structure" or tuple(self.property.shape):
            raise ValueError(
                f"Reactions are between structures; '{self.property.name}' has one row a "
                f"{self.property.rows} of shape {tuple(self.property.shape)}."
            )
        difference = Property(f"reaction_{self.property.name}", unit=self.property.unit)
        super().__init__(
            PropertyTerm(
                difference, penalty=penalty, reduction=reduction, weight=weight, weighted_by=["weight"]
            )
        )
        usual = [key.format(self.property.name) for key in USUAL]
        self._optional = weighted_by is None
        self.weighted_by = usual if weighted_by is None else list(weighted_by)

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.property.name: self.property}

    @property
    def labels(self) -> Mapping[str, Property]:
        return self.required if self.label is None else {self.label: Property(self.label, unit=self.unit())}

    def prediction(self, predictions: Predictions, batch: Batch) -> Float[Tensor, "structures"]:
        return _combined(predicted(predictions, self.property.name), batch)

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        """Each reaction stands in the row of its first member."""
        members = _members(batch)
        earlier = torch.ones_like(members).tril(-1)
        complete = members.sum(1) == entry(batch, "reaction_size", "structures")
        counts = complete & members.any(1) & ~(members & earlier).any(1)
        label = torch.where(counts, self._labels(batch), torch.nan)
        return {**batch, self.term.property.name: label, "weight": self._weights(batch, members)}

    def by_row(self, predictions: Predictions, batch: Batch) -> RowSums:
        """A reaction is shared by its members, in equal parts."""
        sums, rows, structure = super().by_row(predictions, batch)
        members = _members(batch).to(rows.dtype)
        return RowSums(sums, members @ rows / members.sum(1, keepdim=True).clamp(min=1), structure)

    def formula(self) -> str:
        return f"{self.term.formula()}; {self.term.property.name} = Σᵢ cᵢ {self.property.name}ᵢ of a reaction"

    def _labels(self, batch: Batch) -> Float[Tensor, "structures"]:
        key = self.property.name if self.label is None else self.label
        if key not in batch:
            return torch.full_like(batch["reaction_coefficient"], float("nan"))
        label = batch[key]
        if label.shape != batch["reaction"].shape:
            raise ValueError(
                f"'{key}' has shape {tuple(label.shape)}, but reactions are labelled by one number a "
                f"structure, {tuple(batch['reaction'].shape)}."
            )
        return _combined(label, batch) if self.label is None else label

    def _weights(self, batch: Batch, members: Bool[Tensor, "s s"]) -> Float[Tensor, "structures"]:
        product = torch.ones_like(batch["reaction_coefficient"])
        for key in self.weighted_by:
            if key in batch or not self._optional:
                product = product * entry(batch, key, "structures")
        return torch.where(members, product, 1.0).prod(1)


def _members(batch: Batch) -> Bool[Tensor, "s s"]:
    """Whether two structures belong to one reaction."""
    reaction = entry(batch, "reaction", "structures")
    return (reaction[:, None] == reaction) & (reaction >= 0)


def _combined(values: Float[Tensor, "structures"], batch: Batch) -> Float[Tensor, "structures"]:
    """Of each structure, the sum over its reaction; members of others may be NaN."""
    coefficients = entry(batch, "reaction_coefficient", "structures").to(values.dtype)
    return torch.where(_members(batch), coefficients * values, 0).sum(1)
