"""Times of a training step and its parts, taken the same way for every code; needs torch alone."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 5


class Code(ABC):
    """What is timed: a network of 32 channels and 2 layers, energies and forces, mean squares, Adam."""

    @abstractmethod
    def __init__(self, path: str, structures: int, cutoff: float, compiled: bool) -> None:
        """Read a file and build everything; the first ``structures`` of the file are the batch."""

    @abstractmethod
    def collate(self) -> Any:
        """The batch."""

    @abstractmethod
    def predict(self, batch: Any, properties: list[str]) -> Any:
        """Predictions that a loss can be differentiated by."""

    @abstractmethod
    def loss(self, predictions: Any, batch: Any) -> torch.Tensor:
        """What is minimised."""

    @abstractmethod
    def update(self) -> None:
        """Step of the optimizer; gradients are zero after it."""

    @abstractmethod
    def size(self) -> dict[str, int]:
        """Structures, atoms and edges of the batch."""

    def step(self) -> list[float]:
        """One training step; the CPU time at its start and after each part of it."""
        times = [time.process_time()]
        batch = self.collate()
        times.append(time.process_time())
        predictions = self.predict(batch, ["energy", "forces"])
        times.append(time.process_time())
        loss = self.loss(predictions, batch)
        times.append(time.process_time())
        loss.backward()
        times.append(time.process_time())
        self.update()
        return [*times, time.process_time()]


def measure(code: Code, rounds: int) -> dict[str, float]:
    """Median CPU ms of a step and its parts, wall ms of a step, and the seconds that the first step took."""
    first, _ = _clocked(code.step)
    batch = code.collate()
    energy = [_clocked(lambda: code.predict(batch, ["energy"]))[1] for _ in range(WARM_UP + rounds)]
    steps, walls = [], []
    for _ in range(WARM_UP + rounds):
        start = time.perf_counter()
        steps.append(code.step())
        walls.append(time.perf_counter() - start)
    collate, both, loss, backward, optimizer = (
        _median([step[k + 1] - step[k] for step in steps]) for k in range(5)
    )
    forward = _median(energy)
    times = {"collate": collate, "forward": forward, "forces": both - forward, "loss": loss}
    times |= {"backward": backward, "optimizer": optimizer}
    times |= {"step": _median([step[-1] - step[0] for step in steps]), "step_wall": _median(walls)}
    return {**{name: 1e3 * value for name, value in times.items()}, "first_step_s": first}


def main(make: Callable[[str, int, float, bool], Code]) -> None:
    """Time batches given as FILE:STRUCTURES, and print a row of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("batches", nargs="+")
    parser.add_argument("--cutoff", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for batch in options.batches:
        path, _, structures = batch.rpartition(":")
        code = make(path, int(structures), options.cutoff, options.compile)
        row = {**code.size(), **measure(code, options.rounds)}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def _clocked(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def _median(values: list[float]) -> float:
    return statistics.median(values[WARM_UP:])
