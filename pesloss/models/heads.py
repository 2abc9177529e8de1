"""What is read off the atoms: energies, charges, dipoles, and any number, vector or tensor of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import prod
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pesloss.losses.batch import spread_rows, sum_over_atoms
from pesloss.losses.properties import PROPERTIES, Property, as_property
from pesloss.models.potential import DERIVATIVES
from pesloss.names import unknown

Spec: TypeAlias = "str | Property | Mapping[str, Any]"
"""A property by its name, or one's own as it is or by its arguments."""


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

    def rows(self, values: Float[Tensor, "atoms *entry"], prop: Property) -> Float[Tensor, "rows *entry"]:
        """The values of the atoms themselves, their sum over a structure, or their mean if not extensive."""
        if prop.rows == "atom":
            return values.to(self.positions.dtype)
        total = self.total(values)
        return total if prop.extensive else total / spread_rows(self.counts.clamp(min=1), values.dim() - 1)


def norm(vectors: Float[Tensor, "atoms 3 channels"]) -> Float[Tensor, "atoms channels"]:
    """Length of each vector, rounded off near zero, where a length has no second derivative."""
    return torch.sqrt((vectors * vectors).sum(1) + 1e-6)


def readout(channels: int, out: int = 1) -> nn.Sequential:
    """Numbers of each atom from its scalars, near zero at the start."""
    hidden = max(channels // 2, 1)
    last = nn.Linear(hidden, out)
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

    def atomic(self, atoms: Atoms) -> Float[Tensor, "atoms"]:
        """Energy of each atom."""
        return self.readout(atoms.scalars).squeeze(1)

    def forward(self, atoms: Atoms) -> Float[Tensor, "structures"]:
        return atoms.total(self.atomic(atoms))


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


def gated_blocks(channels: int) -> nn.ModuleList:
    """Two layers that make one vector of each atom."""
    hidden = max(channels // 2, 1)
    return nn.ModuleList([GatedEquivariant(channels, hidden), GatedEquivariant(hidden, 1)])


def own_vectors(blocks: nn.ModuleList, atoms: Atoms) -> Float[Tensor, "atoms 3"]:
    """A vector of each atom: what comes out of the layers."""
    scalars, vectors = atoms.scalars, atoms.vectors
    for block in blocks:
        scalars, vectors = block(scalars, vectors)
    return vectors.squeeze(2)


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
        self.blocks = gated_blocks(channels)

    def forward(self, atoms: Atoms, charges: Float[Tensor, "atoms"]) -> Float[Tensor, "structures 3"]:
        return atoms.total(
            charges.unsqueeze(1) * atoms.centred(atoms.positions) + own_vectors(self.blocks, atoms)
        )


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


class Numbers(nn.Module):
    """Invariant numbers of atoms; those of structures are their sum, or their mean if they are not extensive.

    ``x_i = f(s_i)``, one or several: magnetic moments, spins, a density of states.

    Args:
        channels: number of features of an atom.
        prop: what they are.
    """

    needs_vectors: ClassVar[bool] = False

    def __init__(self, channels: int, prop: Property) -> None:
        super().__init__()
        self.prop = prop
        self.readout = readout(channels, prod(prop.shape))

    def forward(self, atoms: Atoms) -> Float[Tensor, "rows *entry"]:
        values = self.readout(atoms.scalars)
        return atoms.rows(values if self.prop.shape else values.squeeze(1), self.prop)


class Vectors(nn.Module):
    """Vectors of atoms, or of structures as their sum or mean: they turn and are mirrored with the atoms.

    ``x_i = v'_i``, as the atoms' own part of a dipole. The polarization of a crystal is such a sum on one
    of its branches: it does not depend on the periodic image of an atom that is meant.

    Args:
        channels: number of features of an atom.
        prop: what they are.
    """

    needs_vectors: ClassVar[bool] = True

    def __init__(self, channels: int, prop: Property) -> None:
        super().__init__()
        self.prop = prop
        self.blocks = gated_blocks(channels)

    def forward(self, atoms: Atoms) -> Float[Tensor, "rows 3"]:
        return atoms.rows(own_vectors(self.blocks, atoms), self.prop)


class Tensors(nn.Module):
    """Tensors of atoms without any symmetry, or of structures as their sum or mean.

    ``x_i = a(s_i) 1 + Σ_k c_k(s_i) (V v)_ik ⊗ (W v)_ik``, such as Born effective charges.

    Args:
        channels: number of features of an atom.
        prop: what they are.
    """

    needs_vectors: ClassVar[bool] = True

    def __init__(self, channels: int, prop: Property) -> None:
        super().__init__()
        self.prop = prop
        self.axes = nn.Linear(channels, 2 * channels, bias=False)
        self.coefficients = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels + 1)
        )

    def forward(self, atoms: Atoms) -> Float[Tensor, "rows 3 3"]:
        left, right = self.axes(atoms.vectors).chunk(2, dim=2)
        isotropic, along = self.coefficients(atoms.scalars).split([1, left.shape[2]], dim=1)
        unit = torch.eye(3, dtype=left.dtype, device=left.device)
        tensors = torch.matmul(left * along.unsqueeze(1), right.mT)
        return atoms.rows(tensors + isotropic.unsqueeze(2) * unit, self.prop)


