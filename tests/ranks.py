"""What each rank of a process group does: its share of the structures, gradients averaged as DDP does."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from tests import batches
from tests.laws import accumulated, value_and_gradients
from tests.parts import LOSSES

# of 8 structures; two batches a rank; a rank without structures, and one whose labels are all missing
DEALS = {2: [[[0, 1, 2], [3, 4, 5, 6, 7]], [[], []]], 3: [[[0, 1], [2]], [[], []], [[3, 4, 5], [6, 7]]]}


def share(rank: int, world: int) -> list[dict[str, Tensor]]:
    """The batches of a rank."""
    batch = batches.make()
    if world == 3:
        atoms = batch["batch"] >= 3
        for prop in batches.ALL.values():  # the last rank has structures, but no label
            batch[prop.name][atoms if prop.rows == "atom" else slice(3, None)] = batches.MISSING
    return [batches.take(batch, part) for part in DEALS[world][rank]]


def whole(world: int) -> dict[str, Tensor]:
    """What one process would see: the structures of all ranks."""
    return join([batch for rank in range(world) for batch in share(rank, world)])


def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batches as one batch."""
    keys = set(parts[0]) - {"ptr", "batch"}
    joined = {key: torch.cat([part[key] for part in parts]) for key in keys}
    counts = torch.cat([part["ptr"].diff() for part in parts])
    joined["ptr"] = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    joined["batch"] = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return joined


def work(rank: int, world: int, folder: str) -> None:
    """Every loss, in one batch a rank and accumulated over two."""
    _start(rank, world, folder)
    batch_list = share(rank, world)
    once = {
        name: _averaged(value_and_gradients(make(), join(batch_list)), world) for name, make in LOSSES.items()
    }
    twice = {name: _averaged(accumulated(make(), batch_list), world) for name, make in LOSSES.items()}
    torch.save({"once": once, "accumulated": twice}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def validate_on_one(rank: int, world: int, folder: str) -> None:
    """Only rank 0 evaluates, in ``eval()``."""
    _start(rank, world, folder)
    if rank == 0:
        loss = LOSSES["squared, mean"]().eval()
        torch.save(value_and_gradients(loss, batches.make())[0], f"{folder}/alone.pt")
    dist.barrier()
    dist.destroy_process_group()


def _start(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)


def _averaged(parts: list[Tensor], world: int) -> list[Tensor]:
    """The total as it is, the gradients averaged over ranks."""
    for gradient in parts[1:]:
        dist.all_reduce(gradient)
        gradient /= world
    return parts
