"""Costs of single components, without a threshold."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pesloss.losses.penalties.base import Penalty


class Squared(Penalty):
    """Squared error r², the negative log-likelihood of Gaussian noise up to constants."""

    slope_factor: ClassVar[float] = 2.0

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return residual * residual

    def slope(self, residual: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return residual * residual, 2 * residual

    def weighted_slope(
        self, residual: Tensor, label: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        pull = residual if weights is None else residual * weights
        return (pull * residual).sum(), pull

    def formula(self, r: str) -> str:
        return f"{r}²"


class Absolute(Penalty):
    """Absolute error, whose minimiser is the median."""

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return residual.abs()

    def slope(self, residual: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return residual.abs(), residual.sign()

    def formula(self, r: str) -> str:
        return f"|{r}|"


class Quantile(Penalty):
    r"""Tilted absolute error, whose minimiser is a quantile of the labels rather than their median.

    .. math:: q \max(-r, 0) + (1 - q) \max(r, 0), \qquad r = \text{prediction} - \text{label}

    Args:
        quantile: share q of labels that shall lie below the prediction; 0.5 is half the absolute error.

    Raises:
        ValueError: if ``quantile`` is not between 0 and 1.

    References:
        R. Koenker and G. Bassett, Econometrica 46, 33 (1978).
    """

    symmetric: ClassVar[bool] = False

    def __init__(self, quantile: float = 0.5) -> None:
        super().__init__()
        self.quantile = check_quantile(quantile)

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        # not maximum(), whose gradient at zero is not zero
        return self.quantile * torch.relu(-residual) + (1 - self.quantile) * torch.relu(residual)

    def formula(self, r: str) -> str:
        return f"q·max(−{r}, 0) + (1 − q)·max({r}, 0), q = {self.quantile:g}"

    def extra_repr(self) -> str:
        return f"quantile={self.quantile:g}"


def check_quantile(quantile: float) -> float:
    """A quantile as a float.

    Raises:
        ValueError: if it is not between 0 and 1.
    """
    if isinstance(quantile, (str, bool)) or not 0 < quantile < 1:
        raise ValueError(f"A quantile is a share between 0 and 1, got {quantile!r}.")
    return float(quantile)
