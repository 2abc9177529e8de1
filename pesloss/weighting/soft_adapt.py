"""Weights that follow how fast each term falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pesloss.names import unknown
from pesloss.weighting.base import Weighting, Weights

Interval = Literal["epoch", "step"]


class SoftAdapt(Weighting):
    r"""More weight for terms that fall slowly, from a softmax of how their values changed.

    .. math:: a_t = \operatorname{softmax}_t \frac{\beta\, \Delta_t}{\max(\|\Delta\|, \epsilon)}, \qquad
              w_t \leftarrow \langle a_t w_t \rangle\, \frac{\sum w}{\sum \langle a w \rangle}

    with Δ the change of a term's value between two intervals, and ⟨⟩ the mean over the ``frequency``
    intervals since the last update. The sum of the weights stays what was configured. A term without labels
    in an interval keeps its last value.

    The loss has to be told where training stands, by ``place`` and ``advance`` of
    :class:`pesloss.losses.TotalLoss`, as the app does.

    Args:
        beta: how strongly; negative values favour terms that fall fast.
        interval: ``epoch`` or ``step``.
        frequency: intervals between two updates.
        epsilon: smallest norm of the changes.
        faithful: as NequIP does it, where the mean is over the interval that ends at a multiple of
            ``frequency`` and the one after it, and a ``frequency`` of 1 never updates.

    Raises:
        ValueError: for an unknown interval, or a frequency below 1.
        RuntimeError: if a training step is taken before the loss was told where training stands.

    References:
        A. A. Heydari, C. A. Thompson, A. Mehmood, arXiv:1912.12355 (2019); D. Ocampo, D. Posso, R. Namakian,
        W. Gao, Comput. Mater. Sci. 244, 113155 (2024), for potentials.
    """

    def __init__(
        self,
        beta: float = 1.1,
        *,
        interval: Interval = "epoch",
        frequency: int = 5,
        epsilon: float = 1e-8,
        faithful: bool = False,
    ) -> None:
        super().__init__()
        if interval not in get_args(Interval):
            raise ValueError(unknown("interval", interval, get_args(Interval)))
        if frequency < 1:
            raise ValueError(f"SoftAdapt needs a frequency of at least 1 interval, got {frequency}.")
        self.beta, self.interval, self.frequency, self.epsilon = beta, interval, frequency, epsilon
        self.faithful = faithful
        self.current: Tensor
        self.previous: Tensor
        self.known: Tensor
        self.step_values: Tensor
        self.step_seen: Tensor
        self.sums: Tensor
        self.counts: Tensor
        self.cached: Tensor
        self.num_cached: Tensor
        self.position: Tensor

    def setup(self, prior: Mapping[str, float], removed: Sequence[str] = ()) -> None:
        super().setup(prior, removed)
        zeros = torch.zeros_like(self.prior)
        self.register_buffer("current", self.prior.clone())
        self.register_buffer("previous", zeros.clone())
        self.register_buffer("known", torch.zeros(len(prior), dtype=torch.bool))
        self.register_buffer("step_values", zeros.clone())
        self.register_buffer("step_seen", torch.zeros(len(prior), dtype=torch.bool))
        self.register_buffer("sums", zeros.clone())
        self.register_buffer("counts", zeros.clone())
        self.register_buffer("cached", zeros.clone())
        self.register_buffer("num_cached", torch.tensor(0))
        self.register_buffer("position", torch.tensor(-1))

    def forward(self, values: Tensor, labels: Tensor) -> Weights:
        self.check_placed()
        if self.training:
            with torch.no_grad():
                # the batches of an accumulated step each hold a share of its values
                self.step_values += values.detach()
                self.step_seen |= labels > 0
        return Weights(torch.where(labels > 0, self.current, 0).to(values.dtype))

    def advance(self, *, epoch: int, step: int, learning_rate: float) -> None:
        self.placed = True
        self.sums += self.step_values
        self.counts += self.step_seen
        self.step_values.zero_()
        self.step_seen.zero_()
        now, before = (epoch if self.interval == "epoch" else step), int(self.position)
        self.position.fill_(now)
        if before >= 0 and now > before:
            self._observe(now)

    def formula(self, name: str) -> str:
        return f"{float(self.current[self.names.index(name)]):.4g}, adapted to how fast the term falls"

    def _observe(self, now: int) -> None:
        """One interval is over: what its values say of the weights."""
        seen = self.counts > 0
        values = torch.where(seen, self.sums / self.counts.clamp(min=1), self.previous)
        self.sums.zero_()
        self.counts.zero_()
        if self.faithful and now % self.frequency == 0:
            self._forget()
        if bool(self.known.any()):
            change = torch.where(self.known, values - self.previous, 0)
            weights = self.current * torch.softmax(self.beta * change / change.norm().clamp(self.epsilon), 0)
            self.cached += weights / weights.sum()
            self.num_cached += 1
        self.previous.copy_(values)
        self.known |= seen
        if now % self.frequency == int(self.faithful) and int(self.num_cached):
            self.current.copy_(self.prior.sum() * self.cached / self.num_cached)
            self._forget()

    def _forget(self) -> None:
        self.cached.zero_()
        self.num_cached.zero_()
