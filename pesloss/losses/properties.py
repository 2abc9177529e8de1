"""Quantities of a potential energy surface, their shapes, units and signs: one table, open to your own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pesloss.names import unknown

Rows = Literal["structure", "atom"]


@dataclass(frozen=True)
class Property:
    """A quantity that a model predicts and a dataset labels.

    Args:
        name: key of the quantity in predictions and batch.
        rows: whether there is one entry a ``structure`` or one an ``atom``.
        shape: shape of one entry: ``()`` a number, ``(3,)`` a vector, ``(3, 3)`` a tensor.
        extensive: whether it grows with the number of atoms, so that dividing by it makes sense.
        unit: unit of prediction and label.

    Raises:
        ValueError: if ``rows`` is neither, a dimension is not positive, or an extensive quantity is per atom.
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
        if self.extensive and self.rows == "atom":
            raise ValueError(
                f"Property '{self.name}' has one row an atom and cannot be extensive: "
                "an extensive quantity belongs to a structure and grows with its atoms."
            )


PROPERTIES: Mapping[str, Property] = {
    prop.name: prop
    for prop in (
        Property("energy", extensive=True, unit="eV"),
        Property("forces", rows="atom", shape=(3,), unit="eV/Å"),
        Property("stress", shape=(3, 3), unit="eV/Å³"),
        Property("virial", shape=(3, 3), extensive=True, unit="eV"),
        Property("dipole", shape=(3,), extensive=True, unit="e·Å"),
        Property("charges", rows="atom", unit="e"),
        Property("polarizability", shape=(3, 3), extensive=True, unit="e²·Å²/eV"),
    )
}
"""Signs: forces = −dE/dR, stress = (1/V) dE/dε (tension positive, as in ASE), virial = −V·stress."""


def as_property(spec: str | Property | Mapping[str, Any]) -> Property:
    """The property of a name, or the user's own: as it is, or from its arguments.

    Raises:
        KeyError: if no property has that name.
        TypeError: if a property takes no such argument.
    """
    if isinstance(spec, Property):
        return spec
    if isinstance(spec, Mapping):
        known = [field.name for field in fields(Property)]
        for argument in spec:
            if argument not in known:
                raise TypeError(unknown("argument of a property", argument, known))
        return Property(**spec)
    if spec not in PROPERTIES:
        hint = "A property of your own is given as pesloss.Property(...) or as a mapping of its arguments."
        raise KeyError(f"{unknown('property', spec, PROPERTIES)} {hint}")
    return PROPERTIES[spec]


def as_properties(specs: Iterable[str | Property]) -> dict[str, Property]:
    """Properties by name."""
    return {prop.name: prop for prop in map(as_property, specs)}
