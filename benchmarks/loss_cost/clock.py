"""What a loss costs, taken the same way in every environment; needs torch alone."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.loss_cost.minima import Run, minima
from tests.parity.cases import Case, cases_of
from tests.parity.drawing import Drawn

SIZES = ("32x20", "256x100", "1024x1000")
WARM_UP, FEWEST = 3, 7
WAITING = (
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim"),
    *("unique_consecutive", "bincount", "equal", "repeat_interleave"),
)
Make = Callable[[Case, Drawn], tuple[float, Run]]


def times(runs: Mapping[str, Run], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Medians of the CPU time of runs that take turns: µs, and ratios to the minima within a round.

    Args:
        runs: what is timed, by name, with ``plain`` and ``weighted`` among them.
        rounds: the most there are.
        seconds: no more rounds after this time, but for the fewest.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    for i in range(WARM_UP + rounds):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            found[name].append(time.thread_time() - start)
        if i + 1 >= WARM_UP + FEWEST and time.perf_counter() - started > seconds:
            break
    kept = {name: values[WARM_UP:] for name, values in found.items()}
    return {
        name: {
            "us": 1e6 * statistics.median(values),
            "to_plain": _ratio(values, kept["plain"]),
            "to_weighted": _ratio(values, kept["weighted"]),
        }
        for name, values in kept.items()
    }


def _ratio(values: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


class Operations(TorchDispatchMode):
    """Kernels of forward and backward, those that make a host wait, and the bytes they read and write.

    An operation that returns a view is no kernel. Its bytes are those of all its inputs and outputs, each
    entry in memory once: a number that is spread over rows counts as one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.waits = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        returns = [value.alias_info for value in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in returns):
            tensors = [value for value in tree_leaves((args, kwargs, out)) if isinstance(value, Tensor)]
            self.kernels += 1
            self.waits += _waits(func.overloadpacket.__name__, args, kwargs)
            self.bytes += sum(map(_in_memory, {id(tensor): tensor for tensor in tensors}.values()))
        return out


def _waits(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if name in WAITING:
        return kwargs.get("output_size") is None
    indices = [index for arg in args if isinstance(arg, (list, tuple)) for index in arg]
    masks = any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
    return masks and name.startswith(("index", "_index"))


def _in_memory(tensor: Tensor) -> int:
    entries = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        entries *= length if stride else 1
    return entries * tensor.element_size()


def counted(run: Run) -> dict[str, int]:
    """Kernels, waits and bytes of a run."""
    with Operations() as operations:
        run()
    return {"kernels": operations.kernels, "waits": operations.waits, "bytes": operations.bytes}


def measured(runs: Mapping[str, Run], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Times of runs, with the operations of each."""
    operations = {name: counted(run) for name, run in runs.items()}
    return {name: {**row, **operations[name]} for name, row in times(runs, rounds, seconds).items()}


def drawn(case: Case, size: str) -> Drawn:
    """The random batch of a comparison with other numbers of atoms, in float32."""
    structures, atoms = map(int, size.split("x"))
    made = replace(case.drawing, sizes=(atoms,) * structures).draw(0)
    batch = {key: single(value) for key, value in made.batch.items()}
    return Drawn(batch, {name: single(p) for name, p in made.predictions.items()})


def single(value: Tensor) -> Tensor:
    """In float32 if it is in float64; a leaf if it was to be differentiated."""
    if value.dtype != torch.float64:
        return value
    return value.detach().float().requires_grad_(value.requires_grad)


def rows(make: Make, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the cases cost that are asked for, beside the minima for the same labels."""
    for name in options.cases:
        case = cases_of(options.project)[name]
        for size in options.sizes:
            batch = drawn(case, size)
            weight = batch.batch.get("weight", torch.rand(len(batch.num_atoms)) + 0.5)
            total, run = make(case, batch)
            runs = {**minima(batch.predictions, {**batch.batch, "weight": weight}), "loss": run}
            found = measured(runs, options.rounds, options.seconds)
            yield {"case": name, "size": size, "total": total, "runs": found}


def main(make: Make) -> None:
    """Print a row of JSON for every case and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project")
    parser.add_argument("--cases", nargs="+", required=True)
    limits(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for row in rows(make, options):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def limits(parser: argparse.ArgumentParser) -> None:
    """Options of every command here."""
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="STRUCTURESxATOMS")
    parser.add_argument("--rounds", type=int, default=200, help="the most there are")
    parser.add_argument("--seconds", type=float, default=2.0, help="no more rounds after this time")
