"""What all comparisons with a label share: which entries count, their weights, and the reduction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pesloss.losses.batch import (
    Batch,
    Channels,
    Predictions,
    flat_rows,
    num_rows,
    num_structures,
    predicted,
    spread_rows,
    structure_of_row,
)
from pesloss.losses.masks import MASKS, Labelled, Mask
from pesloss.losses.properties import Property, as_property
from pesloss.losses.reductions import REDUCTIONS, Entries, Reduction
from pesloss.losses.terms.base import FLOATS, Counts, RowSums, Term, compute_dtype
from pesloss.names import part


class LabelledTerm(Term):
    """Costs of the rows of a property that have a label. Missing labels and weights of 0 do not count.

    The weight of an entry is the product of the weights of its structure (``weight`` of the batch and the
    loss's weights of config types and datasets), of its row (``<property>_weight``) and of its atom
    (``atom_weight``).

    Args:
        property: name of the property, or a :class:`Property` of your own, or its arguments as a mapping.
        label: key of the label in the batch, if it is not the property's name.
        mask: part or name (``labelled``, ``free_atoms``).
        reduction: part or name (``mean``, ``sum``, ``per_structure``, ``per_element``, ``root_mean``).
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows; ``None`` for the three above, [] for none.

    Raises:
        KeyError: for an unknown property, or one that the predictions lack.
        ValueError: for parts that do not fit the property, and for shapes that do not fit each other.
    """

    per_row: bool = False

    def __init__(
        self,
        property: str | Property | Mapping[str, Any],
        *,
        label: str | None = None,
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight)
        self.property = as_property(property)
        self.label = self.property.name if label is None else label
        self.mask = part("mask", mask, Mask, MASKS)
        self.reduction = part("reduction", reduction, Reduction, REDUCTIONS)
        self.linear, self.is_mean = self.reduction.linear, self.reduction.is_mean
        self.channels = self.reduction.channels
        self._all_rows = type(self.mask) is Labelled
        self.mask.check(self.property)
        self.reduction.check(self.property)
        self._usual = ("weight", f"{self.property.name}_weight", "atom_weight")
        self.weighted_by = self._usual if weighted_by is None else tuple(weighted_by)

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.property.name: self.property}

    @property
    def labels(self) -> Mapping[str, Property]:
        return {self.label: replace(self.property, name=self.label)}

    @property
    def entry(self) -> tuple[int, ...]:
        """Shape of what is compared in one row."""
        return tuple(self.property.shape)

    @abstractmethod
    def costs(self, prediction: Tensor, label: Tensor, entries: Entries, predictions: Predictions) -> Tensor:
        """Weighted cost of every entry, 0 with a gradient of 0 where nothing counts.

        Args:
            prediction: of the property, in the precision of the comparison.
            label: the same shape (or what :meth:`shape_of_label` says), NaN where it is missing.
            entries: which entries count, and their weights.
            predictions: everything that is predicted.
        """

    def predicted(self, predictions: Predictions, batch: Batch) -> Tensor:
        """What is to be compared with the label."""
        return predicted(predictions, self.property.name)

    def shape_of_label(self, prediction: Tensor) -> tuple[int, ...]:
        """Shape of the label of a prediction."""
        return tuple(prediction.shape)

    def known(self, label: Float[Tensor, "rows *entry"]) -> Bool[Tensor, "rows *residual"]:
        """Which components of the comparison have a label, where NaN stands for a missing one."""
        return label == label  # noqa: PLR0124, half the cost of ~isnan

    def forward(self, predictions: Predictions, batch: Batch) -> Tensor:
        prediction = self.predicted(predictions, batch)
        label = self.label_of(batch, prediction)
        return self._sums(prediction, label, self.entries_of(label, batch), predictions)

    def count(self, batch: Batch) -> Counts:
        return self._counts(self.entries_of(self.label_of(batch), batch))

    def measure(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, Counts]:
        prediction = self.predicted(predictions, batch)
        label = self.label_of(batch, prediction)
        entries = self.entries_of(label, batch)
        return self._sums(prediction, label, entries, predictions), self._counts(entries)

    def by_row(self, predictions: Predictions, batch: Batch) -> RowSums:
        prediction = self.predicted(predictions, batch)
        label = self.label_of(batch, prediction)
        entries = self.kept(prediction, label, self.entries_of(label, batch))
        costs = self._costs(prediction, label, entries, predictions)
        rows = self.reduction.by_row(costs, entries)
        sums = self.reduced(costs, entries)
        only_count = rows.new_zeros(rows.shape[0], self.channels - rows.shape[1])
        return RowSums(sums, torch.cat([rows, only_count], 1), entries.structures(rows.shape[0]))

    def kept(self, prediction: Tensor, label: Tensor, entries: Entries) -> Entries:
        """Which entries count, of those that would without looking at the predictions."""
        return entries

    def reduced(self, costs: Tensor, entries: Entries) -> Channels:
        """Sums of the costs of entries that are kept, and what else is known with the predictions only."""
        return self.reduction(costs, entries)

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return self.reduction.value(sums, counts)

    def slope(self, sums: Tensor, counts: Tensor) -> Tensor:
        return self.reduction.slope(sums, counts)

    def label_of(self, batch: Batch, prediction: Tensor | None = None) -> Tensor:
        """Label of every row, NaN where the batch has none.

        Raises:
            ValueError: if its shape is not that of the property, the batch or the prediction.
        """
        if prediction is not None and self._fits(batch.get(self.label), prediction, batch):
            return batch[self.label]
        shape = self._shape(batch, prediction)
        if self.label not in batch:
            like = batch["ptr"] if prediction is None else prediction
            dtype = torch.float32 if prediction is None else prediction.dtype
            return torch.full(shape, float("nan"), dtype=dtype, device=like.device)
        label = batch[self.label]
        if prediction is not None and tuple(label.shape) != shape:
            raise ValueError(
                f"'{self.property.name}' is predicted with shape {tuple(prediction.shape)} "
                f"but labelled with shape {tuple(label.shape)}."
            )
        self._check_rows(tuple(label.shape), batch)
        return label

    def extra_repr(self) -> str:
        return f"{self.property.name} [{self.property.unit}], weight={self.weight}"

    def weight_symbol(self) -> str:
        """The weight of an entry in a formula."""
        return "w·" if self.weighted_by else ""

    def _fits(self, label: Tensor | None, prediction: Tensor, batch: Batch) -> bool:
        """Whether all is as it should be, in the fewest words."""
        return (
            label is not None
            and label.shape == prediction.shape
            and label.shape[1:] == self.property.shape
            and (self.property.rows != "structure" or label.shape[0] == batch["ptr"].shape[0] - 1)
        )

    def _shape(self, batch: Batch, prediction: Tensor | None) -> tuple[int, ...]:
        if prediction is None:
            rows = 0 if self.label in batch else num_rows(batch, self.property.rows)
            return (rows, *self.property.shape)
        shape = self.shape_of_label(prediction)
        if self.label not in batch:
            self._check_rows(shape, batch, "is predicted with")
        return shape

    def _check_rows(self, shape: tuple[int, ...], batch: Batch, has: str = "has") -> None:
        if shape[1:] != self.property.shape:
            raise ValueError(
                f"'{self.property.name}' {has} shape {shape}, expected ({self.property.rows}s, "
                f"{', '.join(map(str, self.property.shape))})."
            )
        if self.property.rows == "structure" and shape[0] != num_structures(batch):
            raise ValueError(
                f"'{self.property.name}' has {shape[0]} rows for {num_structures(batch)} structures (ptr has "
                f"{batch['ptr'].shape[0]} offsets)."
            )

    def _sums(self, prediction: Tensor, label: Tensor, entries: Entries, predictions: Predictions) -> Tensor:
        entries = self.kept(prediction, label, entries)
        return self.reduced(self._costs(prediction, label, entries, predictions), entries)

    def _costs(self, prediction: Tensor, label: Tensor, entries: Entries, predictions: Predictions) -> Tensor:
        dtype = compute_dtype(prediction, label)
        return self.costs(prediction.to(dtype), label.to(dtype), entries, predictions)

    def _counts(self, entries: Entries) -> Counts:
        labels = entries.labels * prod(self.entry) if self.per_row else entries.labels
        return Counts(self.reduction.count(entries), labels)

    def entries_of(self, label: Tensor, batch: Batch) -> Entries:
        """Which costs count, and how much."""
        known = self.known(label)
        if self.per_row:
            known = flat_rows(known).all(1)
        chosen = None if self._all_rows else self.mask(batch)
        if chosen is not None:
            known = known & self._over_costs(chosen, known)
        return Entries(known, self._weights(batch, known.shape[0]), self.property.rows, batch)

    def _over_costs(self, chosen: Tensor, costs: Tensor) -> Tensor:
        """A choice of rows or of entries, shaped to broadcast over costs."""
        if chosen.shape[0] != costs.shape[0]:
            raise ValueError(
                f"Mask of '{self.property.name}' has {chosen.shape[0]} rows for {costs.shape[0]} "
                f"({self.property.rows}s)."
            )
        if chosen.dim() == 1:
            return spread_rows(chosen, costs.dim() - 1)
        if self.per_row:
            return flat_rows(chosen).all(1)
        if chosen.shape != costs.shape:
            raise ValueError(
                f"Mask of '{self.property.name}' has shape {tuple(chosen.shape)}, but the comparison has "
                f"{tuple(costs.shape)}; give one truth value a row, or one an entry of the comparison."
            )
        return chosen

    def _weights(self, batch: Batch, rows: int) -> Float[Tensor, "#rows *weight"] | None:
        """Product of the weights of entries, broadcastable to the costs."""
        product = None
        for factor in self._factors(batch, rows):
            if factor.dtype not in FLOATS:
                factor = factor.to(torch.promote_types(factor.dtype, torch.float32))
            product = factor if product is None else product * factor
        return product

    def _factors(self, batch: Batch, rows: int) -> Iterator[Tensor]:
        for key in self.weighted_by:
            if key == "atom_weight" and self.property.rows != "atom":
                continue
            if key in batch:
                yield self._factor(key, batch, rows)
            elif key not in self._usual:
                raise KeyError(f"'{self.property.name}' is weighted by '{key}'; found {sorted(batch)}.")

    def _factor(self, key: str, batch: Batch, rows: int) -> Tensor:
        """Weights of rows or of entries; those of structures are handed to their rows."""
        weight, structures = batch[key], num_structures(batch)
        dims = 0 if self.per_row else len(self.entry)
        of_structures = tuple(weight.shape) == (structures,) and key != "atom_weight"
        if of_structures and self.property.rows == "structure":
            return spread_rows(weight, dims)
        if weight.dim() and weight.shape[0] == rows and key != "weight":
            if weight.dim() == 1:
                return spread_rows(weight, dims)
            if not self.per_row and tuple(weight.shape[1:]) == self.entry:
                return weight
        if of_structures:
            return spread_rows(weight[structure_of_row(batch, self.property.rows, rows)], dims)
        wanted = [] if key == "atom_weight" else [f"one a structure ({structures},)"]
        wanted += [] if key == "weight" else [f"one a row ({self.property.rows}s, {rows})"]
        wanted += [] if key == "weight" or self.per_row else [f"one a component {(rows, *self.entry)}"]
        raise ValueError(
            f"'{key}' has shape {tuple(weight.shape)}, which is no weight of '{self.property.name}'; "
            f"expected {' or '.join(wanted)}."
        )
