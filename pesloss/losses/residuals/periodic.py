"""Differences of quantities that a crystal has only up to a quantum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import Batch, atom_counts, spread_rows
from pesloss.losses.properties import Property
from pesloss.losses.residuals.base import Residual, Shape


class ModuloQuantum(Residual):
    r"""Difference of polarizations by the nearest branch: whole quanta between them are no error.

    The polarization is given as the dipole of the cell, which is defined up to lattice vectors times the
    charge quantum q.

    .. math:: \Delta P - \sum_k q\, n_k\, a_k, \qquad n_k = \lceil f_k - \tfrac12 \rceil, \quad
              \Delta P = \sum_k q\, f_k\, a_k

    The fractional coordinates f of the residual lie in (−½, ½]. Directions in which the structure is not
    periodic (``pbc`` of the batch) have one branch only. Reads ``cell [S, 3, 3]``; a structure without a cell
    has no quantum: :meth:`check` refuses its label, and its residual is NaN.

    Args:
        charge_quantum: q in e; 2 where electrons come in pairs of both spins.
        per_atom: divide by the number of atoms.

    Raises:
        ValueError: if ``charge_quantum`` is not positive, for properties that are no vectors of structures,
            and by ``check`` for a label of a structure without a cell.
        KeyError: if the batch has no ``cell``.

    References:
        R. D. King-Smith and D. Vanderbilt, Phys. Rev. B 47, 1651 (1993), eq. (15).
    """

    def __init__(self, charge_quantum: float = 1.0, *, per_atom: bool = False) -> None:
        super().__init__()
        if isinstance(charge_quantum, (str, bool)) or not 0 < charge_quantum < float("inf"):
            raise ValueError(f"ModuloQuantum needs a finite charge_quantum > 0, got {charge_quantum!r}.")
        self.charge_quantum, self.per_atom = charge_quantum, per_atom

    def entry_shape(self, prop: Property) -> Shape:
        if prop.rows != "structure" or prop.shape != (3,):
            raise ValueError(
                f"'{prop.name}' has entries of shape {tuple(prop.shape)}, one a {prop.rows}; residual "
                "'modulo_quantum' needs (3,), one a structure, such as polarization."
            )
        return (3,)

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        difference = prediction - label
        residual = difference - self._whole_quanta(difference.detach(), batch)
        return residual / spread_rows(atom_counts(batch), 1) if self.per_atom else residual

    def labelled(self, label: Tensor) -> Tensor:
        # a branch is chosen for the whole vector
        return super().labelled(label).all(-1, keepdim=True).expand(label.shape)

    def check(self, label: Tensor, batch: Batch) -> None:
        without = _volume(_cells(batch)) == 0
        found = (without & self.labelled(label).any(1)).nonzero().flatten()
        if len(found):
            names = (batch["index"][found] if "index" in batch else found).tolist()
            more = " ..." if len(names) > 5 else ""
            raise ValueError(
                f"Structures {', '.join(map(str, names[:5]))}{more} have a polarization, but no cell: "
                "residual 'modulo_quantum' needs three lattice vectors. For molecules use the dipole, "
                "residual 'difference'."
            )

    def formula(self, name: str) -> str:
        atoms = " / N" if self.per_atom else ""
        return f"(Δ{name} mod {self.charge_quantum:g} e · lattice vectors){atoms}"

    def unit(self, unit: str) -> str:
        return f"{unit}/atom" if self.per_atom else unit

    def extra_repr(self) -> str:
        return f"charge_quantum={self.charge_quantum:g}{', per_atom=True' if self.per_atom else ''}"

    def _whole_quanta(self, difference: Float[Tensor, "structures 3"], batch: Batch) -> Tensor:
        # in the precision of the cell: a large dipole counts many quanta
        quanta = self.charge_quantum * _cells(batch)
        a, b, c = quanta.unbind(1)
        volume = _volume(quanta)
        reciprocal = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=1)
        along = (reciprocal * difference[:, None]).sum(-1)
        fractional = torch.where(volume[:, None] == 0, torch.nan, along / volume[:, None])
        whole = torch.ceil(fractional - 0.5)
        if "pbc" in batch:
            whole = torch.where(batch["pbc"], whole, 0 * whole)
        return (whole[:, :, None] * quanta).sum(1).to(difference.dtype)


def _cells(batch: Batch) -> Float[Tensor, "structures 3 3"]:
    if "cell" not in batch:
        raise KeyError(f"Residual 'modulo_quantum' needs 'cell' [structures, 3, 3]; found {sorted(batch)}.")
    return batch["cell"]


def _cross(a: Float[Tensor, "structures 3"], b: Float[Tensor, "structures 3"]) -> Tensor:
    return torch.linalg.cross(a, b, dim=-1)


def _volume(cell: Float[Tensor, "structures 3 3"]) -> Float[Tensor, "structures"]:
    a, b, c = cell.unbind(1)
    return (a * _cross(b, c)).sum(-1)
