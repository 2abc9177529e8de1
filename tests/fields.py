"""Small energies and force fields of which everything can be differentiated, with and without symmetry."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Field(nn.Module):
    """Pairwise energies and forces within each structure.

    ``energy`` depends on distances (and on directions, if ``broken``), ``forces`` are minus its gradient,
    ``direct_forces`` those plus a part with a curl. ``denoising`` is any vector that depends on positions.
    """

    def __init__(self, *, broken: bool = False, seed: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        self.mix = nn.Parameter(weights)
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.slant = nn.Parameter(torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64))
        self.broken = broken

    def forward(self, batch: dict[str, Tensor], properties: object = None) -> dict[str, Tensor]:
        positions = batch["positions"]
        if not positions.requires_grad:
            positions = positions.detach().requires_grad_()
        same = (batch["batch"][:, None] == batch["batch"])[:, :, None]
        arms = torch.where(same, positions[:, None] - positions, 0)
        near = torch.exp(-self.scale * arms.square().sum(-1, keepdim=True)) * same
        of_atoms = near.sum((1, 2))
        if self.broken:
            of_atoms = of_atoms + (positions @ self.slant).square()
        structures = len(batch["ptr"]) - 1
        energy = positions.new_zeros(structures).index_add(0, batch["batch"], of_atoms)
        if self.broken and "cell" in batch:
            energy = energy + (batch["cell"] @ self.slant).square().sum(1)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        direct = -gradient + (near * (arms @ self.mix.T)).sum(1)
        return {
            "energy": energy,
            "forces": -gradient,
            "direct_forces": direct,
            "denoising": self.scale * direct,
        }


def jacobian(batch: dict[str, Tensor], field: Field, name: str) -> Tensor:
    """Full Jacobian of a vector of atoms by the positions, [3N, 3N], one row after another."""
    positions = batch["positions"].detach().clone().requires_grad_()
    values = field({**batch, "positions": positions})[name].flatten()
    rows = [torch.autograd.grad(value, positions, retain_graph=True)[0].flatten() for value in values]
    return torch.stack(rows).detach()
