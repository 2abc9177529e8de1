"""Our losses beside those written by hand, eager and as one compiled call."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.loss_cost.clock import counted, limits, times
from benchmarks.loss_cost.minima import (
    Run,
    Values,
    gradient,
    indexed,
    labels_of,
    minima,
    plain,
    some_missing,
    substituted,
)
from pesloss import NormalLoss, TotalLoss

TERMS = {"energy": {"residual": "per_atom"}, "forces": {}, "stress": {}}
GB = 1e9


def batch_of(size: str) -> dict[str, Tensor]:
    """Structures with weights and complete labels."""
    structures, atoms = map(int, size.split("x"))
    num = structures * atoms
    return {
        "ptr": torch.arange(structures + 1) * atoms,
        "batch": torch.arange(num) // atoms,
        "energy": torch.randn(structures),
        "forces": torch.randn(num, 3),
        "stress": torch.randn(structures, 3, 3),
        "weight": torch.rand(structures) + 0.5,
    }


def losses() -> dict[str, TotalLoss]:
    """Ours, by what they add to means of squares."""
    huber = {name: {**term, "penalty": "huber"} for name, term in TERMS.items()}
    return {
        "squared": NormalLoss(TERMS),
        "huber": NormalLoss(huber, huber_delta=0.01),
        "per structure": NormalLoss({**TERMS, "forces": {"reduction": "per_structure"}}),
    }


def eager(batch: dict[str, Tensor]) -> dict[str, Run]:
    """Everything that is timed without a compiler, in turn; the first is what all are compared with."""
    predictions = {name: torch.randn_like(batch[name]).requires_grad_() for name in TERMS}
    gaps = {**batch, **{name: some_missing(batch[name]) for name in TERMS}}
    full, unweighted = _without_weights(batch), _without_weights(gaps)
    ours, labels = losses(), labels_of(list(TERMS), batch)
    step = ours["squared"].step([gaps])

    def run(name: str, batch: Values, *further: Any) -> Run:
        return gradient(lambda: ours[name](predictions, batch, *further), predictions)

    return {
        **minima(predictions, batch),
        "boolean indexing, 20 % missing": gradient(lambda: indexed(predictions, labels), predictions),
        "pesloss": run("squared", full),
        "pesloss, weights": run("squared", batch),
        "pesloss, 20 % missing": run("squared", unweighted),
        "pesloss, weights, 20 % missing": run("squared", gaps),
        "pesloss, weights, 20 % missing, Huber": run("huber", gaps),
        "pesloss, weights, 20 % missing, per structure": run("per structure", gaps),
        "pesloss, weights, 20 % missing, with a `Step`": run("squared", gaps, step),
    }


def compiled(batch: dict[str, Tensor]) -> dict[str, Run]:
    """Losses with their gradients, each as one compiled function without autograd around it."""
    torch.compiler.reset()  # of each size a compilation of its own
    predictions = {name: torch.randn_like(batch[name]) for name in TERMS}
    gaps = {**batch, **{name: some_missing(batch[name]) for name in TERMS}}
    labels, loss = labels_of(list(TERMS), batch), losses()["squared"]
    return {
        "plain, compiled": _one_call(plain, predictions, labels),
        "weighted, 20 % missing, compiled": _one_call(substituted, predictions, labels),
        "pesloss, compiled": _one_call(loss, predictions, _without_weights(batch)),
        "pesloss, weights, 20 % missing, compiled": _one_call(loss, predictions, gaps),
    }


def _one_call(loss: Callable[..., Tensor], predictions: Values, batch: Any) -> Run:
    def both(predictions: Values, batch: Any) -> Any:
        return torch.func.grad_and_value(lambda made: loss(made, batch))(predictions)

    whole = torch.compile(both, fullgraph=True, dynamic=False)
    return lambda: whole(predictions, batch)


def _without_weights(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "weight"}


def bandwidth(entries: int = 2**24, rounds: int = 9) -> float:
    """Bytes that a copy reads and writes in a second."""
    source = torch.randn(entries)
    target = source.clone()
    spent = []
    for _ in range(rounds):
        start = time.thread_time()
        target.copy_(source)
        spent.append(time.thread_time() - start)
    return 2 * source.nbytes / statistics.median(spent)


def limit(size: str, bytes_per_second: float) -> float:
    """Microseconds to read predictions and labels and to write gradients, in float32."""
    entries = sum(value.numel() for name, value in batch_of(size).items() if name in TERMS)
    return 1e6 * 3 * 4 * entries / bytes_per_second


def main() -> None:
    """Print a row of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="time compiled calls as well")
    limits(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for size in options.sizes:
        runs = eager(batch_of(size))
        operations = {name: counted(run) for name, run in runs.items()}
        if options.compile:
            runs |= compiled(batch_of(size))
        found = times(runs, options.rounds, options.seconds * 5)
        rows = {name: {**row, **operations.get(name, {})} for name, row in found.items()}
        speed = bandwidth()
        row = {"size": size, "bandwidth_gb_s": speed / GB, "limit_us": limit(size, speed), "runs": rows}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
