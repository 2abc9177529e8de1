"""Atoms for tests of models, and the smallest packing of them into a batch."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

CUTOFF = 3.5


def structures() -> list[Atoms]:
    """A molecule, a strained crystal, a slab-like oblique cell and an ion: everything out of equilibrium."""
    rng = np.random.default_rng(0)
    atoms = [molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=5.0), bulk("Cu", a=3.7) * (2, 1, 1), Atoms("O")]
    for one in atoms[:3]:
        one.rattle(0.1, rng=rng)
    atoms[1].set_cell(atoms[1].cell[:] @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))), scale_atoms=True)
    return atoms


def to_batch(
    atoms: list[Atoms], cutoff: float = CUTOFF, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """One batch of these structures, with every neighbour within the cutoff."""
    counts = [len(one) for one in atoms]
    ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    found = [neighbor_list("ijS", one, cutoff) for one in atoms]
    edges = [np.stack(edge[:2]) + offset for edge, offset in zip(found, ptr[:-1], strict=True)]
    return {
        "ptr": torch.from_numpy(ptr),
        "batch": torch.arange(len(atoms)).repeat_interleave(torch.tensor(counts, dtype=torch.int64)),
        "numbers": torch.from_numpy(np.concatenate([np.empty(0, np.int64)] + [one.numbers for one in atoms])),
        "positions": torch.from_numpy(
            np.concatenate([np.empty((0, 3))] + [one.positions for one in atoms])
        ).to(dtype),
        "cell": torch.from_numpy(np.array([one.cell[:] for one in atoms]).reshape(-1, 3, 3)).to(dtype),
        "pbc": torch.from_numpy(np.array([one.pbc for one in atoms], dtype=bool).reshape(-1, 3)),
        "edge_index": torch.from_numpy(np.concatenate([np.empty((2, 0), np.int64), *edges], axis=1)),
        "edge_shift": torch.from_numpy(np.concatenate([np.empty((0, 3))] + [edge[2] for edge in found])).to(
            dtype
        ),
    }
