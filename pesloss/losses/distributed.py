"""Sums over ranks, differentiable, the same on every rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


class _SumOverRanks(torch.autograd.Function):
    """Value: the sum over all ranks. Gradient: the local one times the number of ranks.

    Every rank computes the same function of the sums, so the exact gradient is the sum of what the ranks
    find for their own part. Data-parallel training averages gradients; the factor turns that average into
    the sum.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.world_size = dist.get_world_size(group)
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.world_size, None


def sum_over_ranks(
    values: Float[Tensor, "*shape"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "*shape"]:
    """Sum over the ranks of a process group, ready for gradients that will be averaged over them.

    Args:
        values: what this rank contributes.
        group: the ranks; ``None`` for all of them.
    """
    total: Tensor = _SumOverRanks.apply(values, group)  # pyright: ignore[reportAssignmentType]
    return total


def ranks(group: dist.ProcessGroup | None = None) -> int:
    """Number of ranks; 1 where no process group has been started."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)
