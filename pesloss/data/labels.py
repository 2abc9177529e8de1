"""Where a label stands in an ASE structure, and whether its shape and numbers make sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from jaxtyping import Float64

from pesloss.losses.properties import Property

RESULTS, INFO, ARRAYS = "calculator results", "info", "arrays"

PREFIXES = ("", "REF_", "ref_", "DFT_", "dft_")
"""What people put before a property's name, so that ASE leaves it in ``info`` or ``arrays``."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "forces": ("force",),
    "virial": ("virials",),
    "dipole": ("dipole_moment",),
}
"""Other names of a property. ``free_energy`` and ``initial_charges`` are others, left to ``keys``."""

PARTNERS: Mapping[str, str] = {"stress": "virial", "virial": "stress"}
"""The two spellings of one quantity: ``virial = −volume · stress``."""


class Place(NamedTuple):
    """A key and where it stands: in the calculator's results, in ``info`` or in ``arrays``."""

    where: str
    key: str

    def __str__(self) -> str:
        return f"{self.where} '{self.key}'"


def contents(atoms: Atoms) -> dict[Place, Any]:
    """Everything a structure carries besides its atoms and cell."""
    results = atoms.calc.results if atoms.calc is not None else {}
    arrays = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    places = {RESULTS: results, INFO: atoms.info, ARRAYS: arrays}
    return {Place(w, str(k)): v for w, values in places.items() for k, v in values.items() if v is not None}


def usual_places(names: Iterable[str], rows: str) -> list[Place]:
    """Where something usually stands: results first, then ``info`` (structures) or ``arrays`` (atoms)."""
    own = ARRAYS if rows == "atom" else INFO
    names = list(names)
    return [Place(where, name) for where in (RESULTS, own) for name in names]


def key_places(key: str) -> list[Place]:
    """Where a key of the user's may stand: anywhere."""
    return [Place(where, key) for where in (RESULTS, INFO, ARRAYS)]


def usual_names(prop: Property) -> list[str]:
    """Names a property goes by in files."""
    return [prefix + name for name in (prop.name, *ALIASES.get(prop.name, ())) for prefix in PREFIXES]


def find(
    item: str,
    candidates: Iterable[Place],
    content: Mapping[Place, Any],
    parse: Callable[[Any], np.ndarray],
) -> tuple[Place, np.ndarray] | None:
    """The first candidate that the structure has, and its value.

    Raises:
        ValueError: if it makes no sense, or if two candidates disagree: a guess would train on the wrong one.
    """
    found = [(place, _parsed(item, place, content[place], parse)) for place in candidates if place in content]
    for place, value in found[1:]:
        first, reference = found[0]
        if value.shape != reference.shape or not np.allclose(
            value, reference, rtol=1e-8, atol=1e-6, equal_nan=True
        ):
            raise ValueError(
                f"'{item}' stands in {first} and in {place}, and they differ; say which one is meant: "
                f"keys={{'{item}': '{first.key}'}} or keys={{'{item}': '{place.key}'}}."
            )
    return found[0] if found else None


def _parsed(item: str, place: Place, value: Any, parse: Callable[[Any], np.ndarray]) -> np.ndarray:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"'{item}' from {place} {error}.") from None


def as_numbers(value: Any) -> Float64[np.ndarray, "..."]:
    """Float64 numbers of whatever the file holds.

    Raises:
        ValueError: if it is not numeric, or infinite. NaN stands for a missing label.
    """
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"needs numbers, got {value!r}") from None
    if np.isinf(numbers).any():
        raise ValueError("holds an infinite number; a missing label is NaN or absent")
    return numbers


def as_label(value: Any, prop: Property, num_atoms: int) -> Float64[np.ndarray, "..."]:
    """Label in the property's own shape; a tensor may be given flat, stress and virial in ASE's Voigt order.

    Raises:
        ValueError: if the shape fits neither.
    """
    label = as_numbers(value)
    rows = (num_atoms,) if prop.rows == "atom" else ()
    if label.shape == (6,) and _is_voigt(prop):
        return voigt_6_to_full_3x3_stress(label)
    # one number may come as an array of one, a tensor as its nine numbers in a row
    if label.shape in ((*rows, *prop.shape), (*rows, math.prod(prop.shape))):
        return label.reshape((*rows, *prop.shape))
    raise ValueError(f"has shape {label.shape}, expected {_expected(prop, rows)}")


def converted(partner: Float64[np.ndarray, "3 3"], name: str, volume: float) -> Float64[np.ndarray, "3 3"]:
    """Stress from virial, or virial from stress: ``virial = −volume · stress``."""
    return -partner / volume if name == "stress" else -partner * volume


def conversion(name: str) -> str:
    """The formula behind ``converted``, for the report."""
    return "stress = −virial / volume" if name == "stress" else "virial = −volume · stress"


def _expected(prop: Property, rows: tuple[int, ...]) -> str:
    shapes = [(*rows, *prop.shape)]
    if len(prop.shape) > 1:
        shapes.append((*rows, math.prod(prop.shape)))
    if _is_voigt(prop):
        shapes.append((6,))
    return " or ".join(map(str, shapes))


def _is_voigt(prop: Property) -> bool:
    return prop.name in PARTNERS and prop.shape == (3, 3)
