"""What a loss costs: energy per atom, forces and (but for small molecules) stress, forward and backward.

    python -m benchmarks.loss_cost [--threads 1] [--rounds 200] [--compile]

Everything is timed in turn in one process; the table holds medians in µs, and ratios to the plain loss.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from pesloss import NormalLoss, TotalLoss

SIZES = {"10 x 15": (10, 15), "32 x 20": (32, 20), "256 x 100": (256, 100), "1024 x 1000": (1024, 1000)}
NAMES = ("energy", "forces", "stress")
TERMS = {"energy": {"residual": "per_atom"}, "forces": {}, "stress": {}}
Run = Callable[[], object]


def names_of(atoms: int) -> tuple[str, ...]:
    return NAMES if atoms > 15 else NAMES[:2]


def batch_of(structures: int, atoms: int, missing: float) -> dict[str, Tensor]:
    num = structures * atoms
    batch = {
        "ptr": torch.arange(structures + 1) * atoms,
        "batch": torch.arange(num) // atoms,
        "energy": torch.randn(structures),
        "forces": torch.randn(num, 3),
        "stress": torch.randn(structures, 3, 3),
    }
    for name in set(NAMES) - set(names_of(atoms)):
        del batch[name]
    for name in names_of(atoms):
        batch[name][torch.rand(len(batch[name])) < missing] = float("nan")
    return batch


def plain(predictions: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """The least there is: three means of squares, no weights, no missing labels."""
    num_atoms = batch["ptr"].diff()
    energy = mse_loss(predictions["energy"] / num_atoms, batch["energy"] / num_atoms)
    return energy + sum(mse_loss(predictions[name], batch[name]) for name in list(predictions)[1:])


def indexed(predictions: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Missing labels by boolean indexing, as most codes do."""
    num_atoms = batch["ptr"].diff()
    total = torch.zeros(())
    for name in predictions:
        known = ~batch[name].isnan()
        scale = num_atoms if name == "energy" else torch.ones((), dtype=torch.long)
        prediction, label = predictions[name] / scale, batch[name] / scale
        total = total + mse_loss(prediction[known], label[known])
    return total


def once(loss: Callable[..., Tensor], predictions: dict[str, Tensor], batch: dict[str, Tensor]) -> Run:
    inputs = list(predictions.values())
    return lambda: torch.autograd.grad(loss(predictions, batch), inputs)


def medians(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i >= 3:
                times[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--compile", action="store_true", help="time the compiled loss as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.threads} thread(s), medians in µs (ratio to plain)")
    for name, (structures, atoms) in SIZES.items():
        terms = {key: TERMS[key] for key in names_of(atoms)}
        squared = NormalLoss(terms)
        huber = NormalLoss(
            {key: {**term, "penalty": "huber"} for key, term in terms.items()}, huber_delta=0.01
        )
        fair = NormalLoss({**terms, "forces": {"reduction": "per_structure"}})
        full, gaps = (batch_of(structures, atoms, missing) for missing in (0.0, 0.2))
        predictions = {key: torch.randn_like(full[key]).requires_grad_() for key in terms}
        weighted = {**gaps, "weight": torch.rand(structures)}
        runs = {
            "plain, complete labels": once(plain, predictions, full),
            "pesloss, complete labels": once(squared, predictions, full),
            "pesloss, 20 % missing": once(squared, predictions, gaps),
            "pesloss Huber, 20 % missing": once(huber, predictions, gaps),
            "pesloss, 20 % missing, weights": once(squared, predictions, weighted),
            "pesloss per structure, 20 % missing": once(fair, predictions, gaps),
            "pesloss with a Step, 20 % missing": once(_with_step(squared, gaps), predictions, gaps),
            "boolean indexing, 20 % missing": once(indexed, predictions, gaps),
        }
        if options.compile:
            compiled = torch.compile(squared, dynamic=True, fullgraph=True)
            runs["pesloss compiled, 20 % missing"] = once(compiled, predictions, gaps)
        found = medians(runs, max(options.rounds // (20 if atoms == 1000 else 1), 5))
        print(f"\n{name}")
        for label, value in found.items():
            print(f"  {label:36s} {value:10.0f}  x{value / found['plain, complete labels']:.2f}")


def _with_step(loss: TotalLoss, batch: dict[str, Tensor]) -> Callable[..., Tensor]:
    step = loss.step([batch])
    return lambda predictions, batch: loss(predictions, batch, step)


if __name__ == "__main__":
    main()
