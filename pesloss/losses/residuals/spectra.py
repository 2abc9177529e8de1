"""Functions on a grid, such as a density of states."""

from __future__ import annotations

import torch
from torch import Tensor

from pesloss.losses.batch import Batch
from pesloss.losses.properties import Property
from pesloss.losses.residuals.base import Residual, Shape
from pesloss.names import unknown

METHODS = ("sum", "trapezoid")


class Cumulative(Residual):
    r"""Difference of running integrals over a grid, to which a peak in the wrong place is a small error.

    .. math:: h \sum_{j \le i} \Delta_j \;(\text{sum}), \qquad
              \tfrac{h}{2} \sum_{j < i} (\Delta_j + \Delta_{j+1}) \;(\text{trapezoid, one point fewer})

    The grid is the last axis of an entry. Beyond a missing label there is no integral.

    Args:
        spacing: distance h of the grid points.
        method: ``sum`` or ``trapezoid``.
        name_of_unit: unit of the integral; that of the property by default, for a spacing without unit.

    Raises:
        ValueError: for a spacing that is not positive, an unknown method, or a property without a grid.
    """

    def __init__(self, spacing: float = 1.0, method: str = "sum", *, name_of_unit: str | None = None) -> None:
        super().__init__()
        if isinstance(spacing, (str, bool)) or not 0 < spacing < float("inf"):
            raise ValueError(f"Cumulative needs a finite spacing > 0, got {spacing!r}.")
        if method not in METHODS:
            raise ValueError(unknown("method of integration", method, METHODS))
        self.spacing, self.method, self.name_of_unit = spacing, method, name_of_unit

    def entry_shape(self, prop: Property) -> Shape:
        if not prop.shape or (self.method == "trapezoid" and prop.shape[-1] < 2):
            raise ValueError(
                f"'{prop.name}' has entries of shape {tuple(prop.shape)}; residual 'cumulative' needs a grid "
                "of points as their last axis."
            )
        return (*prop.shape[:-1], prop.shape[-1] - (self.method == "trapezoid"))

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        difference = prediction - label
        if self.method == "trapezoid":
            return torch.cumulative_trapezoid(difference, dx=self.spacing, dim=-1)
        return self.spacing * difference.cumsum(-1)

    def labelled(self, label: Tensor) -> Tensor:
        known = label.isnan().cumsum(-1) == 0
        return known[..., 1:] if self.method == "trapezoid" else known

    def formula(self, name: str) -> str:
        what = "Σ" if self.method == "sum" else "∫"
        return f"{what} Δ{name} · {self.spacing:g}, up to each grid point"

    def unit(self, unit: str) -> str:
        return unit if self.name_of_unit is None else self.name_of_unit

    def extra_repr(self) -> str:
        return f"spacing={self.spacing:g}, method={self.method}"
