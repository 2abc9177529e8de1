"""Weights whose step makes progress in every term."""

from __future__ import annotations

import torch
from torch import Tensor

from pesloss.weighting.gradients import GradientWeighting


class ConflictFree(GradientWeighting):
    r"""ConFIG: a step whose cosine with the gradient of each term is in proportion to the term's weight.

    .. math:: \hat x = \frac{A^+ b}{\|A^+ b\|}, \qquad
              g = \Big(\sum_t g_t \cdot \hat x\Big)\, \hat x = \sum_t w_t\, g_t

    with the unit gradients :math:`g_t/\|g_t\|` as rows of A and the configured weights as b. As
    :math:`\hat x` is in the span of the gradients, the weights :math:`w_t` follow from their scalar products
    alone. All cosines are positive, so that no term rises to let another fall, but a :math:`w_t` may be
    negative where gradients are nearly parallel. Configured weights say nothing about lengths: only their
    ratios count, and a term that is alone keeps its own gradient.

    A gradient that is zero, such as that of a term without labels, is left out. Parallel gradients are
    summed; so are opposite ones, but if their configured weights are equal there is no step. Gradients that
    are not finite keep the configured weights, to be found where they are.

    Args:
        epsilon: eigenvalues of the matrix of cosines :math:`AA^T`, relative to the largest, and lengths
            :math:`\|A^+ b\|` (of a b of length 1), that count as zero: at :math:`10^{-8}`, gradients are
            parallel if less than about :math:`10^{-4}` rad apart.

    Raises:
        ValueError: if epsilon is not between 0 and 1.
        RuntimeError: if the loss is asked for one total to differentiate in training mode.

    References:
        Q. Liu, M. Chu, N. Thuerey, ICLR 2025 (arXiv:2408.11104), eqs. 2 and 3.
    """

    def __init__(self, epsilon: float = 1e-8) -> None:
        super().__init__()
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon of ConflictFree must be between 0 and 1, got {epsilon}.")
        self.epsilon = epsilon

    def from_gradients(self, gram: Tensor) -> Tensor:
        finite = gram.isfinite().all()
        products = torch.where(finite, gram.double(), 0)
        lengths = products.diagonal().sqrt()
        inverse = torch.where(lengths > 0, 1 / lengths, 0)
        cosines = products * inverse * inverse[:, None]
        wanted = self.prior / self.prior.norm()
        solution = torch.linalg.pinv(cosines, rtol=self.epsilon, hermitian=True) @ wanted
        length = (solution @ cosines @ solution).clamp(min=0).sqrt()
        direction = solution * inverse / length.clamp(min=self.epsilon)
        weights = (products @ direction).sum() * direction
        return torch.where(finite, weights, self.prior)

    def formula(self, name: str) -> str:
        share = float(self.prior[self.names.index(name)])
        return f"set by all gradients: cosine of the step with that of this term ∝ {share:g}"
