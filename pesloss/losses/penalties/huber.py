"""Quadratic near zero, linear for outliers: the family of Huber's penalty."""

from __future__ import annotations

from abc import ABC
from math import inf, log
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.penalties.base import Penalty
from pesloss.losses.penalties.elementwise import check_quantile
from pesloss.losses.penalties.norms import length


class HuberLike(Penalty, ABC):
    """Quadratic near zero and linear beyond a ``delta``, which may be left open until the loss closes it.

    Args:
        delta: where the penalty turns linear, in the residual's unit. ``None`` leaves it to the
            ``huber_delta`` of the whole loss.
        scale: whether to divide by ``delta``.

    Raises:
        ValueError: if ``delta`` is not a positive number, or is used while still open.
    """

    moves: ClassVar[bool] = False
    """Whether training changes delta, which then is state rather than a number of the config."""

    def __init__(self, delta: float | None = None, *, scale: bool = False) -> None:
        super().__init__()
        self.scale = scale
        self.open = delta is None
        self.delta: Tensor
        self.register_buffer("delta", torch.tensor(float("nan"), dtype=torch.float64), persistent=self.moves)
        if delta is not None:
            self.set_delta(delta)

    def set_delta(self, delta: float) -> None:
        """Say where the penalty turns linear."""
        if isinstance(delta, (str, bool)) or not 0 < delta < inf:
            raise ValueError(
                f"{type(self).__name__} needs a finite delta > 0 in the residual's unit, got {delta!r}."
            )
        self.delta.fill_(delta)
        self.open = False

    def forward(self, residual: Tensor, label: Tensor) -> Tensor:
        delta, size = self._closed(residual.dtype), self.size(residual)
        cost = self.cost(size, self.limit(delta, label, size))
        return cost / delta if self.scale else cost

    def linear_share(self, residual: Tensor, label: Tensor) -> Tensor:
        size = self.size(residual)
        return size.abs() > self.limit(self._closed(size.dtype), label, size)

    def size(self, residual: Float[Tensor, "rows *entry"]) -> Float[Tensor, "rows *cost"]:
        """What is compared with delta."""
        return residual

    def limit(
        self,
        delta: Float[Tensor, ""],
        label: Float[Tensor, "rows *label_entry"],
        size: Float[Tensor, "rows *cost"],
    ) -> Float[Tensor, "*#limit"]:
        """Where each cost turns linear."""
        return delta

    def cost(self, size: Float[Tensor, "rows *cost"], limit: Float[Tensor, "*#limit"]) -> Tensor:
        """Costs that turn linear at a limit."""
        return huber(size, limit)

    def extra_repr(self) -> str:
        return f"delta={self.shown}{', scale=True' if self.scale else ''}"

    @property
    def shown(self) -> str:
        """Delta in words."""
        return "open" if self.open else f"{self.delta.item():g}"

    def _closed(self, dtype: torch.dtype) -> Float[Tensor, ""]:
        if self.open:
            kind = type(self).__name__
            raise ValueError(f"{kind} has no delta yet: give it one, or huber_delta to the whole loss.")
        return self.delta.to(dtype)


