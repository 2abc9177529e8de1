"""What a check costs: reading, and each check, on many structures.

OMP_NUM_THREADS=1 python -m benchmarks.check_cost [--structures 100000] [--folder FOLDER]

Half molecules, half crystals of 20 atoms (four elements, five config types) with energy, forces and stress of
a pair potential, written as extxyz, the format that is slowest to read. Nothing comes from a cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols

from pesloss import NormalLoss
from pesloss.checks import CHECKS, Subject
from pesloss.data import Files

ATOMS, NUMBERS = 20, (1, 6, 7, 8)
WELL, LENGTH = 0.2, 1.7  # eV, Å


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "data.xyz"
    if not path.exists():
        write(path, options.structures)
    loss = NormalLoss({"energy": {"residual": "per_atom"}, "forces": {}, "stress": {}})
    begin = time.perf_counter()
    data = Files(path, cache=None).load(loss.labels, 3.0, torch.float64)
    print(f"{options.structures} structures of {ATOMS} atoms read in {time.perf_counter() - begin:.1f} s")
    subject = Subject(loss, data)
    for name, check in CHECKS.items():
        start = time.perf_counter()
        said = list(check.run(subject))
        cheap = "  at every start" if check.cheap else ""
        print(f"{name:20} {time.perf_counter() - start:6.2f} s, {len(said)} findings and tables{cheap}")
    print(f"all {time.perf_counter() - begin:.1f} s")


def write(path: Path, num: int) -> None:
    """Jittered lattices of 20 atoms."""
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for row in range(num):
            file.write(frame(row, random))


def frame(row: int, random: np.random.Generator) -> str:
    """One structure: a periodic one if its row is even."""
    edges = np.array([3.0, 3.0, 3.0]) * LENGTH
    cell = np.diag(edges) @ (np.eye(3) + 0.02 * random.normal(size=(3, 3)))
    grid = np.stack(np.meshgrid(range(3), range(3), range(3)), axis=-1).reshape(-1, 3)[:ATOMS] / 3
    positions = (grid + random.uniform(-0.03, 0.03, grid.shape)) @ cell
    numbers = random.choice(NUMBERS, ATOMS)
    energy, forces, virial = labels(positions, cell if row % 2 == 0 else None)
    about = f"config_type=kind{row % 5} energy={energy - 100.0 * numbers.sum():.8f}"
    if row % 2 == 0:
        stress = -virial / abs(np.linalg.det(cell))
        about += f' pbc="T T T" Lattice="{words(cell)}" stress="{words(stress)}"'
    lines = [
        f"{chemical_symbols[z]} {words(place)} {words(force)}"
        for z, place, force in zip(numbers, positions, forces, strict=True)
    ]
    return "\n".join([str(ATOMS), f"Properties=species:S:1:pos:R:3:forces:R:3 {about}", *lines]) + "\n"


def labels(positions: np.ndarray, cell: np.ndarray | None) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and virial of a Morse-like pair potential with minimum images."""
    vectors = positions[None] - positions[:, None]
    if cell is not None:
        vectors = vectors - np.rint(vectors @ np.linalg.inv(cell)) @ cell
    distances = np.linalg.norm(vectors, axis=-1) + 10 * LENGTH * np.eye(len(positions))
    stretch = np.exp(-3 * (distances - LENGTH))
    energy = 0.5 * WELL * (stretch**2 - 2 * stretch).sum()
    slope = WELL * 3 * (-2 * stretch**2 + 2 * stretch)
    pull = (slope / distances)[..., None] * vectors
    virial = -0.5 * np.einsum("ija,ijb->ab", pull, vectors)
    return energy, pull.sum(axis=1), virial


def words(values: np.ndarray) -> str:
    return " ".join(f"{value:.8f}" for value in values.flatten())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--structures", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "pesloss_check_cost")
    return parser.parse_args()


if __name__ == "__main__":
    main()
