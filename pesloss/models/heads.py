"""What is read off the atoms: energies, charges, dipoles, polarizabilities."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pesloss.losses.batch import spread_rows, sum_over_atoms
from pesloss.names import unknown


class Atoms(NamedTuple):
    """Features of atoms, and which structure each belongs to.

    Args:
        scalars: invariant features.
        vectors: equivariant features.
        positions: in Å.
        structure: index of each atom's structure.
        counts: number of atoms of each structure.
    """

    scalars: Float[Tensor, "atoms channels"]
    vectors: Float[Tensor, "atoms 3 channels"]
    positions: Float[Tensor, "atoms 3"]
    structure: Int[Tensor, "atoms"]
    counts: Int[Tensor, "structures"]

    def total(self, values: Float[Tensor, "atoms *entry"]) -> Float[Tensor, "structures *entry"]:
        """Sum over each structure's atoms, in the precision of the positions even under autocast."""
        return sum_over_atoms(values.to(self.positions.dtype), self.structure, self.counts.shape[0])

    def centred(self, values: Float[Tensor, "atoms *entry"]) -> Float[Tensor, "atoms *entry"]:
        """Values less their mean over the atoms of their structure."""
        counts = spread_rows(self.counts.clamp(min=1), values.dim() - 1)
        return values - (self.total(values) / counts).index_select(0, self.structure)


def norm(vectors: Float[Tensor, "atoms 3 channels"]) -> Float[Tensor, "atoms channels"]:
    """Length of each vector, rounded off near zero, where a length has no second derivative."""
    return torch.sqrt((vectors * vectors).sum(1) + 1e-6)


def readout(channels: int) -> nn.Sequential:
    """A number of each atom from its scalars, near zero at the start."""
    hidden = max(channels // 2, 1)
    last = nn.Linear(hidden, 1)
    nn.init.normal_(last.weight, std=0.1 / hidden**0.5)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), last)


class Energy(nn.Module):
    """Total energies are sums of atomic energies.

    ``E = Σ_i e(s_i)``, in units of the network's energy scale.
    """

    needs_vectors: ClassVar[bool] = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.readout = readout(channels)

    def forward(self, atoms: Atoms) -> Float[Tensor, "structures"]:
        return atoms.total(self.readout(atoms.scalars).squeeze(1))


class Charges(nn.Module):
    """Partial charges add up to the charge of the structure, which is zero.

    ``q_i = q(s_i) − mean of q over the structure``, in e.
    """

    needs_vectors: ClassVar[bool] = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.readout = readout(channels)

    def forward(self, atoms: Atoms) -> Float[Tensor, "atoms"]:
        return atoms.centred(self.readout(atoms.scalars).squeeze(1))


class GatedEquivariant(nn.Module):
    """Vectors are mixed linearly and scaled by a gate of invariants, which keeps them vectors.

    ``v' = g(s, ‖V₂ v‖) ∘ V₁ v``,  ``s' = silu(h(s, ‖V₂ v‖))``.

    References:
        arXiv:2102.03218, figure 3.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, out + channels, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, 2 * out))
        self.sizes = (out, channels)

    def forward(
        self, scalars: Float[Tensor, "atoms channels"], vectors: Float[Tensor, "atoms 3 channels"]
    ) -> tuple[Float[Tensor, "atoms out"], Float[Tensor, "atoms 3 out"]]:
        mixed, invariant = self.mix(vectors).split(self.sizes, dim=2)
        scalars, gate = self.gate(torch.cat([scalars, norm(invariant)], dim=1)).chunk(2, dim=1)
        return nn.functional.silu(scalars), gate.unsqueeze(1) * mixed


class Dipole(nn.Module):
    """A dipole is made of charges at their places and of the atoms' own dipoles.

    ``μ = Σ_i q_i (r_i − r̄) + μ_i`` in e·Å, with neutral charges, so that the origin does not matter.
    Positions enter as they are: in a periodic structure this is one branch of the polarization.

    References:
        arXiv:2102.03218, the dipole moment as a tensorial property.
    """

    needs_vectors: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.blocks = nn.ModuleList([GatedEquivariant(channels, hidden), GatedEquivariant(hidden, 1)])

    def forward(self, atoms: Atoms, charges: Float[Tensor, "atoms"]) -> Float[Tensor, "structures 3"]:
        scalars, vectors = atoms.scalars, atoms.vectors
        for block in self.blocks:
            scalars, vectors = block(scalars, vectors)
        return atoms.total(charges.unsqueeze(1) * atoms.centred(atoms.positions) + vectors.squeeze(2))


class Polarizability(nn.Module):
    """Polarizability adds up over atoms, each with an isotropic part and principal axes along its vectors.

    ``α = Σ_i a(s_i) 1 + Σ_k c_k(s_i) v'_ik ⊗ v'_ik`` with ``v' = V v``, in e²·Å²/eV.
    The outer products are of an atom's own vectors, so that α is extensive and does not depend on the origin,
    as the paper's ``ν(v_i) ⊗ r_i`` does.

    References:
        arXiv:2102.03218, the polarizability as a tensorial property.
    """

    needs_vectors: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.axes = nn.Linear(channels, channels, bias=False)
        self.coefficients = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels + 1)
        )

    def forward(self, atoms: Atoms) -> Float[Tensor, "structures 3 3"]:
        axes = self.axes(atoms.vectors)
        isotropic, along = self.coefficients(atoms.scalars).split([1, axes.shape[2]], dim=1)
        unit = torch.eye(3, dtype=axes.dtype, device=axes.device)
        tensors = torch.matmul(axes * along.unsqueeze(1), axes.mT)
        # one matrix product rounds differently on either side of the diagonal
        return atoms.total((tensors + tensors.mT) / 2 + isotropic.unsqueeze(2) * unit)


HEADS = {"energy": Energy, "charges": Charges, "dipole": Dipole, "polarizability": Polarizability}


def build_heads(names: Collection[str], channels: int) -> nn.ModuleDict:
    """Heads of these properties, and the charges that a dipole needs.

    Raises:
        ValueError: if no head predicts such a property.
    """
    for name in names:
        if name not in HEADS:
            raise ValueError(unknown("head", name, HEADS))
    needed = {*names, "charges"} if "dipole" in names else {*names}
    return nn.ModuleDict({name: HEADS[name](channels) for name in HEADS if name in needed})
