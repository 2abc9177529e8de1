"""The usual term: a predicted property against its label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, flat_rows, over_entries, spread_rows
from pesloss.losses.derived import DERIVED, Derived
from pesloss.losses.masks import Labelled, Mask
from pesloss.losses.penalties import PENALTIES, Penalty, QuantileHuber
from pesloss.losses.properties import Property
from pesloss.losses.reductions import Entries, Reduction
from pesloss.losses.residuals import RESIDUALS, Residual
from pesloss.losses.terms.base import Counts, compute_dtype
from pesloss.losses.terms.labelled import LabelledTerm
from pesloss.names import part, unknown

Components: TypeAlias = str | Mapping[str, float] | Sequence[float] | Sequence[Sequence[float]]

AXES = "xyz"
NAMED_COMPONENTS: Mapping[str, Sequence[str]] = {
    "diagonal": ("xx", "yy", "zz"),
    "off_diagonal": ("yz", "zy", "xz", "zx", "xy", "yx"),
    "in_plane": ("xx", "yy", "xy", "yx"),
}


class PropertyTerm(LabelledTerm):
    r"""Mean penalty of one property. Entries whose label is NaN, or whose weight is 0, do not count.

    .. math:: \text{value} = \frac{1}{n} \sum_i w_i\, \rho(r_i), \qquad
              r = \text{residual}(\text{prediction}, \text{label})

    The weight of an entry is the product of the weights of its structure (``weight`` of the batch and the
    loss's weights of config types and datasets), of its row (``<property>_weight``), of its atom
    (``atom_weight``) and of its component (``components``). It multiplies the cost, outside the penalty;
    ``weight_inside`` multiplies prediction and label instead, as some codes do.

    Args:
        property: name of the property, or a :class:`Property` of your own, or its arguments as a mapping.
        label: key of the label in the batch, if it is not the property's name.
        prediction: quantity computed from other predictions, part or name (``total_charge``, ...); by default
            the model predicts the property itself.
        residual: part or name (``difference``, ``per_atom``, ``voigt``, ...).
        penalty: part or name (``squared``, ``absolute``, ``huber``, ``scaled_huber``, ``l2_norm``, ...).
        mask: part or name (``labelled``, ``free_atoms``).
        reduction: part or name (``mean``, ``sum``, ``per_structure``, ``per_element``, ``root_mean``).
        weight: prior weight in the total.
        components: weights of the components: in the shape of one row of the residual, by name
            (``{xy: 0.5}``, others 1), or ``diagonal``, ``off_diagonal``, ``in_plane`` (others 0).
        weight_inside: multiply residuals instead of costs.
        weighted_by: entries of the batch that weight the rows; ``None`` for those above, [] for none.

    Raises:
        KeyError: for an unknown property, or one that the predictions lack.
        ValueError: for parts that do not fit the property, and for shapes that do not fit each other.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any],
        *,
        label: str | None = None,
        prediction: Derived | str | None = None,
        residual: Residual | str = "difference",
        penalty: Penalty | str = "squared",
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        components: Components | None = None,
        weight_inside: bool = False,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            property, label=label, mask=mask, reduction=reduction, weight=weight, weighted_by=weighted_by
        )
        self.prediction = None if prediction is None else part("prediction", prediction, Derived, DERIVED)
        self.residual = part("residual", residual, Residual, RESIDUALS)
        self.penalty = part("penalty", penalty, Penalty, PENALTIES)
        self.weight_inside = weight_inside
        self._entry = self.residual.entry_shape(self.property)
        self.components: Tensor | None
        self.register_buffer("components", self._components(components), persistent=False)
        self.per_row = self.penalty.per_row
        self.needs_fit = self.residual.needs_fit or type(self.residual).check is not Residual.check
        self._reads_label = self.residual.scaled_by_label or self.penalty.shaped_by_label
        self._explicit = self.reduction.explicit and self.residual.has_adjoint and self.prediction is None
        self._has_zone = type(self.penalty).linear_share is not Penalty.linear_share
        self._follows = isinstance(self.penalty, QuantileHuber)
        self.monitor = False
        self._zone: Tensor
        self._share: Tensor
        zone, share = torch.zeros(2, dtype=torch.float64), torch.tensor(float("nan"), dtype=torch.float64)
        self.register_buffer("_zone", zone, persistent=False)
        self.register_buffer("_share", share, persistent=False)

    @property
    def required(self) -> Mapping[str, Property]:
        return super().required if self.prediction is None else self.prediction.required

    @property
    def entry(self) -> tuple[int, ...]:
        return self._entry

    def predicted(self, predictions: Predictions, batch: Batch) -> Tensor:
        if self.prediction is None:
            return super().predicted(predictions, batch)
        return self.prediction(predictions, batch)

    def known(self, label: Tensor) -> Tensor:
        return self.residual.labelled(label)

    def costs(self, prediction: Tensor, label: Tensor, entries: Entries, predictions: Predictions) -> Tensor:
        residual, label, weights = self._residual(prediction, label, entries)
        costs = self.penalty(residual, label)
        return costs if weights is None else costs * weights

    def is_explicit(self, predictions: Predictions, batch: Batch) -> bool:
        prediction = predictions.get(self.property.name)
        if not self._explicit or prediction is None or not prediction.requires_grad:
            return False
        for key in (self.label, *self.weighted_by):
            if key in batch and batch[key].requires_grad:
                return False
        for module in (self, self.penalty, self.residual):
            for number in module._buffers.values():
                if number is not None and number.requires_grad:
                    return False
        return True

    def explicit_input(self, predictions: Predictions) -> Tensor:
        return predictions[self.property.name]

    @property
    def slope_factor(self) -> float:
        return self.penalty.slope_factor

    def measure_with_slope(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, Counts, Tensor]:
        prediction = self.predicted(predictions, batch)
        label = self.label_of(batch, prediction)
        entries, dtype = self.entries_of(label, batch), compute_dtype(prediction, label)
        residual, label, weights = self._residual(prediction.to(dtype), label.to(dtype), entries)
        factors = self.reduction.factors(entries)
        if factors is not None:
            factors = spread_rows(factors.to(dtype), entries.labelled.dim() - 1)
            weights = factors if weights is None else weights * factors
        total, slope = self.penalty.weighted_slope(residual, label, weights)
        if self.weight_inside and entries.weights is not None:
            slope = slope * over_entries(entries.weights.to(dtype), len(self._entry))
        slope = self.residual.adjoint(slope, batch)
        assert slope is not None
        return total, self._counts(entries), slope.to(prediction.dtype)

    def fit(self, batch: Batch) -> None:
        label = self.label_of(batch)
        self.residual.check(label, batch)
        if self.residual.needs_fit:
            self.residual.fit(label, batch)

    def fitted(self) -> None:
        if self.residual.needs_fit:
            self.residual.fitted()

    def advance(self, pool: Callable[[Tensor], Tensor]) -> None:
        if not self._adapts:
            return
        beyond, labels = pool(self._zone).unbind()
        share = torch.where(labels > 0, beyond / labels, torch.nan)  # a step without labels says nothing
        self._share.copy_(torch.where(labels > 0, share, self._share))
        self._zone.zero_()
        if isinstance(self.penalty, QuantileHuber):
            self.penalty.advance(share)

    def monitored(self) -> Mapping[str, Tensor]:
        return {"linear_share": self._share} if self._adapts else {}

    def unit(self) -> str:
        return self.residual.unit(self.property.unit)

    def formula(self) -> str:
        name = self.property.name if self.prediction is None else self.prediction.formula()
        residual, weight = self.residual.formula(name), self.weight_symbol()
        cost, outside, inside = self.penalty.formula("r"), weight, ""
        if self.weight_inside:
            outside, inside = "", weight
        cost = f"{outside}({cost})" if outside and " " in cost else f"{outside}{cost}"
        return "; ".join([self.reduction.formula(cost), f"r = {inside}{residual}", *self._said()])

    @property
    def _adapts(self) -> bool:
        """Whether the share of residuals in the linear zone is counted."""
        return self._follows or (self.monitor and self._has_zone)

    @torch.no_grad()
    def _watch(self, residual: Tensor, label: Tensor, entries: Entries) -> None:
        beyond = self.penalty.linear_share(residual, label)
        assert beyond is not None
        beyond = beyond & entries.included
        self._zone += torch.stack([beyond.count_nonzero(), entries.labels])

    def _residual(
        self, prediction: Tensor, label: Tensor, entries: Entries
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the penalty sees, 0 where nothing counts, and the weights of its costs."""
        if self._reads_label:
            label = torch.where(label.isnan(), 0, label)
        # what does not count is replaced before the penalty: no indexing, no NaN in the gradient
        counts = over_entries(entries.included, len(self._entry))
        if not self.residual.linear:
            prediction = torch.where(_over_prediction(counts, prediction), prediction, 1)
        residual = torch.where(counts, self.residual(prediction, label, entries.batch), 0)
        if self._adapts and self.training:
            self._watch(residual, label, entries)
        weights = None if entries.weights is None else entries.weights.to(residual.dtype)
        if weights is None or not self.weight_inside:
            return residual, label, weights
        if self._reads_label and weights.dim() <= label.dim():
            label = label * weights.reshape(weights.shape[0], *[1] * (label.dim() - 1))
        return residual * over_entries(weights, len(self._entry)), label, None

    def _factors(self, batch: Batch, rows: int) -> Iterator[Tensor]:
        yield from super()._factors(batch, rows)
        if self.components is not None:
            yield self.components[None]

    def _components(self, components: Components | None) -> Tensor | None:
        if components is None:
            return None
        if isinstance(components, (str, Mapping)):
            components = self._by_name(components)
        weights = torch.tensor(components, dtype=torch.float64)
        if self.penalty.per_row or tuple(weights.shape) != self._entry:
            wanted = "none, for a penalty of whole entries" if self.penalty.per_row else str(self._entry)
            shape = tuple(weights.shape)
            raise ValueError(f"Components of '{self.property.name}' have shape {shape}, expected {wanted}.")
        if not bool((weights.isfinite() & (weights >= 0)).all()):
            raise ValueError(f"Components of '{self.property.name}' must not be negative, got {components}.")
        return weights

    def _by_name(self, components: str | Mapping[str, float]) -> Any:
        names = self.residual.component_names(self.property)
        if isinstance(components, str):
            if components not in NAMED_COMPONENTS:
                raise ValueError(unknown("components", components, NAMED_COMPONENTS))
            chosen = NAMED_COMPONENTS[components]
            components = {name: float(name in chosen) for name in names}
        for name in components:
            if name not in names:
                raise ValueError(f"Components of '{self.property.name}': {unknown('component', name, names)}")
        weights = torch.tensor([float(components.get(name, 1.0)) for name in names], dtype=torch.float64)
        return weights.reshape(self._entry).tolist()

    def _said(self) -> Iterator[str]:
        if not isinstance(self.mask, Labelled):
            yield f"only {self.mask.formula()}"
        if self.components is not None:
            names = self.residual.component_names(self.property)
            weights = zip(names, self.components.flatten().tolist(), strict=True)
            yield f"components weighted {', '.join(f'{name}: {weight:g}' for name, weight in weights)}"


def _over_prediction(counts: Tensor, prediction: Tensor) -> Tensor:
    """What counts, over entries of the prediction; where the comparison has others, over its rows."""
    if counts.shape == prediction.shape:
        return counts
    return spread_rows(flat_rows(counts).any(1), prediction.dim() - 1)
