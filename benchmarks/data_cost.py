"""What data cost: the first and the second start on many structures, memory, and the making of a batch.

OMP_NUM_THREADS=1 python -m benchmarks.data_cost [--structures 100000] [--folder FOLDER]

Molecules of about 20 atoms at the density of a liquid, written as an ``npz`` of the rMD17 kind. Each start is
a process of its own; its memory is what it has for itself (``RssAnon``, without pages of mapped files).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pesloss.data import Files, LoadedData, Packed, batches
from pesloss.losses.properties import as_properties

CUTOFF, ATOMS = 4.0, 20
ACAC = Path(__file__).parents[2] / "shared" / "data" / "acac" / "train_300K.xyz"


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    if options.start:
        print(json.dumps(start(options.folder)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    write(options.folder / "data.npz", options.structures)
    for name in ("first", "second"):
        command = [sys.executable, "-m", "benchmarks.data_cost", "--start", "--folder", str(options.folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(f"{name} start: {done.stdout.strip()}")
    if ACAC.exists():
        print(f"a batch of 10 x 15 atoms: {collate(load(ACAC, None).train):.0f} µs")


def write(path: Path, num: int) -> None:
    """Jittered lattices: no atoms upon each other, energies that elements explain in part."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(range(3), range(3), range(3)), axis=-1).reshape(-1, 3)[:ATOMS] * 1.7
    numbers = random.choice([1, 6, 7, 8], ATOMS)
    positions = grid + random.uniform(-0.3, 0.3, (num, ATOMS, 3))
    forces = random.normal(size=(num, ATOMS, 3))
    energies = -1000.0 * numbers.sum() + random.normal(size=num)
    np.savez(path, nuclear_charges=numbers, coords=positions, energies=energies, forces=forces)


def load(path: Path, cache: Path | None) -> LoadedData:
    units = {"energy": "eV", "length": "Å"} if path.suffix == ".npz" else {}
    files = Files(path, units=units, cache=cache, val_fraction=0.1, test_fraction=0.0)
    return files.load(as_properties(["energy", "forces"]), CUTOFF, torch.float32)


def start(folder: Path) -> dict[str, float | str]:
    """Seconds until the labels are known, then those of a pass over all batches, and memory after both."""
    begin = time.perf_counter()
    data = load(folder / "data.npz", folder / "cache")
    loaded = time.perf_counter()
    squares = sum(float(chunk["forces"].square().sum(dtype=torch.float64)) for chunk in data.train.chunks())
    known = time.perf_counter()
    memory = own_memory()
    for indices in batches(data.train, 64, shuffle=True):
        data.train.batch(indices)
    return {
        "load [s]": round(loaded - begin, 2),
        "RMS of forces [s]": round(known - loaded, 2),
        "epoch of batches of 64 [s]": round(time.perf_counter() - known, 2),
        "memory after start [MB]": memory,
        "memory after an epoch [MB]": own_memory(),
        "storage": data.storage,
        "rms": round((squares / (3 * int(data.train.num_atoms.sum()))) ** 0.5, 3),
    }


def own_memory() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return round(int(line.split()[1]) / 1024, 1)


def collate(part: Packed) -> float:
    """Median µs of a batch of 10."""
    times = []
    for indices in [i for epoch in range(40) for i in batches(part, 10, shuffle=True, epoch=epoch)]:
        begin = time.perf_counter()
        part.batch(indices)
        times.append(time.perf_counter() - begin)
    return 1e6 * statistics.median(times[len(times) // 5 :])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "data_cost")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
