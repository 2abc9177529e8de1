"""Errors of a model over a whole split: pooled sums, never means of batch means."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, atom_counts, spread_rows
from pesloss.losses.distributed import ranks, sum_over_ranks
from pesloss.losses.properties import Property

KINDS = ("mae", "rmse")
"""Errors that can select a checkpoint."""


def displayed_unit(prop: Property) -> tuple[float, str]:
    """Factor and unit in which errors of a property are told: meV instead of eV, energies per atom.

    Example:
        >>> from pesloss.losses import PROPERTIES
        >>> displayed_unit(PROPERTIES["energy"]), displayed_unit(PROPERTIES["dipole"])
        ((1000.0, 'meV/atom'), (1.0, 'e·Å'))
    """
    factor, unit = (1000.0, f"m{prop.unit}") if prop.unit.startswith("eV") else (1.0, prop.unit)
    return factor, f"{unit}/atom" if compared_per_atom(prop) else unit


def compared_per_atom(prop: Property) -> bool:
    """Whether errors are divided by the number of atoms: extensive energies and virials."""
    return prop.extensive and prop.unit.startswith("eV")


def compared(prop: Property, values: Tensor, batch: Batch) -> Tensor:
    """Values as they are compared, in float64."""
    values = values.double()
    if not compared_per_atom(prop):
        return values
    return values / spread_rows(atom_counts(batch), values.dim() - 1)


class Metrics:
    r"""Mean absolute and root mean square error of each property, over all labelled components of a split.

    Energies and virials are compared per atom; a missing label is NaN and counts in neither.
    The sums are kept in float64 and added over ranks, so neither batches nor ranks matter.

    Args:
        properties: what is compared, by name.
    """

    def __init__(self, properties: Mapping[str, Property]) -> None:
        self.properties = dict(properties)
        self._sums = torch.zeros(len(properties), 3, dtype=torch.float64)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Count a batch in."""
        for row, (name, prop) in enumerate(self.properties.items()):
            if name in batch:
                label = compared(prop, batch[name], batch)
                error = (compared(prop, predictions[name].detach(), batch) - label)[~label.isnan()]
                sums = torch.stack([error.abs().sum(), error.square().sum(), error.new_tensor(error.numel())])
                self._sums[row] += sums.cpu()

    def compute(self) -> dict[str, Errors]:
        """Errors by property, in the displayed unit; properties without a label are left out."""
        sums = sum_over_ranks(self._sums) if ranks() > 1 else self._sums
        return {
            name: Errors.of(prop, *sums[row].tolist())
            for row, (name, prop) in enumerate(self.properties.items())
            if sums[row, 2] > 0
        }


class Errors(NamedTuple):
    """Errors of one property on one split.

    Args:
        mae: mean absolute error of a component.
        rmse: root mean square error of a component.
        labels: number of labelled components.
        unit: of both errors.
    """

    mae: float
    rmse: float
    labels: int
    unit: str

    @classmethod
    def of(cls, prop: Property, absolute: float, squared: float, labels: float) -> Errors:
        """Errors from their sums, in the displayed unit."""
        factor, unit = displayed_unit(prop)
        return cls(factor * absolute / labels, factor * sqrt(squared / labels), int(labels), unit)


class MeanPredictor:
    """The error of knowing nothing but the mean of the training labels: what any model must beat.

    Args:
        properties: what is predicted, by name.
        train: structures whose mean label, component by component, is the prediction.
    """

    def __init__(self, properties: Mapping[str, Property], train: Batch) -> None:
        self.properties = properties
        self.means = {
            name: compared(prop, train[name], train).nanmean(0)
            for name, prop in properties.items()
            if name in train
        }

    def __call__(self, batch: Batch) -> Predictions:
        """The means, for each row of a batch."""
        return {name: self._prediction(name, batch) for name in self.means if name in batch}

    def _prediction(self, name: str, batch: Batch) -> Tensor:
        mean = self.means[name].expand(batch[name].shape)
        if not compared_per_atom(self.properties[name]):
            return mean
        return mean * spread_rows(atom_counts(batch), mean.dim() - 1)
