"""Quantities of a potential energy surface, their shapes, units and signs: one table, open to your own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pesloss.arguments import check_arguments
from pesloss.names import unknown

Rows = Literal["structure", "atom", "pair"]


@dataclass(frozen=True)
class Property:
    """A quantity that a model predicts and a dataset labels.

    Args:
        name: key of the quantity in predictions and batch.
        rows: whether there is one entry a ``structure``, one an ``atom``, or one for each ordered ``pair`` of
            atoms of a structure, (1,1), (1,2), ... (N,N).
        shape: shape of one entry: ``()`` a number, ``(3,)`` a vector, ``(3, 3)`` a tensor.
        extensive: whether it grows with the number of atoms, so that dividing by it makes sense.
        unit: unit of prediction and label.

    Raises:
        ValueError: if ``rows`` is none of these, a dimension is not positive, or an extensive quantity is not
            of structures.
    """

    name: str
    rows: Rows = "structure"
    shape: Sequence[int] = ()
    extensive: bool = False
    unit: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.rows not in get_args(Rows):
            raise ValueError(f"Property '{self.name}': {unknown('rows', self.rows, get_args(Rows))}")
        if any(not isinstance(size, int) or size < 1 for size in self.shape):
            raise ValueError(f"Property '{self.name}': shape needs positive whole numbers, got {self.shape}.")
        if self.extensive and self.rows != "structure":
            raise ValueError(
                f"Property '{self.name}' has one row {_article(self.rows)} and cannot be extensive: "
                "an extensive quantity belongs to a structure and grows with its atoms."
            )


PROPERTIES: Mapping[str, Property] = {
    prop.name: prop
    for prop in (
        Property("energy", extensive=True, unit="eV"),
        Property("forces", rows="atom", shape=(3,), unit="eV/Å"),
        Property("stress", shape=(3, 3), unit="eV/Å³"),
        Property("virial", shape=(3, 3), extensive=True, unit="eV"),
        Property("atomic_energies", rows="atom", unit="eV"),
        Property("hessian", rows="pair", shape=(3, 3), unit="eV/Å²"),
        Property("hessian_product", rows="atom", shape=(3,), unit="eV/Å²"),
        Property("dipole", shape=(3,), extensive=True, unit="e·Å"),
        Property("atomic_dipoles", rows="atom", shape=(3,), unit="e·Å"),
        Property("quadrupole", shape=(3, 3), extensive=True, unit="e·Å²"),
        Property("polarization", shape=(3,), extensive=True, unit="e·Å"),
        Property("polarizability", shape=(3, 3), extensive=True, unit="e²·Å²/eV"),
        Property("born_effective_charges", rows="atom", shape=(3, 3), unit="e"),
        Property("charges", rows="atom", unit="e"),
        Property("total_charge", extensive=True, unit="e"),
        Property("populations", rows="atom", shape=(2,), unit="e"),
        Property("spins", rows="atom", unit="e"),
        Property("magnetic_moments", rows="atom", unit="μB"),
        Property("noncollinear_magnetic_moments", rows="atom", shape=(3,), unit="μB"),
        Property("magnetic_forces", rows="atom", unit="eV/μB"),
        Property("noncollinear_magnetic_forces", rows="atom", shape=(3,), unit="eV/μB"),
        Property("total_magnetic_moment", extensive=True, unit="μB"),
        Property("noncollinear_total_magnetic_moment", shape=(3,), extensive=True, unit="μB"),
        Property("homo", unit="eV"),
        Property("lumo", unit="eV"),
        Property("gap", unit="eV"),
    )
}
"""Signs: forces = −dE/dR, stress = (1/V) dE/dε (tension positive, as in ASE), virial = −V·stress.

``polarization`` is the dipole of a cell, the polarization times the volume, known up to e times lattice
vectors. ``populations`` are those of spin up and down, ``spins`` their difference. ``hessian`` holds blocks
d²E/dR_i dR_j, ``hessian_product`` is Σ_j d²E/dR_i dR_j · v_j for a direction v.
"""


def _article(rows: str) -> str:
    return f"an {rows}" if rows == "atom" else f"a {rows}"


def as_property(spec: str | Property | Mapping[str, Any]) -> Property:
    """The property of a name, or the user's own: as it is, or from its arguments.

    Raises:
        KeyError: if no property has that name.
        TypeError: if a property takes no such argument.
    """
    if isinstance(spec, Property):
        return spec
    if isinstance(spec, Mapping):
        check_arguments(Property, spec, "a property")
        return Property(**spec)
    if spec not in PROPERTIES:
        hint = "A property of your own is given as pesloss.Property(...) or as a mapping of its arguments."
        raise KeyError(f"{unknown('property', spec, PROPERTIES)} {hint}")
    return PROPERTIES[spec]


def as_properties(specs: Iterable[str | Property]) -> dict[str, Property]:
    """Properties by name."""
    return {prop.name: prop for prop in map(as_property, specs)}
