"""How far a prediction is from its label, before any penalty."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import sqrt
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pesloss.losses.batch import Batch, atom_counts, spread_rows
from pesloss.losses.properties import Property
from pesloss.names import unknown

Shape = tuple[int, ...]
SHEAR_FACTORS: Mapping[str, float] = {"entries": 1.0, "doubled": 2.0, "mandel": sqrt(2.0)}


class Residual(nn.Module, ABC):
    """Distance of a prediction from its label, one number a component.

    ``scaled_by_label`` residuals have labels in their gradient and get 0 where one is missing; the others
    may give NaN there, which is replaced before anything depends on it.
    """

    scaled_by_label: ClassVar[bool] = False

    def entry_shape(self, prop: Property) -> Shape:
        """Shape of one row of the residual of a property.

        Raises:
            ValueError: if this residual makes no sense for the property.
        """
        return tuple(prop.shape)

    @abstractmethod
    def forward(
        self, prediction: Float[Tensor, "rows *entry"], label: Float[Tensor, "rows *entry"], batch: Batch
    ) -> Float[Tensor, "rows *residual"]:
        """Residual of every row.

        Args:
            prediction: what the model says.
            label: what the reference says, the same shape; NaN (or 0, see above) where there is no label.
            batch: the structures they belong to.
        """

    def labelled(self, label: Float[Tensor, "rows *entry"]) -> Bool[Tensor, "rows *residual"]:
        """Which entries of the residual have a label, where NaN stands for a missing one."""
        return label == label  # noqa: PLR0124, half the cost of ~isnan


class Difference(Residual):
    """Prediction minus label."""

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return prediction - label


class PerAtom(Residual):
    """Difference divided by the number of atoms, so that large structures do not outweigh small ones.

    Raises:
        ValueError: for a property that is not extensive, or has one row an atom already.
    """

    def entry_shape(self, prop: Property) -> Shape:
        if not prop.extensive:
            raise ValueError(
                f"'{prop.name}' ({prop.rows} rows, intensive) cannot be divided by the number of atoms; "
                "residual 'per_atom' needs an extensive property of structures, such as energy. "
                "Use residual 'difference'."
            )
        return super().entry_shape(prop)

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return (prediction - label) / spread_rows(atom_counts(batch), label.dim() - 1)


class Voigt(Residual):
    r"""Difference of symmetric tensors as six numbers, xx, yy, zz, yz, xz, xy.

    The off-diagonal entries are the averages of both triangles, times 1 (``entries``), 2 (``doubled``,
    the engineering convention) or √2 (``mandel``, whose squared norm is that of the full tensor).

    Args:
        shear: the convention of the off-diagonal entries.

    Raises:
        ValueError: for an unknown convention, or a property whose entries are not 3×3.

    References:
        Mandel's convention: J. Mandel, Int. J. Solids Struct. 1, 273 (1965).
    """

    def __init__(self, shear: str = "entries") -> None:
        super().__init__()
        if shear not in SHEAR_FACTORS:
            raise ValueError(unknown("shear convention", shear, SHEAR_FACTORS))
        self.shear = shear

    def entry_shape(self, prop: Property) -> Shape:
        if prop.shape != (3, 3):
            raise ValueError(
                f"'{prop.name}' has entries of shape {prop.shape}; residual 'voigt' needs (3, 3)."
            )
        return (6,)

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        difference = prediction - label
        symmetric = 0.5 * (difference + difference.mT)
        diagonal = symmetric.diagonal(dim1=-2, dim2=-1)
        return torch.cat([diagonal, SHEAR_FACTORS[self.shear] * _shear(symmetric)], dim=-1)

    def labelled(self, label: Tensor) -> Tensor:
        known = ~(label.isnan() | label.mT.isnan())
        return torch.cat([known.diagonal(dim1=-2, dim2=-1), _shear(known)], dim=-1)


def _shear(tensor: Tensor) -> Tensor:
    return torch.stack([tensor[..., 1, 2], tensor[..., 0, 2], tensor[..., 0, 1]], dim=-1)


RESIDUALS = {"difference": Difference, "per_atom": PerAtom, "voigt": Voigt}
