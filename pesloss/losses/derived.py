"""Quantities of a structure that follow from what a model predicts of its atoms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.losses.batch import (
    Batch,
    Predictions,
    num_structures,
    predicted,
    structure_of_atom,
    sum_over_atoms,
)
from pesloss.losses.properties import Property, as_property
from pesloss.names import unknown

CENTERS = ("positions", "mass", "none")
ATOMIC_DIPOLES = as_property("atomic_dipoles")


class Derived(nn.Module, ABC):
    """A property that a label has and the model says only in parts.

    Args:
        property: name of the property it stands for.
    """

    def __init__(self, property: str) -> None:
        super().__init__()
        self.property = property

    @property
    @abstractmethod
    def required(self) -> Mapping[str, Property]:
        """Properties that the model predicts, by name."""

    @abstractmethod
    def forward(self, predictions: Predictions, batch: Batch) -> Float[Tensor, "rows *entry"]:
        """The derived property of every row, in at least single precision."""

    @abstractmethod
    def formula(self) -> str:
        """The quantity in symbols."""


class SumOverAtoms(Derived):
    r"""Sum of what each atom contributes, such as the energy of a structure or its total charge.

    .. math:: X = \sum_i x_i

    Args:
        property: what the model predicts of each atom.
        total: the property of the structure it adds up to.

    Raises:
        KeyError: for an unknown property.
        ValueError: if ``property`` is not of atoms, ``total`` not of structures, or their shapes differ.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "atomic_energies",
        total: str | Property | Mapping[str, Any] = "energy",
    ) -> None:
        self.atomic, structure = as_property(property), as_property(total)
        _check_sum(self.atomic, structure)
        super().__init__(structure.name)

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.atomic.name: self.atomic}

    def forward(self, predictions: Predictions, batch: Batch) -> Tensor:
        return _total(_predicted(predictions, self.atomic.name), batch)

    def formula(self) -> str:
        return f"Σᵢ {self.atomic.name}ᵢ"


