"""Batches on the device that computes, made there where it costs the computation least."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pesloss.data.storage.packed import Packed

HostBatch = dict[str, Tensor]


def loader(
    part: Packed,
    steps: Sequence[Tensor],
    device: torch.device | str = "cpu",
    *,
    workers: int = 0,
) -> Iterator[dict[str, Tensor]]:
    """The batches of some steps, in their order, whatever number of workers makes them.

    On a GPU they come from page-locked memory, so that the copy does not hold up the host. The global
    random state is not touched.

    Args:
        part: the structures.
        steps: for each batch the positions of its structures, as ``batches`` gives them.
        device: where the batches go.
        workers: processes that make batches ahead; with none they are made when they are asked for.

    Raises:
        ValueError: if the number of workers is negative.
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}.")
    device = torch.device(device)
    made = iter(_by_workers(part, steps, workers)) if workers else map(part.batch, steps)
    return made if device.type == "cpu" else (_copied(batch, device) for batch in made)


def _by_workers(part: Packed, steps: Sequence[Tensor], workers: int) -> Iterable[HostBatch]:
    return DataLoader(
        _Batches(part),
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        # a generator of its own, because a loader draws a seed from the global one
        generator=torch.Generator(),
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _copied(batch: HostBatch, device: torch.device) -> dict[str, Tensor]:
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class _Batches(Dataset[HostBatch]):
    """Batches of a set by the positions of their structures."""

    def __init__(self, part: Packed) -> None:
        self.part = part

    def __getitem__(self, indices: Tensor) -> HostBatch:
        return self.part.batch(indices)
