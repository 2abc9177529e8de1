"""Weights learned as the variances of the terms' noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pesloss.names import unknown
from pesloss.weighting.base import Weighting, Weights

Form = Literal["likelihood", "kendall", "tace"]


class Uncertainty(Weighting):
    r"""Homoscedastic uncertainty: each term has Gaussian noise of its own, whose log-variance is learned.

    .. math::
        \text{likelihood:}\quad & \sum_t n_t (\tfrac12 e^{-s_t} L_t + \tfrac12 s_t) \,/ \sum_t n_t \\
        \text{kendall:}\quad & \sum_t \tfrac12 e^{-s_t} L_t + \tfrac12 s_t \\
        \text{tace:}\quad & \sum_t \tfrac12 e^{-s_t} L_t + s_t

    with :math:`n_t` the labelled components of the term in the step. ``likelihood`` is the negative
    log-likelihood of all labels, one observation a component, and rests at :math:`s_t = \ln L_t`. The other
    two count every term as one observation, which overweights energies by about :math:`3N`.

    The first effective weights are the configured ones: :math:`s_t = -\ln 2w_t`, in the likelihood
    relative to the term's share of the labels in the first training step that has any
    (:math:`s_t = -\ln 2w_t + \ln(n_t / \sum n)`, kept in ``log_share``).
    A term without labels in a step has weight 0, adds nothing, and its log-variance gets a zero gradient.

    Args:
        form: which of the three.
        bounds: range of the log-variances; at an end, gradients that point further out are stopped.
        learning_rate: learning rate of the log-variances; ``None`` for that of the optimizer.

    Raises:
        ValueError: for an unknown form, bounds out of order, or a weight whose start lies outside of them.

    References:
        A. Kendall, Y. Gal, R. Cipolla, CVPR 2018 (arXiv 1705.07115), eq. 7, with :math:`s = \ln\sigma^2`.
    """

    def __init__(
        self,
        form: Form = "likelihood",
        *,
        bounds: Sequence[float] = (-25.0, 25.0),
        learning_rate: float | None = 0.01,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(unknown("form of uncertainty weighting", form, get_args(Form)))
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ValueError(f"bounds of the log-variances must be (low, high), got {tuple(bounds)}.")
        self.form = form
        self.bounds = (float(bounds[0]), float(bounds[1]))
        self.learning_rate = learning_rate
        self.log_share: Tensor
        self.seen: Tensor

    def setup(self, prior: Mapping[str, float], removed: Sequence[str] = ()) -> None:
        super().setup(prior, removed)
        start = -(2 * self.prior).log()
        low, high = self.bounds
        if not bool(((low < start) & (start < high)).all()):
            raise ValueError(
                f"Weights {dict(prior)} start at log-variances {start.tolist()}, outside of {self.bounds}."
            )
        self.log_variance = nn.Parameter(start)
        self.register_buffer("log_share", torch.zeros_like(start))
        self.register_buffer("seen", torch.zeros(len(prior), dtype=torch.bool))

    def forward(self, values: Tensor, labels: Tensor) -> Weights:
        labels = labels.to(self.log_variance.dtype)
        present = labels > 0
        share = present.to(labels.dtype)
        start = self.log_variance
        if self.form == "likelihood":
            share = labels / torch.where(present.any(), labels.sum(), 1)
            start = start + self._log_share(share, present)
        log_variance = _Bounded.apply(start, *self.bounds)
        weights = 0.5 * share * torch.exp(-log_variance)
        regulariser = (1.0 if self.form == "tace" else 0.5) * (share * log_variance).sum()
        return Weights(weights.to(values.dtype), regulariser.to(values.dtype))

    def formula(self, name: str) -> str:
        value = float(self.log_variance.detach()[self.names.index(name)])
        share = "n/Σn · " if self.form == "likelihood" else ""
        return f"{share}½exp(−s), s = {value:.4g} learned"

    def parameter_groups(self) -> list[dict[str, Any]]:
        group: dict[str, Any] = {"params": [self.log_variance], "weight_decay": 0.0}
        return [group if self.learning_rate is None else {**group, "lr": self.learning_rate}]

    def extra_repr(self) -> str:
        return f"form={self.form}, bounds={self.bounds}, learning_rate={self.learning_rate}"

    @torch.no_grad()
    def _log_share(self, share: Tensor, present: Tensor) -> Tensor:
        """Logarithm of each term's share of the labels in the first step that had any, kept in training."""
        new = present & ~self.seen
        log_share = torch.where(new, torch.where(present, share, 1).log(), self.log_share)
        if self.training:
            self.log_share.copy_(log_share)
            self.seen.logical_or_(new)
        return log_share


class _Bounded(torch.autograd.Function):
    """Clamp that lets gradients pass unless a descent step would lead further out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, low: float, high: float) -> Tensor:
        return values.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, ctx.low, ctx.high = inputs
        ctx.save_for_backward(values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        (grad,) = grad_outputs
        outward = ((values >= ctx.high) & (grad < 0)) | ((values <= ctx.low) & (grad > 0))
        return torch.where(outward, 0, grad), None, None
