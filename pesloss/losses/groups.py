"""Weights of groups of structures: config types (bulk, surface, ...) and datasets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.losses.batch import Batch, group_code
from pesloss.losses.terms.base import check_weight


class GroupWeights(nn.Module):
    """Weight of each structure by the name of the group it belongs to; 1 for names that are not listed.

    Args:
        key: entry of the batch with the groups' codes, ``config_type`` or ``dataset``.
        weights: weight by name of the group; 0 removes its structures.

    Raises:
        ValueError: for a weight that is negative or not finite.
        KeyError: if a batch has no such entry.
    """

    def __init__(self, key: str, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.key = key
        self.names = tuple(weights)
        values = [check_weight(f"{key} weight of '{name}'", weight) for name, weight in weights.items()]
        self.codes: Tensor
        self.weights: Tensor
        self.register_buffer("codes", torch.tensor([group_code(name) for name in weights]), persistent=False)
        self.register_buffer("weights", torch.tensor(values, dtype=torch.float64), persistent=False)

    @property
    def by_name(self) -> dict[str, float]:
        """Weights by name of the group."""
        return dict(zip(self.names, self.weights.tolist(), strict=True))

    def forward(self, batch: Batch) -> Float[Tensor, "structures"]:
        """Weight of every structure."""
        if self.key not in batch:
            raise KeyError(
                f"Weights are given for {self.key} {list(self.names)}, but the batch has no '{self.key}' "
                f"[structures] of group codes (pesloss.losses.group_code); found {sorted(batch)}."
            )
        member = batch[self.key][:, None] == self.codes
        listed = torch.where(member, self.weights, 0).sum(1)
        return torch.where(member.any(1), listed, 1)
