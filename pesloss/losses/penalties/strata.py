"""Penalties that depend on how large the label is: large forces of rare configurations count less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.losses.batch import spread_rows
from pesloss.losses.penalties.base import Penalty
from pesloss.losses.penalties.huber import HuberLike, huber, huber_formula
from pesloss.losses.penalties.norms import length

THRESHOLDS = (100.0, 200.0, 300.0)
FACTORS = (1.0, 0.7, 0.4, 0.1)


class Strata(nn.Module):
    """One number for each range of label magnitudes; a magnitude on a threshold belongs above it.

    Args:
        thresholds: where a range ends and the next begins, increasing, in the label's unit.
        values: the numbers, one more than thresholds.

    Raises:
        ValueError: if thresholds do not increase, values are not positive, or their numbers do not fit.
    """

    def __init__(self, thresholds: Sequence[float], values: Sequence[float]) -> None:
        super().__init__()
        if len(values) != len(thresholds) + 1:
            raise ValueError(
                f"{len(thresholds)} thresholds make {len(thresholds) + 1} strata, got {len(values)} numbers "
                f"for them: {list(values)}."
            )
        ends = [0.0, *thresholds, inf]
        if not all(low < high for low, high in pairwise(ends)):
            raise ValueError(f"Thresholds must be positive and increase, got {list(thresholds)}.")
        if not all(value > 0 for value in values):
            raise ValueError(f"Numbers of strata must be positive, got {list(values)}.")
        self.thresholds: Tensor
        self.values: Tensor
        for name, numbers in (("thresholds", thresholds), ("values", values)):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float64), persistent=False)

    def forward(
        self, label: Float[Tensor, "rows *label_entry"], costs: Float[Tensor, "rows *cost"]
    ) -> Float[Tensor, "rows *ones"]:
        """Number of each row's stratum, broadcastable to its costs and in their precision."""
        stratum = (length(label)[:, None] >= self.thresholds).sum(1)
        return spread_rows(self.values.to(costs.dtype)[stratum], costs.dim() - 1)

    def formula(self) -> str:
        """Numbers and where they hold."""
        starts = ["0", *(f"{threshold:g}" for threshold in self.thresholds.tolist())]
        values = [f"{value:g}".replace("inf", "∞") for value in self.values.tolist()]
        return f"({', '.join(values)}) for ‖label‖ from ({', '.join(starts)})"


class ConditionalHuber(HuberLike):
    r"""Huber's penalty with a smaller threshold for larger labels, so that extreme forces pull less.

    .. math:: \text{Huber}_{\delta_k}(r), \qquad
              \delta_k = \delta f_k \;\text{ for }\; t_k \le \|\text{label}\| < t_{k+1}

    Args:
        delta: threshold of the smallest labels, in the residual's unit. ``None`` leaves it to the
            ``huber_delta`` of the whole loss.
        thresholds: magnitudes of the label where the factor changes, in the label's unit.
        factors: factors of delta, one more than thresholds.
        scale: whether to divide by ``delta``; outliers then pull with the factor of their stratum.

    Raises:
        ValueError: if ``delta`` or a factor is not positive, or thresholds do not increase.

    References:
        I. Batatia et al., arXiv:2401.00096 (2024): these thresholds and factors.
    """

    shaped_by_label: ClassVar[bool] = True

    def __init__(
        self,
        delta: float | None = None,
        thresholds: Sequence[float] = THRESHOLDS,
        factors: Sequence[float] = FACTORS,
        *,
        scale: bool = False,
    ) -> None:
        super().__init__(delta, scale=scale)
        self.strata = Strata(thresholds, factors)

    def limit(self, delta: Tensor, label: Tensor, size: Tensor) -> Tensor:
        return delta * self.strata(label, size)

    def formula(self, r: str) -> str:
        parts = huber_formula(f"|{r}|", self.scale, "δₖ")
        return f"{parts}, δₖ = δ·{self.strata.formula()}, δ = {self.shown}"


class ConditionalSquared(Penalty):
    r"""Squared error with a smaller weight for larger labels.

    .. math:: f_k\, r^2 \quad \text{for } t_k \le \|\text{label}\| < t_{k+1}

    Args:
        thresholds: magnitudes of the label where the factor changes, in the label's unit.
        factors: factors, one more than thresholds.

    Raises:
        ValueError: if a factor is not positive, or thresholds do not increase.
    """

    shaped_by_label: ClassVar[bool] = True

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS, factors: Sequence[float] = FACTORS) -> None:
        super().__init__()
        self.strata = Strata(thresholds, factors)

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return self.strata(label, residual) * residual * residual

    def formula(self, r: str) -> str:
        return f"fₖ·{r}², fₖ = {self.strata.formula()}"


class StratifiedHuber(Penalty):
    r"""Huber's penalty with a threshold of its own for each range of label magnitudes.

    .. math:: \text{Huber}_{\delta_k}(r) \quad \text{for } b_k \le \|\text{label}\| < b_{k+1}

    Below the first bound it is :math:`\tfrac12 r^2`.

    Args:
        deltas: delta, in the residual's unit, by the lower bound of its range, in the label's.

    Raises:
        ValueError: if there is no range, a bound is negative or not finite, or a delta not positive.
    """

    shaped_by_label: ClassVar[bool] = True

    def __init__(self, deltas: Mapping[float, float]) -> None:
        super().__init__()
        if not deltas or not all(0 <= bound < inf for bound in deltas):
            raise ValueError(
                f"StratifiedHuber needs {{lower bound of ‖label‖ >= 0: delta}}, got {dict(deltas)}."
            )
        bounds = sorted(deltas)
        values = [deltas[bound] for bound in bounds]
        below = [] if bounds[0] == 0 else [inf]
        self.strata = Strata(bounds if below else bounds[1:], below + values)

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        return huber(residual, self.strata(label, residual))

    def linear_share(self, residual: Tensor, label: Tensor) -> Tensor:
        return residual.abs() > self.strata(label, residual)

    def formula(self, r: str) -> str:
        return f"{huber_formula(f'|{r}|', False, 'δₖ')}, δₖ = {self.strata.formula()}"
