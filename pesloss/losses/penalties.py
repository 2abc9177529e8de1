"""What a residual costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.losses.batch import flat_rows


class Penalty(nn.Module, ABC):
    """Cost of a residual: even, zero at zero with zero gradient there, growing with the residual.

    ``per_row`` penalties see an entry (a force, a stress) as a whole and give one cost a row;
    ``shaped_by_label`` ones look at the label and get 0 where it is missing.
    """

    per_row: ClassVar[bool] = False
    shaped_by_label: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, residual: Float[Tensor, "rows *entry"], label: Float[Tensor, "rows *label_entry"]
    ) -> Float[Tensor, "rows *cost"]:
        """Cost of every component, or of every row.

        Args:
            residual: prediction against label, in the residual's unit.
            label: the label, for penalties whose shape depends on it.
        """


class Squared(Penalty):
    """Squared error r², the negative log-likelihood of Gaussian noise up to constants."""

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return residual * residual


class Absolute(Penalty):
    """Absolute error, whose minimiser is the median."""

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return residual.abs()


class Huber(Penalty):
    r"""Quadratic near zero and linear for outliers, which therefore pull with a bounded force.

    .. math:: \tfrac12 r^2 \text{ for } |r| \le \delta, \qquad \delta\,(|r| - \tfrac12\delta) \text{ beyond.}

    With ``scale`` the cost is divided by :math:`\delta`: the slope of outliers is 1 for every
    :math:`\delta`, so that sweeping :math:`\delta` does not sweep the weight of the term as well.

    Args:
        delta: where the penalty turns linear, in the residual's unit. ``None`` leaves it to the
            ``huber_delta`` of the whole loss.
        scale: whether to divide by ``delta``.

    Raises:
        ValueError: if ``delta`` is not a positive number, or is used while still open.

    References:
        P. J. Huber, Ann. Math. Statist. 35, 73 (1964).
    """

    def __init__(self, delta: float | None = None, *, scale: bool = False) -> None:
        super().__init__()
        self.scale = scale
        self.open = delta is None
        self.delta: Tensor
        self.register_buffer("delta", torch.tensor(float("nan"), dtype=torch.float64), persistent=False)
        if delta is not None:
            self.set_delta(delta)

    def set_delta(self, delta: float) -> None:
        """Say where the penalty turns linear."""
        if isinstance(delta, (str, bool)) or not 0 < delta < float("inf"):
            raise ValueError(f"Huber needs a finite delta > 0 in the residual's unit, got {delta!r}.")
        self.delta.fill_(delta)
        self.open = False

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        if self.open:
            raise ValueError(
                "Huber has no delta yet: give it Huber(delta=...), or huber_delta to the whole loss."
            )
        delta = self.delta.to(residual.dtype)
        # one expression for both branches: r²/2 inside, where clamping changes nothing
        near = residual.clamp(-delta, delta)
        cost = near * torch.sub(residual, near, alpha=0.5)
        return cost / delta if self.scale else cost

    def extra_repr(self) -> str:
        delta = "open" if self.open else f"{self.delta.item():g}"
        return f"delta={delta}{', scale=True' if self.scale else ''}"


class L2Norm(Penalty):
    r"""Length of the error of a whole entry (a force, a stress), the same in every rotated frame.

    .. math:: \sqrt{\textstyle\sum_c r_c^2}

    The gradient at zero length is zero.
    """

    per_row: ClassVar[bool] = True

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return torch.linalg.vector_norm(flat_rows(residual), dim=1)


PENALTIES = {
    "squared": Squared,
    "absolute": Absolute,
    "huber": Huber,
    "scaled_huber": partial(Huber, scale=True),
    "l2_norm": L2Norm,
}
