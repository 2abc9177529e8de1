"""From the gradients of the terms to their weights."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from pesloss.weighting.base import Weighting, Weights


class GradientWeighting(Weighting):
    """Weights that depend on where the gradients of the terms point, not on the terms' values.

    They are known only after the gradient of each term was taken by itself, as
    :class:`pesloss.losses.TermGradients` does it; the app trains so where a loss has such weights. That
    takes one backward pass for each term and room for as many gradients of the model. In ``eval()`` the
    weights are the configured ones.

    Raises:
        RuntimeError: if the loss is asked for one total to differentiate in training mode.
    """

    def forward(self, values: Tensor, labels: Tensor) -> Weights:
        if self.training:
            raise RuntimeError(
                f"The weights of {type(self).__name__} follow from the gradient of each term: train with "
                "pesloss.losses.TermGradients(loss, model.parameters()) in place of loss(...).backward(), "
                "or call loss.eval() for a value with the configured weights."
            )
        return Weights(self.prior.to(values.dtype))

    @abstractmethod
    def from_gradients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, "terms"]:
        """Weights such that Σ weight · gradient is the gradient of the step; 0 for a gradient that is 0.

        Args:
            gram: scalar products of the terms' gradients by all parameters of the model, over all batches
                and ranks of the step.
        """
