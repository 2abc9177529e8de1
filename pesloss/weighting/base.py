"""From the values of the terms to their weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn


class Weights(NamedTuple):
    """Weights of the terms, and what the weighting itself adds to the total.

    Args:
        values: weight of each term; a term that had no label has weight 0.
        regulariser: ``total = Σ weight · value + regulariser``; ``None`` if it adds nothing.
    """

    values: Float[Tensor, "terms"]
    regulariser: Float[Tensor, ""] | None = None


class Weighting(nn.Module, ABC):
    """Weights of the terms of a loss, configured, scheduled or learned.

    State that changes a later step is a parameter or a buffer, so that it is saved, moved and equal on
    every rank.
    """

    prior: Tensor

    def setup(self, prior: Sequence[float]) -> None:
        """Told once, by the loss, the configured weight of each of its terms (all positive).

        Raises:
            ValueError: if the weighting belongs to a loss already.
        """
        if hasattr(self, "prior"):
            raise ValueError(f"This {type(self).__name__} belongs to a loss already; give each loss its own.")
        # what is configured comes from the config, also after a checkpoint was loaded
        self.register_buffer("prior", torch.tensor(prior, dtype=torch.float64), persistent=False)

    @abstractmethod
    def forward(self, values: Float[Tensor, "terms"], labels: Num[Tensor, "terms"]) -> Weights:
        """Weights for the step.

        Args:
            values: value of each term.
            labels: number of labelled components of each term in the whole optimizer step.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of what the weighting learns, with the options these parameters need."""
        return []
