"""Which of several processes this one is, as ``torchrun`` or SLURM's ``srun`` say it; without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Process(NamedTuple):
    """One of the processes that train together.

    Args:
        rank: number of this process, from 0.
        local_rank: its number among those of its machine.
        world_size: number of processes.
        per_node: processes on each machine.
    """

    rank: int
    local_rank: int
    world_size: int
    per_node: int


def started_by_launcher(environment: Mapping[str, str] = os.environ) -> Process | None:
    """This process, if a launcher has started several; ``None`` if it is alone.

    In a SLURM job script, outside ``srun``, a process is alone whatever the job has asked for.

    Example:
        >>> started_by_launcher({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
        Process(rank=1, local_rank=1, world_size=2, per_node=2)
        >>> started_by_launcher({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None
        True
    """

    def number(name: str) -> int:
        return int(environment[name])

    if "LOCAL_WORLD_SIZE" in environment and "RANK" in environment:
        return Process(number("RANK"), number("LOCAL_RANK"), number("WORLD_SIZE"), number("LOCAL_WORLD_SIZE"))
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        tasks = number("SLURM_STEP_NUM_TASKS")
        per_node = tasks // int(environment.get("SLURM_STEP_NUM_NODES", 1))
        return Process(number("SLURM_PROCID"), number("SLURM_LOCALID"), tasks, per_node)
    return None
