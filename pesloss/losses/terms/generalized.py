"""Forces along coordinates that matter: of a molecule in a solvent, of a reaction, of a lattice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import (
    Batch,
    Predictions,
    num_structures,
    predicted,
    structure_of_atom,
    sum_over_atoms,
)
from pesloss.losses.penalties import Penalty
from pesloss.losses.properties import Property, as_property
from pesloss.losses.reductions import Reduction
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated, entry


class GeneralizedForcesTerm(Restated):
    r"""Forces along generalised coordinates q, predicted against labelled.

    .. math:: Q_g = \sum_i \frac{\partial r_i}{\partial q_g} \cdot F_i

    A structure has a label of a coordinate if every atom that the coordinate moves has a label; where the
    Jacobian is NaN there is none.

    Args:
        coordinates: how many there are, the same in every structure.
        property: the forces.
        jacobian: entry of the batch with ∂r/∂q, ``[N, 3, coordinates]``.
        penalty: part or name, of the components of Q.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the structures; ``None`` for ``weight`` and
            ``generalized_<property>_weight``, [] for none.

    Raises:
        ValueError: if the property is not a vector of atoms.
        KeyError: if the batch has no such Jacobian.
    """

    def __init__(
        self,
        coordinates: int,
        property: str | Property | Mapping[str, Any] = "forces",
        *,
        jacobian: str = "drdq",
        penalty: Penalty | str = "squared",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        self.property, self.jacobian = as_property(property), jacobian
        if self.property.rows != "atom" or tuple(self.property.shape) != (3,):
            raise ValueError(
                f"Generalised forces are made of one vector an atom; '{self.property.name}' has one row a "
                f"{self.property.rows} of shape {tuple(self.property.shape)}."
            )
        projected = Property(
            f"generalized_{self.property.name}", shape=(coordinates,), unit=self.property.unit
        )
        super().__init__(
            PropertyTerm(
                projected, penalty=penalty, reduction=reduction, weight=weight, weighted_by=weighted_by
            )
        )

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.property.name: self.property}

    def prediction(self, predictions: Predictions, batch: Batch) -> Float[Tensor, "structures coordinates"]:
        jacobian = self._jacobian(batch)
        known = torch.where(jacobian.isnan(), 0, jacobian)
        return _projected(predicted(predictions, self.property.name), known, batch)

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        if self.property.name not in batch:
            return batch
        label = _projected(batch[self.property.name], self._jacobian(batch), batch)
        return {**batch, self.term.property.name: label}

    def formula(self) -> str:
        name = self.property.name
        return f"{self.term.formula()}; {self.term.property.name} = Σᵢ {self.jacobian}ᵢᵀ {name}ᵢ"

    def _jacobian(self, batch: Batch) -> Float[Tensor, "atoms 3 coordinates"]:
        return entry(batch, self.jacobian, "atoms, 3, coordinates")


def _projected(
    forces: Float[Tensor, "atoms 3"], jacobian: Float[Tensor, "atoms 3 coordinates"], batch: Batch
) -> Float[Tensor, "structures coordinates"]:
    # an atom that a coordinate does not move needs no label for it
    work = torch.where(jacobian == 0, 0, jacobian.to(forces.dtype) * forces[:, :, None]).sum(1)
    return sum_over_atoms(work, structure_of_atom(batch, forces.shape[0]), num_structures(batch))
