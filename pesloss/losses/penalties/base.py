"""What every penalty answers: a cost, and its formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pesloss.losses.batch import over_entries


class Penalty(nn.Module, ABC):
    """Cost of a residual: zero at zero with zero gradient there, growing with the residual.

    ``symmetric`` penalties do not see the sign of the residual; ``per_row`` ones see an entry (a force, a
    stress) as a whole and give one cost a row; ``shaped_by_label`` ones look at the label and get 0 where it
    is missing.
    """

    per_row: ClassVar[bool] = False
    shaped_by_label: ClassVar[bool] = False
    symmetric: ClassVar[bool] = True
    slope_factor: ClassVar[float] = 1.0

    @abstractmethod
    def forward(
        self, residual: Float[Tensor, "rows *entry"], label: Float[Tensor, "rows *label_entry"]
    ) -> Float[Tensor, "rows *cost"]:
        """Cost of every component, or of every row.

        Args:
            residual: prediction against label, in the residual's unit.
            label: the label, for penalties whose shape depends on it.
        """

    @abstractmethod
    def formula(self, r: str) -> str:
        """The cost in symbols, ``r`` being the residual's."""

    def slope(
        self, residual: Float[Tensor, "rows *entry"], label: Float[Tensor, "rows *label_entry"]
    ) -> tuple[Float[Tensor, "rows *cost"], Float[Tensor, "rows *entry"]]:
        """Costs, and the derivative of each by its residual: by autograd, unless it knows a formula."""
        with torch.enable_grad():
            residual = residual.detach().requires_grad_()
            costs = self(residual, label)
            (slope,) = torch.autograd.grad(costs.sum(), residual)
        return costs.detach(), slope

    def weighted_slope(
        self,
        residual: Float[Tensor, "rows *entry"],
        label: Float[Tensor, "rows *label_entry"],
        weights: Float[Tensor, "#rows *weight"] | None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "rows *entry"]]:
        """Sum of the weighted costs, and its derivative by each residual, divided by ``slope_factor``."""
        costs, slope = self.slope(residual, label)
        if weights is None:
            return costs.sum(), slope
        return (costs * weights).sum(), slope * over_entries(weights, slope.dim() - 1)

    def linear_share(
        self, residual: Float[Tensor, "rows *entry"], label: Float[Tensor, "rows *label_entry"]
    ) -> Bool[Tensor, "rows *cost"] | None:
        """Which costs lie where the penalty is linear; ``None`` if there is no such place."""
        return None
