"""Which structures make up each optimizer step, on each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from pesloss.data.storage.packed import Packed


def batches(
    part: Packed | int,
    batch_size: int | None = None,
    *,
    max_atoms: int | None = None,
    max_edges: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> list[Int64[Tensor, "_"]]:
    """The steps of an epoch: every structure once, the same steps however many ranks share them.

    A step has ``batch_size`` structures, or as many in their order as fit into ``max_atoms`` and
    ``max_edges``, so that steps of ragged structures cost the same. It is divided over the ranks as evenly
    as possible, by what limits it. All ranks take the same number of steps; in a small one a rank may have
    no structure at all.

    Where the order is shuffled, a file with ``sampling`` other than 1 is taken as often as that says: its n
    structures give ``round(sampling · n)`` draws an epoch, whole passes and a random share of the rest.

    Args:
        part: the structures, or their number.
        batch_size: structures of an optimizer step, on all ranks together.
        max_atoms: atoms of a step, on all ranks together.
        max_edges: edges of a step, on all ranks together.
        shuffle: whether each epoch has an order of its own.
        seed: of the order.
        epoch: number of the epoch, from 0.
        rank: this process.
        world_size: number of processes.

    Returns:
        For each step the positions of this rank's structures.

    Raises:
        TypeError: if a budget is given for a mere number of structures.
        ValueError: if a number makes no sense, or a structure is larger than a budget.
    """
    limits = {"batch_size": batch_size, "max_atoms": max_atoms, "max_edges": max_edges}
    budgets = {name: budget for name, budget in limits.items() if budget is not None}
    _check(budgets, rank, world_size)
    order = _order(part, shuffle, seed, epoch)
    totals = {name: _running(_sizes(part, name, budget)[order]) for name, budget in budgets.items()}
    steps = pairwise(_ends([(totals[name], budget) for name, budget in budgets.items()]))
    *_, shared = totals.values()
    return [torch.from_numpy(order[_share(shared, begin, end, rank, world_size)]) for begin, end in steps]


def _order(part: Packed | int, shuffle: bool, seed: int, epoch: int) -> Int64[np.ndarray, "draws"]:
    num = part if isinstance(part, int) else len(part)
    if num < 1:
        raise ValueError("There are no structures to make batches of.")
    if not shuffle:
        return np.arange(num)
    # NumPy mixes the two numbers, so that seed 0 in epoch 1 is not seed 1 in epoch 0
    random = np.random.default_rng([seed, epoch])
    draws = np.arange(num) if isinstance(part, int) else _draws(part, random)
    return draws[random.permutation(len(draws))]


def _draws(part: Packed, random: np.random.Generator) -> Int64[np.ndarray, "draws"]:
    """What an epoch takes of each file, in no particular order."""
    sampling = part.sampling.numpy()
    if (sampling == 1).all():
        return np.arange(len(part))
    files = np.stack([part.store.structures["file"][part.rows], sampling], axis=1)
    rates, file = np.unique(files, axis=0, return_inverse=True)
    taken = [_take(np.flatnonzero(file == i), rate, random) for i, (_, rate) in enumerate(rates)]
    if not sum(map(len, taken)):
        raise ValueError(f"An epoch has no structure: sampling takes none of {len(part)}.")
    return np.concatenate(taken)


def _take(
    members: Int64[np.ndarray, "members"], rate: float, random: np.random.Generator
) -> Int64[np.ndarray, "draws"]:
    """``round(rate · n)`` draws: each member as often as the others, or once more."""
    passes, rest = divmod(round(rate * len(members)), len(members))
    return np.concatenate([np.tile(members, passes), random.permutation(members)[:rest]])


def _sizes(part: Packed | int, name: str, budget: int) -> Int64[np.ndarray, "structures"]:
    """What each structure takes of a budget."""
    if name == "batch_size":
        return np.ones(part if isinstance(part, int) else len(part), np.int64)
    if isinstance(part, int):
        raise TypeError(f"{name} needs the structures themselves, not their number {part}.")
    sizes = (part.num_atoms if name == "max_atoms" else part.num_edges).numpy()
    if sizes.max() > budget:
        largest, what = int(sizes.argmax()), name.removeprefix("max_")
        raise ValueError(f"{part.source(largest)} has {sizes[largest]} {what}, more than {name} = {budget}.")
    return sizes


def _running(sizes: Int64[np.ndarray, "draws"]) -> Int64[np.ndarray, "offsets"]:
    return np.concatenate([[0], sizes.cumsum()])


def _ends(limits: Sequence[tuple[Int64[np.ndarray, "offsets"], int]]) -> list[int]:
    """Where steps begin and end: each is as long as every budget allows."""
    num, ends = len(limits[0][0]) - 1, [0]
    while ends[-1] < num:
        fits = [total.searchsorted(total[ends[-1]] + budget, side="right") - 1 for total, budget in limits]
        ends.append(int(min(fits)))
    return ends


def _share(total: Int64[np.ndarray, "offsets"], begin: int, end: int, rank: int, world_size: int) -> slice:
    """A rank's part of a step, cut where it comes closest to an equal share."""

    def cut(number: int) -> int:
        if number in (0, world_size):
            return end if number else begin
        goal = total[begin] + (total[end] - total[begin]) * number / world_size
        return begin + int(np.abs(total[begin : end + 1] - goal).argmin())

    return slice(cut(rank), cut(rank + 1))


def _check(budgets: Mapping[str, int], rank: int, world_size: int) -> None:
    if not budgets:
        raise ValueError("How large is a batch? Give batch_size, max_atoms or max_edges.")
    for name, budget in budgets.items():
        if budget < 1:
            raise ValueError(f"{name} must be at least 1, got {budget}.")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie between 0 and world_size - 1 = {world_size - 1}, got {rank}.")
