"""PaiNN: atoms exchange scalars and vectors with their neighbours."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pesloss.losses.batch import Batch, atom_counts
from pesloss.models.geometry import edge_vectors
from pesloss.models.heads import Atoms, Energy, Spec, build_heads, head_properties, norm
from pesloss.models.potential import Network
from pesloss.models.radial import RadialBasis


class Message(nn.Module):
    """Each atom gathers what its neighbours are and in which direction they lie.

    ``Δs_i = Σ_j φ_s(s_j) ∘ W_s(r_ij)``,
    ``Δv_i = Σ_j v_j ∘ φ_vv(s_j) ∘ W_vv(r_ij) + φ_vs(s_j) ∘ W_vs(r_ij) r_ij/|r_ij|``.

    Args:
        channels: F, number of scalar and of vector features of an atom.
        radial: number of radial features of an edge.
        first: the first block of a network, whose vectors are still zero: there is no ``φ_vv``.

    References:
        arXiv:2102.03218, eq. 7 and 8.
    """

    def __init__(self, channels: int, radial: int, *, first: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.parts = 2 if first else 3
        self.filters = nn.Linear(radial, self.parts * channels, bias=False)
        self.phi = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, self.parts * channels)
        )

    def forward(
        self,
        scalars: Float[Tensor, "atoms channels"],
        vectors: Float[Tensor, "atoms 3 channels"],
        basis: Float[Tensor, "edges radial"],
        directions: Float[Tensor, "edges 3 1"],
        edges: Int[Tensor, "2 edges"],
    ) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"]]:
        centre, neighbour = edges.unbind(0)
        messages = self.phi(scalars).index_select(0, neighbour) * self.filters(basis)
        to_scalars, along, *gates = messages.split(self.channels, dim=1)
        to_vectors = directions * along.unsqueeze(1)
        if gates:
            to_vectors = to_vectors + vectors.index_select(0, neighbour) * gates[0].unsqueeze(1)
        num_atoms = scalars.shape[0]
        delta = to_scalars.new_zeros(num_atoms, self.channels).index_add(0, centre, to_scalars)
        delta_v = to_vectors.new_zeros(num_atoms, 3, self.channels).index_add(0, centre, to_vectors)
        return scalars + delta, vectors + delta_v


class Update(nn.Module):
    """Each atom's scalars and vectors talk to each other.

    ``Δs = a_ss + a_sv ⟨Uv, Vv⟩``, ``Δv = a_vv ∘ Uv``, with ``a = a(s, ‖Vv‖)``.

    Args:
        channels: F, number of features.
        last: the last block of a network whose heads read scalars only: vectors are not updated.

    References:
        arXiv:2102.03218, eq. 9 and 10.
    """

    def __init__(self, channels: int, *, last: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.parts = 2 if last else 3
        self.mix = nn.Linear(channels, 2 * channels, bias=False)
        self.a = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, self.parts * channels)
        )

    def forward(
        self, scalars: Float[Tensor, "atoms channels"], vectors: Float[Tensor, "atoms 3 channels"]
    ) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"]]:
        u, v = self.mix(vectors).split(self.channels, dim=2)
        a_ss, a_sv, *a_vv = self.a(torch.cat([scalars, norm(v)], dim=1)).split(self.channels, dim=1)
        scalars = scalars + a_ss + a_sv * (u * v).sum(1)
        return scalars, vectors + a_vv[0].unsqueeze(1) * u if a_vv else vectors


class PaiNN(Network):
    """A polarizable atom interaction network: equivariant message passing with scalars and vectors.

    The energy is a sum of atomic energies, which depend on neighbours within ``layers · cutoff``.
    Atomic energies are ``energy_scale`` times a readout that starts near zero: set it with :meth:`set_scale`
    to the forces of the data, and a fresh network starts with sane energies and gradients.

    Args:
        channels: number of features of an atom.
        layers: number of message and update blocks.
        cutoff: distance in Å beyond which atoms do not see each other; a batch's edges may reach farther.
        radial: number of radial functions.
        max_number: largest atomic number.
        heads: what to predict: `energy`, `charges`, `dipole`, `polarizability`, or another property of atoms
            or structures that is made of numbers, polar vectors or 3×3 tensors. One that is not among
            ``PROPERTIES`` is given by its arguments.

    Raises:
        ValueError: if a size is not positive, or no head predicts a property.

    References:
        Schütt, Unke, Gastegger, ICML 2021, arXiv:2102.03218.
    """

    energy_scale: Tensor
    allows_bfloat16 = True

    def __init__(
        self,
        channels: int = 64,
        layers: int = 3,
        cutoff: float = 5.0,
        *,
        radial: int = 20,
        max_number: int = 100,
        heads: Collection[Spec] = ("energy",),
    ) -> None:
        super().__init__()
        if min(channels, layers, max_number) < 1 or not heads:
            raise ValueError(
                "PaiNN needs at least one channel, layer, element and head, got "
                f"channels={channels}, layers={layers}, max_number={max_number}, heads={list(heads)}."
            )
        self.properties = tuple(head_properties(heads))
        self.cutoff = cutoff
        self.heads = build_heads(heads, channels)
        invariant = not any(head.needs_vectors for head in self.heads.values())
        self.embedding = nn.Embedding(max_number + 1, channels)
        self.basis = RadialBasis(cutoff, radial)
        self.messages = nn.ModuleList(
            Message(channels, self.basis.size, first=layer == 0) for layer in range(layers)
        )
        self.updates = nn.ModuleList(
            Update(channels, last=invariant and layer == layers - 1) for layer in range(layers)
        )
        self.register_buffer("energy_scale", torch.ones(()))

    def set_scale(self, energy_scale: float) -> None:
        """Set the unit of atomic energies from data, in eV: the RMS force times 1 Å, or the spread per atom.

        Raises:
            ValueError: if it is not a positive finite number.
        """
        if not (energy_scale > 0 and math.isfinite(energy_scale)):
            raise ValueError(f"energy_scale must be positive and finite, in eV, got {energy_scale}.")
        self.energy_scale.fill_(energy_scale)

    def forward(self, batch: Batch, properties: Collection[str] | None = None) -> dict[str, Tensor]:
        wanted = self.properties if properties is None else properties
        atoms = self.features(batch)
        found: dict[str, Tensor] = {}
        if "energy" in wanted:
            found["energy"] = self.heads["energy"](atoms) * self.energy_scale
        if "atomic_energies" in wanted:
            head: Energy = self.heads["energy"]  # pyright: ignore[reportAssignmentType]
            found["atomic_energies"] = head.atomic(atoms).to(self.energy_scale.dtype) * self.energy_scale
        if "charges" in wanted or "dipole" in wanted:
            found["charges"] = self.heads["charges"](atoms)
        if "dipole" in wanted:
            found["dipole"] = self.heads["dipole"](atoms, found["charges"])
        for name in wanted:
            if name not in found:
                found[name] = self.heads[name](atoms)
        return {name: found[name] for name in wanted}

    def features(self, batch: Batch) -> Atoms:
        """What the atoms are, after all messages."""
        r = edge_vectors(batch)
        distance = (r * r).sum(1).sqrt()
        directions = (r / distance.unsqueeze(1)).unsqueeze(2)
        basis = self.basis(distance)
        scalars = self.embedding(batch["numbers"])
        vectors = scalars.new_zeros(scalars.shape[0], 3, scalars.shape[1])
        for message, update in zip(self.messages, self.updates, strict=True):
            scalars, vectors = message(scalars, vectors, basis, directions, batch["edge_index"])
            scalars, vectors = update(scalars, vectors)
        return Atoms(scalars, vectors, batch["positions"], batch["batch"], atom_counts(batch))
