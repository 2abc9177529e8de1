"""Prediction minus label, as it is or by the number of atoms."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from pesloss.losses.batch import Batch, atom_counts, spread_rows
from pesloss.losses.properties import Property
from pesloss.losses.residuals.base import Residual, Shape


class Difference(Residual):
    """Prediction minus label."""

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return prediction - label

    def adjoint(self, slope: Tensor, batch: Batch) -> Tensor:
        return slope

    def formula(self, name: str) -> str:
        return f"Δ{name}"


class PerAtom(Residual):
    r"""Difference divided by the number of atoms, so that large structures do not outweigh small ones.

    .. math:: (\text{prediction} - \text{label}) / N^p

    Args:
        exponent: p. 1 for the error per atom; ½ for a squared error that grows with the structure as its
            variance does.

    Raises:
        ValueError: if ``exponent`` is not finite, or for a property that is not extensive.
    """

    def __init__(self, exponent: float = 1.0) -> None:
        super().__init__()
        if isinstance(exponent, (str, bool)) or not isfinite(exponent):
            raise ValueError(f"PerAtom needs a finite exponent of the number of atoms, got {exponent!r}.")
        self.exponent = exponent

    def entry_shape(self, prop: Property) -> Shape:
        if not prop.extensive:
            raise ValueError(
                f"'{prop.name}' ({prop.rows} rows, intensive) cannot be divided by the number of atoms; "
                "residual 'per_atom' needs an extensive property of structures, such as energy. "
                "Use residual 'difference'."
            )
        return super().entry_shape(prop)

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return self.adjoint(prediction - label, batch)

    def adjoint(self, slope: Tensor, batch: Batch) -> Tensor:
        atoms = atom_counts(batch)
        if self.exponent != 1:
            atoms = torch.pow(atoms.to(slope.dtype), self.exponent)
        return slope / spread_rows(atoms, slope.dim() - 1)

    def formula(self, name: str) -> str:
        return f"Δ{name} / N{self._power}"

    def unit(self, unit: str) -> str:
        return f"{unit}/atom{self._power}"

    def extra_repr(self) -> str:
        return "" if self.exponent == 1 else f"exponent={self.exponent:g}"

    @property
    def _power(self) -> str:
        return "" if self.exponent == 1 else f"^{self.exponent:g}"
