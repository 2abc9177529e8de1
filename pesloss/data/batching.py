"""Which structures make up each optimizer step, on each rank."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def batches(
    num: int,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
) -> list[Int64[Tensor, "_"]]:
    """The steps of an epoch: every structure once, the same steps however many ranks share them.

    Each step's ``batch_size`` structures are divided over the ranks as evenly as possible. All ranks take
    the same number of steps; in a small last one a rank may have no structure at all.

    Args:
        num: number of structures.
        batch_size: structures of an optimizer step, on all ranks together.
        shuffle: whether each epoch has an order of its own.
        seed: of the order.
        epoch: number of the epoch, from 0.
        rank: this process.
        world_size: number of processes.
        drop_last: whether an incomplete last step is left out.

    Returns:
        For each step the positions of this rank's structures.

    Raises:
        ValueError: if a number makes no sense, or no step is left.
    """
    _check(num, batch_size, rank, world_size, drop_last)
    steps = _order(num, shuffle, seed, epoch).split(batch_size)
    if drop_last and len(steps[-1]) < batch_size:
        steps = steps[:-1]
    return [step.tensor_split(world_size)[rank] for step in steps]


def _order(num: int, shuffle: bool, seed: int, epoch: int) -> Int64[Tensor, "num"]:
    if not shuffle:
        return torch.arange(num)
    # NumPy mixes the two numbers, so that seed 0 in epoch 1 is not seed 1 in epoch 0
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(num))


def _check(num: int, batch_size: int, rank: int, world_size: int, drop_last: bool) -> None:
    if num < 1:
        raise ValueError(f"There are no structures to make batches of: num is {num}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie between 0 and world_size - 1 = {world_size - 1}, got {rank}.")
    if drop_last and num < batch_size:
        raise ValueError(
            f"drop_last leaves no step: {num} structures are fewer than batch_size = {batch_size}."
        )
