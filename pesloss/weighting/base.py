"""From the values of the terms to their weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
    names: tuple[str, ...]
    placed: bool = False
    """Whether the loss was told where training stands."""

    def setup(self, prior: Mapping[str, float], removed: Sequence[str] = ()) -> None:
        """Told once, by the loss, the configured weight of each of its terms by name (all positive).

        Args:
            prior: weights by name.
            removed: terms of weight 0, which a config may name although they are gone.

        Raises:
            ValueError: if the weighting belongs to a loss already.
        """
        if hasattr(self, "prior"):
            raise ValueError(f"This {type(self).__name__} belongs to a loss already; give each loss its own.")
        self.names = tuple(prior)
        # what is configured comes from the config, also after a checkpoint was loaded
        values = torch.tensor(list(prior.values()), dtype=torch.float64)
        self.register_buffer("prior", values, persistent=False)

    @abstractmethod
    def forward(self, values: Float[Tensor, "terms"], labels: Num[Tensor, "terms"]) -> Weights:
        """Weights for the step.

        Args:
            values: value of each term.
            labels: number of labelled components of each term in the whole optimizer step.
        """

    def check_placed(self) -> None:
        """For weightings that change with training: refuse to train as if they did not.

        Raises:
            RuntimeError: if a training step is taken before the loss was told where training stands.
        """
        if self.training and not self.placed:
            raise RuntimeError(
                f"The weights of {type(self).__name__} change with training: call loss.place() before the "
                "first optimizer step, and loss.advance(epoch=..., step=..., learning_rate=...) after each."
            )

    def advance(self, *, epoch: int, step: int, learning_rate: float) -> None:
        """Told before the first optimizer step and after each, where training stands.

        Args:
            epoch: completed epochs.
            step: completed optimizer steps.
            learning_rate: of the next step, relative to that of the first.
        """

    @abstractmethod
    def formula(self, name: str) -> str:
        """Weight of a term as it stands, in words and symbols."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of what the weighting learns, with the options these parameters need."""
        return []
