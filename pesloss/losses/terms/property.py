"""The usual term: a predicted property against its label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import (
    Batch,
    Predictions,
    flat_rows,
    num_atoms,
    num_structures,
    spread_rows,
    structure_of_atom,
)
from pesloss.losses.masks import MASKS, Mask
from pesloss.losses.penalties import PENALTIES, Penalty
from pesloss.losses.properties import Property, as_property
from pesloss.losses.reductions import REDUCTIONS, Entries, Reduction
from pesloss.losses.residuals import RESIDUALS, Residual
from pesloss.losses.terms.base import Counts, Term, compute_dtype
from pesloss.names import part

Components: TypeAlias = Sequence[float] | Sequence[Sequence[float]]


class PropertyTerm(Term):
    r"""Mean penalty of one property. Entries whose label is NaN, or whose weight is 0, do not count.

    .. math:: \text{value} = \frac{1}{n} \sum_i w_i\, \rho(r_i), \qquad
              r = \text{residual}(\text{prediction}, \text{label})

    The weight of an entry is the product of the weights of its structure (``weight`` of the batch and the
    loss's weights of config types and datasets), of its row (``<property>_weight``), of its atom
    (``atom_weight``) and of its component (``components``). It multiplies the cost, outside the penalty;
    ``weight_inside`` multiplies the residual instead, as some codes do.

    Args:
        property: name of the property, or a :class:`Property` of your own, or its arguments as a mapping.
        residual: part or name (``difference``, ``per_atom``, ``voigt``).
        penalty: part or name (``squared``, ``absolute``, ``huber``, ``scaled_huber``, ``l2_norm``).
        mask: part or name (``labelled``, ``free_atoms``).
        reduction: part or name (``mean``, ``sum``, ``per_structure``, ``root_mean``).
        weight: prior weight in the total.
        components: weights of the components, in the shape of one row of the residual.
        weight_inside: multiply residuals instead of costs.

    Raises:
        KeyError: for an unknown property, or one that the predictions lack.
        ValueError: for parts that do not fit the property, and for shapes that do not fit each other.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any],
        *,
        residual: Residual | str = "difference",
        penalty: Penalty | str = "squared",
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        components: Components | None = None,
        weight_inside: bool = False,
    ) -> None:
        super().__init__(weight)
        self.property = as_property(property)
        self.residual = part("residual", residual, Residual, RESIDUALS)
        self.penalty = part("penalty", penalty, Penalty, PENALTIES)
        self.mask = part("mask", mask, Mask, MASKS)
        self.reduction = part("reduction", reduction, Reduction, REDUCTIONS)
        self.linear, self.is_mean = self.reduction.linear, self.reduction.is_mean
        self.weight_inside = weight_inside
        self.mask.check(self.property)
        self._entry = self.residual.entry_shape(self.property)
        self.components: Tensor | None
        self.register_buffer("components", self._check_components(components), persistent=False)
        self._per_row = self.penalty.per_row
        self._reads_label = self.residual.scaled_by_label or self.penalty.shaped_by_label
        self._cost_dims = 0 if self._per_row else len(self._entry)

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.property.name: self.property}

    def forward(self, predictions: Predictions, batch: Batch) -> Tensor:
        prediction = self._prediction(predictions)
        label = self._label(batch, prediction)
        return self._sums(prediction, label, self._entries(label, batch))

    def count(self, batch: Batch) -> Counts:
        return self._counts(self._entries(self._label(batch), batch))

    def measure(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, Counts]:
        prediction = self._prediction(predictions)
        label = self._label(batch, prediction)
        entries = self._entries(label, batch)
        return self._sums(prediction, label, entries), self._counts(entries)

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return self.reduction.value(sums, counts)

    def slope(self, sums: Tensor, counts: Tensor) -> Tensor:
        return self.reduction.slope(sums, counts)

    def extra_repr(self) -> str:
        return f"{self.property.name} [{self.property.unit}], weight={self.weight}"

    def _sums(self, prediction: Tensor, label: Tensor, entries: Entries) -> Tensor:
        dtype = compute_dtype(prediction, label)
        prediction, label = prediction.to(dtype), label.to(dtype)
        if self._reads_label:
            label = torch.where(label.isnan(), 0, label)
        # what does not count is replaced before the penalty: no indexing, no NaN in the gradient
        counts = _over_entries(entries.included, self._entry)
        residual = torch.where(counts, self.residual(prediction, label, entries.batch), 0)
        return self.reduction(self._weighted_costs(residual, label, entries.weights), entries)

    def _counts(self, entries: Entries) -> Counts:
        labels = entries.labels * prod(self._entry) if self._per_row else entries.labels
        return Counts(self.reduction.count(entries), labels)

    def _weighted_costs(self, residual: Tensor, label: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            return self.penalty(residual, label)
        weights = weights.to(residual.dtype)
        if self.weight_inside:
            return self.penalty(residual * _over_entries(weights, self._entry), label)
        return self.penalty(residual, label) * weights

    def _entries(self, label: Tensor, batch: Batch) -> Entries:
        included = self.residual.labelled(label)
        if self._per_row:
            included = flat_rows(included).all(1)
        weights = self._weights(batch)
        if weights is not None:
            included = included & (weights != 0)
        rows = self.mask(batch)
        if rows is not None:
            included = included & spread_rows(rows, included.dim() - 1)
        return Entries(included, weights, self.property.rows, batch)

    def _weights(self, batch: Batch) -> Float[Tensor, "#rows *weight"] | None:
        """Product of the weights of structure, row, atom and component, broadcastable to the costs."""
        product = None
        for factor in self._factors(batch):
            factor = factor.to(torch.promote_types(factor.dtype, torch.float32))
            product = factor if product is None else product * factor
        return product

    def _factors(self, batch: Batch) -> Iterator[Tensor]:
        for key in ("weight", f"{self.property.name}_weight"):
            if key in batch:
                yield spread_rows(self._spread(key, batch), self._cost_dims)
        if "atom_weight" in batch and self.property.rows == "atom":
            yield self._atom_weight(batch)
        if self.components is not None:
            yield self.components[None]

    def _spread(self, key: str, batch: Batch) -> Tensor:
        """Weights of rows; those of structures are handed to their atoms."""
        weight, structures, rows = batch[key], num_structures(batch), self._num_rows(batch)
        if weight.shape == (rows,) and (key != "weight" or rows == structures):
            return weight
        if weight.shape == (structures,):
            return weight[structure_of_atom(batch, rows)]
        raise ValueError(
            f"'{key}' has shape {tuple(weight.shape)}, expected one weight a structure ({structures},)"
            + (f" or {self.property.rows} ({rows},)." if key != "weight" else ".")
        )

    def _atom_weight(self, batch: Batch) -> Tensor:
        weight = batch["atom_weight"]
        if weight.shape[0] != num_atoms(batch):
            raise ValueError(
                f"'atom_weight' has {weight.shape[0]} rows, expected one an atom ({num_atoms(batch)})."
            )
        if weight.dim() == 1:
            return spread_rows(weight, self._cost_dims)
        if self._per_row or self._entry != tuple(weight.shape[1:]):
            raise ValueError(
                f"'atom_weight' has shape {tuple(weight.shape)}, one number a component, but the costs of "
                f"'{self.property.name}' have none like it; give one an atom, or a penalty of components."
            )
        return weight

    def _check_components(self, components: Components | None) -> Tensor | None:
        if components is None:
            return None
        weights = torch.tensor(components, dtype=torch.float64)
        if self.penalty.per_row or tuple(weights.shape) != self._entry:
            wanted = "none, for a penalty of whole entries" if self.penalty.per_row else str(self._entry)
            shape = tuple(weights.shape)
            raise ValueError(f"Components of '{self.property.name}' have shape {shape}, expected {wanted}.")
        if not bool((weights.isfinite() & (weights >= 0)).all()):
            raise ValueError(f"Components of '{self.property.name}' must not be negative, got {components}.")
        return weights

    def _prediction(self, predictions: Predictions) -> Tensor:
        name = self.property.name
        if name not in predictions:
            raise KeyError(f"No '{name}' in predictions; found {sorted(predictions)}.")
        return predictions[name]

    def _label(self, batch: Batch, prediction: Tensor | None = None) -> Tensor:
        name = self.property.name
        if name not in batch:
            rows = prediction.shape[0] if prediction is not None else self._num_rows(batch)
            like = batch["ptr"] if prediction is None else prediction
            dtype = torch.float32 if prediction is None else prediction.dtype
            label = torch.full((rows, *self.property.shape), float("nan"), dtype=dtype, device=like.device)
        else:
            label = batch[name]
        if prediction is not None and label.shape != prediction.shape:
            raise ValueError(
                f"'{name}' is predicted with shape {tuple(prediction.shape)} "
                f"but {'labelled' if name in batch else 'defined'} with shape {tuple(label.shape)}."
            )
        if tuple(label.shape[1:]) != self.property.shape:
            raise ValueError(
                f"'{name}' has shape {tuple(label.shape)}, expected ({self.property.rows}s, "
                f"{', '.join(map(str, self.property.shape))})."
            )
        if self.property.rows == "structure" and label.shape[0] != num_structures(batch):
            raise ValueError(
                f"'{name}' has {label.shape[0]} rows for {num_structures(batch)} structures (ptr has "
                f"{batch['ptr'].shape[0]} offsets)."
            )
        return label

    def _num_rows(self, batch: Batch) -> int:
        return num_structures(batch) if self.property.rows == "structure" else num_atoms(batch)


def _over_entries(rows: Tensor, entry: tuple[int, ...]) -> Tensor:
    """Rows shaped to broadcast over entries of a residual; what has the entries' shape already stays."""
    return rows if rows.dim() == 1 + len(entry) else spread_rows(rows, len(entry))