HEADS = {"energy": Energy, "charges": Charges, "dipole": Dipole, "polarizability": Polarizability}
"""What has a head of its own; other properties have the head that the shape of their entries asks for."""

NEEDED = {"dipole": "charges", "atomic_energies": "energy"}
"""What is read off, or made with, another head."""

REFUSED = {
    **dict.fromkeys(DERIVATIVES, "it is a derivative of the energy, which Potential takes"),
    **dict.fromkeys(
        (name for name in PROPERTIES if name.startswith("noncollinear")),
        "it is an axial vector, and what atoms see of each other are polar ones",
    ),
    "quadrupole": "it depends on the origin, and on charges that lie apart",
}
"""What no head can predict, and why."""


def head_properties(specs: Collection[Spec]) -> dict[str, Property]:
    """Properties that heads are to predict, by name.

    Raises:
        ValueError: for a name that no property has, or a property that no head predicts.
    """
    known = [name for name, prop in PROPERTIES.items() if name not in REFUSED and prop.rows != "pair"]
    for name in specs:
        if isinstance(name, str) and name not in PROPERTIES:
            raise ValueError(unknown("head", name, known))
    properties = {prop.name: prop for prop in map(as_property, specs)}
    for name, prop in properties.items():
        if reason := _refused(prop):
            raise ValueError(f"No head predicts '{name}': {reason}. Heads predict {', '.join(known)}.")
    return properties


def build_heads(specs: Collection[Spec], channels: int) -> nn.ModuleDict:
    """Heads of these properties, and those that they are made with.

    Raises:
        ValueError: if no head predicts such a property.
    """
    properties = head_properties(specs)
    needed = {NEEDED.get(name, name) for name in properties} | properties.keys() - {"atomic_energies"}
    heads: dict[str, nn.Module] = {name: HEADS[name](channels) for name in HEADS if name in needed}
    for name in sorted(needed - heads.keys()):
        heads[name] = _head_of_shape(properties[name])(channels, properties[name])
    return nn.ModuleDict(heads)


def _head_of_shape(prop: Property) -> Callable[[int, Property], nn.Module]:
    return {(3,): Vectors, (3, 3): Tensors}.get(tuple(prop.shape), Numbers)


def _refused(prop: Property) -> str | None:
    """Why no head predicts a property."""
    if prop.name in REFUSED:
        return REFUSED[prop.name]
    if prop.rows == "pair":
        return "it is of pairs of atoms"
    if len(prop.shape) > 1 and tuple(prop.shape) != (3, 3):
        return f"its entries of shape {tuple(prop.shape)} are no numbers, vectors or 3×3 tensors"
    return None
