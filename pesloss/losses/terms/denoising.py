"""Learning the potential around a structure from what moves its atoms back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, atom_counts, num_structures, predicted, structure_of_atom
from pesloss.losses.penalties import Penalty
from pesloss.losses.properties import Property, as_property
from pesloss.losses.random import Draws
from pesloss.losses.reductions import Reduction
from pesloss.losses.terms.base import check_weight
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated, entry


class DenoisingTerm(Restated):
    r"""Forces of atoms that stay, and the displacement of atoms that were moved at random (DeNS).

    .. math:: \frac1n \Big( \sum_{i\ \text{clean}} \rho(\hat F_i - F_i)
              + \lambda \sum_{i\ \text{moved}} \rho(\hat\epsilon_i - \epsilon_i / \sigma) \Big)

    In training ``prepare`` moves a share of the atoms of some structures by Gaussian noise ε of width σ and
    adds ``noise [N, 3]`` and ``noise_mask [N]`` to the batch, for models that are told which atoms were moved
    (and read the ``forces`` of the others: the energy's label stays that of the unperturbed structure). Edges
    stay as they are. A batch that holds both entries already is left alone, and without them every atom is
    clean, as in validation. The draws do not depend on how structures are dealt to batches.

    Args:
        property: the forces.
        denoising: name of the prediction of the noise.
        std: σ, in Å.
        probability: share of the structures that are perturbed in a step.
        corrupt_ratio: share of the atoms that are moved in these.
        max_corrupted: structures with a larger share of moved atoms are left clean.
        max_force: structures with a larger force are left clean, in the unit of the forces; ``None`` for no
            limit. Those with a missing force always are.
        min_atoms: smaller structures are left clean.
        all_atoms: whether atoms that the calculation held fixed are moved too.
        normalized: whether the noise is predicted in units of σ, otherwise in Å.
        ratio: λ, weight of the noise against the forces; 0 leaves moved atoms out.
        hidden: labels that perturbed structures lose, because they depend on where the atoms are.
        penalty: part or name, of components.
        reduction: part or name; n is the number of labelled components, of clean and moved atoms together.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the atoms, see :class:`PropertyTerm`.
        seed: of the noise.

    Raises:
        ValueError: if the property is not a vector of atoms, or a share is none.

    References:
        Y.-L. Liao, T. Smidt, M. Shuaibi and A. Das, arXiv:2403.09549, eq. (2) and (3).
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "forces",
        *,
        denoising: str = "denoising",
        std: float = 0.025,
        probability: float = 0.5,
        corrupt_ratio: float = 0.5,
        max_corrupted: float = 0.75,
        max_force: float | None = None,
        min_atoms: int = 1,
        all_atoms: bool = True,
        normalized: bool = True,
        ratio: float = 1.0,
        hidden: Sequence[str] = ("stress", "virial"),
        penalty: Penalty | str = "squared",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        forces = as_property(property)
        if forces.rows != "atom" or tuple(forces.shape) != (3,):
            raise ValueError(
                f"Noise is one vector an atom; '{forces.name}' has one row a {forces.rows} of shape "
                f"{tuple(forces.shape)}."
            )
        keys = ["weight", f"{forces.name}_weight", "atom_weight"] if weighted_by is None else weighted_by
        super().__init__(
            PropertyTerm(
                forces,
                penalty=penalty,
                reduction=reduction,
                weight=weight,
                weighted_by=[*keys, "noise_weight"],
            )
        )
        shares = {"probability": probability, "corrupt_ratio": corrupt_ratio, "max_corrupted": max_corrupted}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {share}.")
        if not 0 < std < float("inf"):
            raise ValueError(f"std must be a positive length in Å, got {std}.")
        self.noise = Property(denoising, rows="atom", shape=(3,), unit="" if normalized else "Å")
        self.std, self.normalized, self.ratio = std, normalized, check_weight("ratio", ratio)
        self.probability, self.corrupt_ratio, self.max_corrupted = probability, corrupt_ratio, max_corrupted
        self.max_force = float("inf") if max_force is None else max_force
        self.min_atoms, self.all_atoms, self.hidden = min_atoms, all_atoms, tuple(hidden)
        self.draws = Draws("denoising", seed)

    @property
    def required(self) -> Mapping[str, Property]:
        return {**self.term.required, self.noise.name: self.noise}

    @property
    def labels(self) -> Mapping[str, Property]:
        return self.term.labels

    def prepare(self, batch: Batch) -> Batch:
        if "noise" in batch and "noise_mask" in batch:
            return batch
        moved = self._moved(batch)
        positions = batch["positions"]
        noise = self.std * self.draws.normal(batch, "atom", 3, "noise").to(positions.dtype)
        noise = torch.where(moved[:, None], noise, 0)
        perturbed = _by_structure(moved, batch) > 0
        made = {"positions": positions + noise, "noise": noise, "noise_mask": moved}
        return {**batch, **made, **{key: _hide(batch[key], perturbed) for key in self.hidden if key in batch}}

    def advance(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().advance(pool)
        self.draws.advance()

    def prediction(self, predictions: Predictions, batch: Batch) -> Float[Tensor, "atoms 3"]:
        forces = predicted(predictions, self.term.property.name)
        moved = _mask(batch, forces.shape[0])
        return torch.where(moved[:, None], predicted(predictions, self.noise.name), forces)

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        forces = self.term.label_of(batch)
        moved = _mask(batch, forces.shape[0])
        noise = batch["noise"] if "noise" in batch else torch.zeros_like(forces)
        label = torch.where(moved[:, None], noise / self.std if self.normalized else noise, forces)
        weights = label.new_ones(moved.shape).masked_fill(moved, self.ratio)
        return {**batch, self.term.label: label, "noise_weight": weights}

    def formula(self) -> str:
        target = "noise / σ" if self.normalized else "noise"
        return (
            f"{self.term.formula()}; of moved atoms r = {self.noise.name} − {target}, "
            f"σ = {self.std:g} Å, times {self.ratio:g}"
        )

    def _moved(self, batch: Batch) -> Bool[Tensor, "atoms"]:
        """Atoms that get noise in this step."""
        counts = atom_counts(batch)
        structure = structure_of_atom(batch, batch["positions"].shape[0])
        moved = self.draws.uniform(batch, "atom", 1, "atoms")[:, 0] < self.corrupt_ratio
        chosen = self.draws.uniform(batch, "structure", 1, "structures")[:, 0] < self.probability
        chosen = chosen & (counts >= self.min_atoms) & self._calm(batch)
        chosen = chosen & (_by_structure(moved, batch) <= self.max_corrupted * counts)
        if not self.all_atoms:
            moved = moved & ~entry(batch, "fixed", "atoms")
        return moved & chosen[structure]

    def _calm(self, batch: Batch) -> Bool[Tensor, "structures"]:
        """Structures that have a force on every atom, none of them too large."""
        forces = self.term.label_of(batch)
        norms = torch.linalg.vector_norm(forces, dim=1)
        fits = (norms <= self.max_force) & norms.isfinite()
        return _by_structure(~fits, batch) == 0


def _mask(batch: Batch, num_atoms: int) -> Bool[Tensor, "atoms"]:
    if "noise_mask" in batch:
        return batch["noise_mask"]
    return torch.zeros(num_atoms, dtype=torch.bool, device=batch["ptr"].device)


def _by_structure(chosen: Bool[Tensor, "atoms"], batch: Batch) -> Tensor:
    """Number of chosen atoms of each structure."""
    structure = structure_of_atom(batch, chosen.shape[0])
    return structure.new_zeros(num_structures(batch)).index_add(0, structure, chosen.long())


def _hide(label: Float[Tensor, "structures *entry"], structures: Bool[Tensor, "structures"]) -> Tensor:
    return torch.where(structures.reshape(-1, *[1] * (label.dim() - 1)), torch.nan, label)
