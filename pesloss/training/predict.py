"""What a potential says of structures it does not learn from."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from pesloss.data import Packed, batches
from pesloss.data.loader import loader
from pesloss.losses import Batch, Predictions
from pesloss.models import Potential


def predict(
    potential: Potential,
    part: Packed,
    properties: Collection[str],
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[Batch, Predictions]]:
    """A rank's share of some structures, batch by batch in their order, with predictions that are detached.

    Args:
        potential: put into ``eval()``.
        part: the structures.
        properties: what to predict.
        batch_size: structures of a batch, on all ranks together.
        device: where the potential is.
        rank: this process.
        world_size: number of processes.
    """
    potential.eval()
    for batch in loader(part, batches(part, batch_size, rank=rank, world_size=world_size), device):
        yield batch, potential(batch, properties)
