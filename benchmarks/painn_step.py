"""CPU time of a training step of PaiNN: forces, backward and Adam, on ten distorted molecules of 14 atoms.

OMP_NUM_THREADS=1 python -m benchmarks.painn_step [--channels 32] [--layers 2] [--cutoff 4.0] [--compile]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from ase.build import molecule

from pesloss.models.painn import PaiNN
from pesloss.models.potential import Potential
from tests.structures import to_batch


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = distorted_molecules(options.structures, options.cutoff)
    labels = torch.randn_like(batch["positions"])
    network = PaiNN(channels=options.channels, layers=options.layers, cutoff=options.cutoff)
    potential = Potential(network)
    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-3)
    predict = torch.compile(potential, dynamic=True, fullgraph=True) if options.compile else potential

    def step() -> tuple[float, ...]:
        start = time.thread_time()
        predictions = predict(batch, ("energy", "forces"))
        forward = time.thread_time()
        loss = (predictions["energy"] / 14).square().mean() + (predictions["forces"] - labels).square().mean()
        optimizer.zero_grad()
        loss.backward()
        backward = time.thread_time()
        optimizer.step()
        end = time.thread_time()
        return forward - start, backward - forward, end - backward, end - start

    begin = time.perf_counter()
    step()
    print(
        f"{batch['ptr'].shape[0] - 1} structures, {len(labels)} atoms, {batch['edge_index'].shape[1]} edges"
    )
    print(f"{sum(p.numel() for p in network.parameters())} parameters")
    print(f"first step {time.perf_counter() - begin:.1f} s")
    times = [step() for _ in range(options.steps)][options.steps // 5 :]
    for name, column in zip(
        ("forward+forces", "backward", "optimizer", "step"), zip(*times, strict=True), strict=True
    ):
        print(f"{name:15s} {1e3 * statistics.median(column):7.2f} ms")


def distorted_molecules(count: int, cutoff: float) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    frames = [molecule("isobutane") for _ in range(count)]
    for frame in frames:
        frame.rattle(0.1, rng=rng)
    return to_batch(frames, cutoff, torch.float32)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--cutoff", type=float, default=4.0)
    parser.add_argument("--structures", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