class Huber(HuberLike):
    r"""Quadratic near zero and linear for outliers, which therefore pull with a bounded force.

    .. math:: \tfrac12 r^2 \text{ for } |r| \le \delta, \qquad \delta\,(|r| - \tfrac12\delta) \text{ beyond.}

    With ``scale`` the cost is divided by :math:`\delta` (the smooth L1 error): the slope of outliers is 1 for
    every :math:`\delta`, so that sweeping :math:`\delta` does not sweep the weight of the term as well.

    Args:
        delta: where the penalty turns linear, in the residual's unit. ``None`` leaves it to the
            ``huber_delta`` of the whole loss.
        scale: whether to divide by ``delta``.

    Raises:
        ValueError: if ``delta`` is not a positive number, or is used while still open.

    References:
        P. J. Huber, Ann. Math. Statist. 35, 73 (1964).
    """

    def slope(self, residual: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        delta = self._closed(residual.dtype)
        near = residual.clamp(-delta, delta)
        cost = near * torch.sub(residual, near, alpha=0.5)
        return (cost / delta, near / delta) if self.scale else (cost, near)

    def formula(self, r: str) -> str:
        return f"{huber_formula(f'|{r}|', self.scale)}, δ = {self.shown}"


class HuberNorm(HuberLike):
    r"""Huber's penalty of the length of the error of a whole entry, the same in every rotated frame.

    .. math:: \tfrac12 \|r\|^2 \text{ for } \|r\| \le \delta, \qquad
              \delta\,(\|r\| - \tfrac12\delta) \text{ beyond.}

    Args:
        delta: length at which the penalty turns linear, in the residual's unit. ``None`` leaves it to the
            ``huber_delta`` of the whole loss.
        scale: whether to divide by ``delta``.

    Raises:
        ValueError: if ``delta`` is not a positive number, or is used while still open.
    """

    per_row: ClassVar[bool] = True

    def size(self, residual: Tensor) -> Tensor:
        return length(residual)

    def formula(self, r: str) -> str:
        return f"{huber_formula(f'‖{r}‖', self.scale)}, δ = {self.shown}"


class LogCosh(HuberLike):
    r"""Quadratic near zero and linear for outliers, with every derivative smooth in between.

    .. math:: \delta^2 \ln\cosh(r / \delta) \;\to\; \tfrac12 r^2 \;\text{ or }\; \delta\,|r| - \delta^2 \ln 2

    Args:
        delta: where the penalty turns linear, in the residual's unit. ``None`` leaves it to the
            ``huber_delta`` of the whole loss.
        scale: whether to divide by ``delta``.

    Raises:
        ValueError: if ``delta`` is not a positive number, or is used while still open.

    References:
        P. J. Green, IEEE Trans. Med. Imaging 9, 84 (1990).
    """

    def cost(self, size: Tensor, limit: Tensor) -> Tensor:
        x = size / limit
        # cosh x = 1 + 2 sinh²(x/2) keeps its digits near zero, e^|x| (1 + e^-2|x|) / 2 those of large x
        near = torch.log1p(2 * torch.sinh(0.5 * x.clamp(-1, 1)).square())
        far = x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - log(2)
        return limit.square() * torch.where(x.abs() < 1, near, far)

    def formula(self, r: str) -> str:
        return f"δ{'' if self.scale else '²'}·ln cosh({r}/δ), δ = {self.shown}"


class QuantileHuber(HuberLike):
    r"""Huber's penalty whose threshold follows the residuals: a fixed share of them counts as outliers.

    .. math:: \ln\delta \leftarrow \ln\delta + \eta\,\big(\text{share of } |r| > \delta \;-\; (1 - q)\big)

    once an optimizer step. As a model learns, delta shrinks with its residuals, and no number in eV has to be
    guessed. Delta is state: it is saved, and the same on every rank.

    Args:
        quantile: share q of residuals that are to lie in the quadratic zone.
        start: delta of the first step, in the residual's unit. ``None`` leaves it to the ``huber_delta`` of
            the whole loss.
        rate: step size η; delta can fall by a factor e in ``1 / (rate (1 - quantile))`` steps.
        scale: whether to divide by delta, so that the slope of outliers stays 1 while delta shrinks.

    Raises:
        ValueError: if ``quantile`` is not between 0 and 1, or ``rate`` or ``start`` not positive.

    References:
        J. H. Friedman, Ann. Statist. 29, 1189 (2001), section 4.4: delta as a quantile of the residuals;
        A. Yazidi and H. Hammer, IEEE Trans. Cybern. 49, 746 (2019): multiplicative tracking of a quantile.
    """

    moves: ClassVar[bool] = True

    def __init__(
        self, quantile: float = 0.9, start: float | None = None, rate: float = 0.1, *, scale: bool = False
    ) -> None:
        super().__init__(start, scale=scale)
        self.quantile = check_quantile(quantile)
        if isinstance(rate, (str, bool)) or not 0 < rate < inf:
            raise ValueError(f"QuantileHuber needs a finite rate > 0, got {rate!r}.")
        self.rate = rate

    @torch.no_grad()
    def advance(self, share: Float[Tensor, ""]) -> None:
        """Follow the residuals of a step.

        Args:
            share: share of the residuals of all ranks that are larger than delta; NaN if there was none.
        """
        rise = self.rate * (share - (1 - self.quantile))
        self.delta.mul_(torch.where(share.isnan(), 0, rise).exp())

    def formula(self, r: str) -> str:
        follows = f"δ = {self.shown}, moved at rate {self.rate:g} to the {self.quantile:g} quantile of |{r}|"
        return f"{huber_formula(f'|{r}|', self.scale)}, {follows}"

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, quantile={self.quantile:g}, rate={self.rate:g}"


def huber(size: Float[Tensor, "rows *cost"], limit: Float[Tensor, "*#limit"]) -> Float[Tensor, "rows *cost"]:
    """Huber's penalty in one expression for both branches: r²/2 inside, where clamping changes nothing."""
    near = size.clamp(-limit, limit)
    return near * torch.sub(size, near, alpha=0.5)


def huber_formula(size: str, scale: bool, delta: str = "δ") -> str:
    """Huber's penalty in symbols.

    Args:
        size: what is compared with the threshold.
        scale: whether the cost is divided by δ.
        delta: the threshold.
    """
    if not scale:
        return f"½{size}² for {size} ≤ {delta}, {delta}({size} − ½{delta}) beyond"
    linear = f"{size} − ½δ" if delta == "δ" else f"{delta}/δ·({size} − ½{delta})"
    return f"½{size}²/δ for {size} ≤ {delta}, {linear} beyond"
