"""From one command to all the processes that train together."""

from __future__ import annotations

import atexit
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.multiprocessing.spawn import ProcessRaisedException

from pesloss.processes import Process, started_by_launcher
from pesloss.training.stops import Interrupted, forwarded

if TYPE_CHECKING:
    from pesloss.training.trainer import Trainer

R = TypeVar("R")

# what Fabric calls "64-true" would round what the model says, and the gradient of it, to float32;
# its "bf16-mixed" would round the positions
FABRIC_PRECISION = "32-true"
_MARK = "pesloss.training.launch.RankError: "


class RankError(RuntimeError):
    """What went wrong in a process that this one has started."""


def launch(trainer: Trainer, function: Callable[..., R], *args: Any) -> R:
    """Call ``function(fabric, *args)`` in every process of a training, and give back what the first returns.

    Under ``torchrun`` and ``srun`` the processes are there already, and their number is theirs to say;
    otherwise ``trainer.devices`` of them are started here.

    Raises:
        ValueError: if ``trainer.devices`` contradicts the launcher.
        RankError: if a process that was started here has failed.
        Interrupted: after a signal to stop; everything is saved.
    """
    fabric = make_fabric(trainer)
    if started_by_launcher() is not None or trainer.devices == 1:
        return fabric.launch(partial(_prepared, trainer.threads, function, args))
    try:
        with forwarded():
            result = fabric.launch(partial(_told, trainer.threads, function, args))
    except ProcessRaisedException as error:
        text = str(error)
        raise RankError(text.rpartition(_MARK)[2].strip() if _MARK in text else text) from error
    finally:
        # the next job of a sweep meets at a port of its own
        os.environ.pop("MASTER_PORT", None)
    if isinstance(result, Interrupted):
        raise result
    return result


def make_fabric(trainer: Trainer) -> Fabric:
    """Devices and processes of a training, not yet launched.

    Raises:
        ValueError: if ``trainer.devices`` contradicts the launcher.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    process = started_by_launcher()
    shared: dict[str, Any] = {"accelerator": trainer.accelerator, "precision": FABRIC_PRECISION}
    if process is None:
        strategy = _together("spawn") if trainer.devices > 1 else "auto"
        return Fabric(**shared, devices=trainer.devices, strategy=strategy, plugins=[LightningEnvironment()])
    if trainer.devices not in (1, process.per_node):
        raise ValueError(
            f"trainer.devices={trainer.devices}, but the launcher has started {process.per_node} processes "
            "on each machine; leave trainer.devices out."
        )
    _join(process)
    atexit.unregister(_leave)  # once is enough
    atexit.register(_leave)
    return Fabric(
        **shared,
        devices=process.per_node,
        num_nodes=process.world_size // process.per_node,
        strategy=_together("popen"),
        plugins=[TorchElasticEnvironment()],
    )


def _together(start_method: Literal["popen", "spawn"]) -> DDPStrategy:
    """Gradients averaged over the ranks, of those parameters that the loss depends on.

    Forces do not depend on all parameters of the energy, and those of a lone atom on none.
    """
    return DDPStrategy(start_method=start_method, find_unused_parameters=True)


def _join(process: Process) -> None:
    """Tell torch where the processes meet, which ``torchrun`` has done and ``srun`` has not."""
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "127.0.0.1"))
        os.environ["MASTER_ADDR"] = SLURMEnvironment.resolve_root_node_address(nodes)
    # processes of one job meet at one port, those of another job at another
    port = 15000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 10000
    os.environ.setdefault("MASTER_PORT", str(port))
    for name, value in (("RANK", process.rank), ("LOCAL_RANK", process.local_rank)):
        os.environ.setdefault(name, str(value))
    os.environ.setdefault("WORLD_SIZE", str(process.world_size))


def _leave() -> None:
    """Part from the other processes: a program that ends while threads still serve them may abort."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _prepared(threads: int | None, function: Callable[..., R], args: Sequence[Any], fabric: Fabric) -> R:
    if threads is not None:
        torch.set_num_threads(threads)
    # of a matrix with one row, whose strides mean nothing
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # a loss may well depend on all of them
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return function(fabric, *args)


def _told(
    threads: int | None, function: Callable[..., R], args: Sequence[Any], fabric: Fabric
) -> R | Interrupted:
    """In a process of our own making: an error becomes the sentence that the first process will show.

    An interruption is a result, because torch takes it for an order of the first process.
    """
    from pesloss.mistakes import explain

    try:
        result = _prepared(threads, function, args, fabric)
    except Interrupted as stop:
        result = stop
    except Exception as error:
        if sentence := explain(error):
            raise RankError(sentence) from None
        raise
    fabric.barrier()
    dist.destroy_process_group()
    return result