class Combination(Derived):
    r"""Sum over atoms with a coefficient for each: of several molecules side by side, a reaction energy.

    .. math:: X = \sum_i c_i\, x_i

    Args:
        property: what the model predicts of each atom.
        coefficients: entry of the batch with c of each atom.
        total: the property of the structure it adds up to.

    Raises:
        KeyError: for an unknown property, or a batch without coefficients.
        ValueError: if ``property`` is not of atoms, ``total`` not of structures, or their shapes differ.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "atomic_energies",
        coefficients: str = "atomic_energy_coefficients",
        total: str | Property | Mapping[str, Any] = "energy",
    ) -> None:
        self.atomic, structure = as_property(property), as_property(total)
        _check_sum(self.atomic, structure)
        super().__init__(structure.name)
        self.coefficients = coefficients

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.atomic.name: self.atomic}

    def forward(self, predictions: Predictions, batch: Batch) -> Tensor:
        values = _predicted(predictions, self.atomic.name)
        coefficients = _entry(self.coefficients, batch).to(values.dtype)
        return _total(values * coefficients.reshape(-1, *[1] * (values.dim() - 1)), batch)

    def formula(self) -> str:
        return f"Σᵢ {self.coefficients}ᵢ · {self.atomic.name}ᵢ"


class DipoleFromCharges(Derived):
    r"""Dipole of a molecule from the charges of its atoms, and their own dipoles if the model has them.

    .. math:: \mu = \sum_i q_i (r_i - r_0) + \sum_i \mu_i

    The dipole of an ion depends on the origin :math:`r_0`, which has to be that of the labels; that of a
    neutral molecule does not. In a periodic cell it depends on where the cell is cut.

    Args:
        center: origin: mean of the ``positions``, center of ``mass``, or ``none`` for that of the positions.
        atomic_dipoles: add ``atomic_dipoles [N, 3]``, which the model then predicts too.

    Raises:
        ValueError: for an unknown ``center``.
        KeyError: if the batch lacks ``positions``, or ``numbers`` for a center of mass.
    """

    def __init__(self, center: str = "positions", *, atomic_dipoles: bool = False) -> None:
        super().__init__("dipole")
        if center not in CENTERS:
            raise ValueError(unknown("center", center, CENTERS))
        self.center, self.atomic_dipoles = center, atomic_dipoles
        self.masses: Tensor | None
        self.register_buffer("masses", _masses() if center == "mass" else None, persistent=False)

    @property
    def required(self) -> Mapping[str, Property]:
        own = {ATOMIC_DIPOLES.name: ATOMIC_DIPOLES} if self.atomic_dipoles else {}
        return {"charges": as_property("charges"), **own}

    def forward(self, predictions: Predictions, batch: Batch) -> Tensor:
        charges = _predicted(predictions, "charges")
        dipoles = charges[:, None] * self._arms(batch).to(charges.dtype)
        if self.atomic_dipoles:
            dipoles = dipoles + _predicted(predictions, ATOMIC_DIPOLES.name)
        return _total(dipoles, batch)

    def formula(self) -> str:
        origin = {"positions": " − mean r", "mass": " − center of mass", "none": ""}[self.center]
        own = f" + Σᵢ {ATOMIC_DIPOLES.name}ᵢ" if self.atomic_dipoles else ""
        return f"Σᵢ chargesᵢ · (rᵢ{origin}){own}"

    def extra_repr(self) -> str:
        return f"center={self.center}{', atomic_dipoles=True' if self.atomic_dipoles else ''}"

    def _arms(self, batch: Batch) -> Float[Tensor, "atoms 3"]:
        positions = _entry("positions", batch)
        if self.center == "none":
            return positions
        weights = positions.new_ones(positions.shape[0])
        if self.masses is not None:
            weights = self.masses.to(positions.dtype)[_entry("numbers", batch)]
        center = _total(weights[:, None] * positions, batch) / _total(weights, batch)[:, None]
        return positions - center[structure_of_atom(batch, positions.shape[0])]


class Spin(Derived):
    r"""Spin of each atom, from the populations of its two spin channels.

    .. math:: s_i = p_i^{\uparrow} - p_i^{\downarrow}
    """

    def __init__(self) -> None:
        super().__init__("spins")

    @property
    def required(self) -> Mapping[str, Property]:
        return {"populations": as_property("populations")}

    def forward(self, predictions: Predictions, batch: Batch) -> Tensor:
        up, down = _predicted(predictions, "populations").unbind(-1)
        return up - down

    def formula(self) -> str:
        return "populations↑ − populations↓"


DERIVED: Mapping[str, Callable[..., Derived]] = {
    "sum_over_atoms": SumOverAtoms,
    "total_charge": partial(SumOverAtoms, "charges", "total_charge"),
    "combination": Combination,
    "dipole_from_charges": DipoleFromCharges,
    "spin": Spin,
}


def _check_sum(atomic: Property, total: Property) -> None:
    if atomic.rows != "atom" or total.rows != "structure" or tuple(atomic.shape) != tuple(total.shape):
        raise ValueError(
            f"'{total.name}' {list(total.shape)}, one a {total.rows}, is no sum over atoms of "
            f"'{atomic.name}' {list(atomic.shape)}, one a {atomic.rows}."
        )


def _predicted(predictions: Predictions, name: str) -> Tensor:
    values = predicted(predictions, name)
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _entry(key: str, batch: Batch) -> Tensor:
    if key not in batch:
        raise KeyError(f"No '{key}' [atoms] in the batch; found {sorted(batch)}.")
    return batch[key]


def _total(values: Float[Tensor, "atoms *entry"], batch: Batch) -> Float[Tensor, "structures *entry"]:
    return sum_over_atoms(values, structure_of_atom(batch, values.shape[0]), num_structures(batch))


def _masses() -> Float[Tensor, "elements"]:
    from ase.data import atomic_masses  # half a second that only few losses need

    return torch.tensor(atomic_masses, dtype=torch.float64)
