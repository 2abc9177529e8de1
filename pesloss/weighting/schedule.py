"""Weights that change as training goes on, by a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import cos, pi
from typing import Literal, get_args

import torch
from torch import Tensor

from pesloss.names import unknown
from pesloss.weighting.base import Weighting, Weights

Axis = Literal["epoch", "step", "learning_rate"]
Between = Literal["constant", "linear", "cosine"]


class Schedule(Weighting):
    r"""Configured weights times a factor that is given at a few points of training.

    Between two points the factor keeps the value of the first (``constant``), or goes to that of the second
    on a straight line or half a cosine; before the first and after the last point it stays. Along
    ``learning_rate`` the points are fractions of the first learning rate: ``{0: 1, 1: 50}`` is 50 at the
    start and goes to 1 as the rate goes to 0.

    The loss has to be told where training stands, by ``place`` and ``advance`` of
    :class:`pesloss.losses.TotalLoss`, as the app does.

    Args:
        factors: by term and point; terms that are not named keep their weights.
        by: what the points are: completed ``epoch`` or ``step``, or the ``learning_rate`` of the step.
        between: ``constant``, ``linear`` or ``cosine``.
        normalize: divide the weights by their sum.

    Raises:
        ValueError: for an unknown term, axis or interpolation, no point, or a factor that is negative.
        RuntimeError: if a training step is taken before the loss was told where training stands.
    """

    def __init__(
        self,
        factors: Mapping[str, Mapping[float, float]],
        *,
        by: Axis = "epoch",
        between: Between = "constant",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if by not in get_args(Axis):
            raise ValueError(unknown("axis of a schedule", by, get_args(Axis)))
        if between not in get_args(Between):
            raise ValueError(unknown("interpolation", between, get_args(Between)))
        self.factors = {name: _points(name, points) for name, points in factors.items()}
        self.by, self.between, self.normalize = by, between, normalize
        self.current: Tensor

    def setup(self, prior: Mapping[str, float], removed: Sequence[str] = ()) -> None:
        super().setup(prior, removed)
        for name in self.factors:
            if name not in prior and name not in removed:
                raise ValueError(f"Schedule: {unknown('term', name, prior)}")
        # where training stands is told again after a checkpoint was loaded
        self.register_buffer(
            "current", self._at(0.0 if self.by != "learning_rate" else 1.0), persistent=False
        )

    def forward(self, values: Tensor, labels: Tensor) -> Weights:
        self.check_placed()
        return Weights(torch.where(labels > 0, self.current, 0).to(values.dtype))

    def advance(self, *, epoch: int, step: int, learning_rate: float) -> None:
        at = {"epoch": epoch, "step": step, "learning_rate": learning_rate}[self.by]
        self.current.copy_(self._at(float(at)))
        self.placed = True

    def formula(self, name: str) -> str:
        points = self.factors.get(name)
        value = f"{float(self.current[self.names.index(name)]):g}"
        if points is None:
            return value
        plan = ", ".join(f"×{factor:g} at {self.by} {at:g}" for at, factor in points)
        return f"{value}, scheduled ({self.between}): {plan}"

    def _at(self, position: float) -> Tensor:
        found = [
            _interpolate(self.factors[name], position, self.between) if name in self.factors else 1.0
            for name in self.names
        ]
        weights = self.prior * torch.tensor(found, dtype=torch.float64, device=self.prior.device)
        return weights / weights.sum() if self.normalize else weights


def _points(name: str, points: Mapping[float, float]) -> list[tuple[float, float]]:
    if not points:
        raise ValueError(f"Schedule of '{name}' needs at least one point, {{0: 1.0}}.")
    for factor in points.values():
        if not 0 <= factor < float("inf"):
            raise ValueError(f"Schedule of '{name}': a factor must be finite and not negative, got {factor}.")
    return sorted((float(at), float(factor)) for at, factor in points.items())


def _interpolate(points: Sequence[tuple[float, float]], position: float, between: str) -> float:
    before = [point for point in points if point[0] <= position]
    after = [point for point in points if point[0] > position]
    if not (before and after) or between == "constant":
        return (before[-1] if before else after[0])[1]
    (left, low), (right, high) = before[-1], after[0]
    share = (position - left) / (right - left)
    if between == "cosine":
        share = 0.5 - 0.5 * cos(pi * share)
    return low + (high - low) * share
