"""A tiny potential of copper, trained for a moment, and its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from pesloss import build
from pesloss.losses import NormalLoss
from pesloss.models import Potential
from tests.structures import to_batch

ROOT = Path(__file__).parent.parent

CUTOFF = 4.5
REFERENCES = {"Cu": -3.5}
MODEL = {"_target_": "pesloss.models.PaiNN", "channels": 8, "layers": 1, "cutoff": CUTOFF, "radial": 8}
HEADS = ["energy", "charges", "dipole"]
LOSS = NormalLoss(
    {"energy": {"residual": "per_atom"}, "forces": {}, "stress": {}},
    weights={"energy": 1.0, "forces": 1.0, "stress": 10.0},
)


def cluster(seed: int = 0, rattle: float = 0.15) -> Atoms:
    """Copper atoms at the corners of two tetrahedra."""
    atoms = Atoms(
        "Cu5", 1.45 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1.7, 1.7, -1.7]])
    )
    atoms.rattle(rattle, seed=seed)
    return atoms


def crystal(seed: int = 0, strain: float = 0.04, rattle: float = 0.1) -> Atoms:
    """A strained cell of four copper atoms."""
    random = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True)
    change = np.eye(3) + strain * random.normal(size=(3, 3)) + 0.5 * strain * random.normal() * np.eye(3)
    atoms.set_cell(atoms.cell.array @ change, scale_atoms=True)
    atoms.rattle(rattle, seed=seed)
    return atoms


def checkpoint(folder: Path, dtype: torch.dtype = torch.float64, steps: int = 150) -> Path:
    """``best.ckpt`` of a potential that has seen the effective-medium energies of some of them."""
    torch.manual_seed(0)
    potential = Potential(build(MODEL, heads=HEADS).to(dtype))
    potential.network.set_scale(0.5)
    batch = _labelled(dtype)
    optimizer = torch.optim.Adam(potential.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        LOSS(potential(batch, ["energy", "forces", "stress"]), batch).backward()
        optimizer.step()
    content: dict[str, Any] = {
        "config": {"model": MODEL},
        "heads": HEADS,
        "properties": ["energy", "forces", "stress"],
        "model": potential.state_dict(),
        "references": REFERENCES,
        "elements": ["Cu"],
    }
    torch.save(content, folder / "best.ckpt")
    return folder / "best.ckpt"


def _labelled(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    atoms = [cluster(seed, 0.25) for seed in range(12)] + [crystal(seed) for seed in range(12)]
    energies, forces, stresses = zip(*map(_labels, atoms), strict=True)
    labels = {"energy": energies, "forces": np.concatenate(forces), "stress": np.stack(stresses)}
    batch = to_batch(atoms, CUTOFF, dtype)
    return {**batch, **{name: torch.tensor(label, dtype=dtype) for name, label in labels.items()}}


def _labels(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    atoms = atoms.copy()
    atoms.calc = EMT()
    stress = atoms.get_stress(voigt=False) if atoms.cell.rank == 3 else np.full((3, 3), np.nan)
    return atoms.get_potential_energy(), atoms.get_forces(), stress
