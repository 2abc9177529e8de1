"""Costs of whole entries: one number for a force, the same in every rotated frame."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import flat_rows, spread_rows
from pesloss.losses.penalties.base import Penalty


class L2Norm(Penalty):
    r"""Length of the error of a whole entry (a force, a stress), the same in every rotated frame.

    .. math:: \sqrt{\textstyle\sum_c r_c^2}

    The gradient at zero length is zero.
    """

    per_row: ClassVar[bool] = True

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return length(residual)

    def slope(self, residual: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        size = length(residual)
        return size, residual / spread_rows(torch.where(size > 0, size, 1), residual.dim() - 1)

    def formula(self, r: str) -> str:
        return f"‖{r}‖"


class SquaredNorm(Penalty):
    r"""Squared length of the error of a whole entry, one cost a row: components are summed, not averaged.

    .. math:: \textstyle\sum_c r_c^2
    """

    per_row: ClassVar[bool] = True

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return flat_rows(residual).square().sum(1)

    def slope(self, residual: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return self(residual, label), 2 * residual

    def formula(self, r: str) -> str:
        return f"‖{r}‖²"


def length(values: Float[Tensor, "rows *entry"]) -> Float[Tensor, "rows"]:
    """Euclidean (Frobenius) norm of each row, with zero gradient at zero."""
    return torch.linalg.vector_norm(flat_rows(values), dim=1)
