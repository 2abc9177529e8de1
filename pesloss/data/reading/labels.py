"""Where a label stands in a structure of a file, and whether its shape and numbers make sense."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from pesloss.data.reading.formats.base import ARRAYS, DATA, INFO, RESULTS, WHERE, Place
from pesloss.data.reading.voigt import voigt_index
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.losses.voigt import VOIGT_ASE

PREFIXES = ("", "REF_", "ref_", "DFT_", "dft_")
"""What people put before a property's name, so that ASE leaves it in ``info`` or ``arrays``."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "forces": ("force",),
    "virial": ("virials",),
    "dipole": ("dipole_moment",),
}
"""Other names of a property. ``free_energy`` and ``initial_charges`` are others, left to ``keys``."""

IN_DATA: Mapping[str, tuple[str, ...]] = {
    "energy": ("energies", "E"),
    "forces": ("F",),
    "dipole": ("dipoles",),
}
"""Names that are usual only where every key is a column of numbers."""

PARTNERS: Mapping[str, str] = {"stress": "virial", "virial": "stress"}
"""The two spellings of one quantity: ``virial = −volume · stress``."""

ASE_ORDER = voigt_index(VOIGT_ASE)

SIX_NUMBERS = "six numbers as "
"""Before the order of a symmetric tensor, in the account of what was done to a file's numbers."""


def usual_places(prop: Property) -> list[Place]:
    """Where a property usually stands: results, ``info`` (structures) or ``arrays`` (atoms), ``data``."""
    names = _with_prefixes((prop.name, *ALIASES.get(prop.name, ())))
    own = ARRAYS if prop.rows == "atom" else INFO
    places = [Place(where, name) for where in (RESULTS, own, DATA) for name in names]
    return places + [Place(DATA, name) for name in IN_DATA.get(prop.name, ())]


def key_places(key: str) -> list[Place]:
    """Where a key of the user's may stand: anywhere."""
    return [Place(where, key) for where in WHERE]


def candidates(prop: Property, keys: Mapping[str, str]) -> list[Place]:
    """Where a property is looked for: under the user's key, or where it usually stands."""
    return key_places(keys[prop.name]) if prop.name in keys else usual_places(prop)


def spellings(prop: Property, keys: Mapping[str, str]) -> list[Property]:
    """A quantity and what it follows from, itself first; those the user has a key for shut out the others."""
    both = [prop]
    if prop.name in PARTNERS and prop == PROPERTIES[prop.name]:
        both.append(PROPERTIES[PARTNERS[prop.name]])
    return [one for one in both if one.name in keys] or both


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


def as_label(
    value: Any, prop: Property, num_atoms: int, voigt: Int64[np.ndarray, "3 3"] = ASE_ORDER
) -> Float64[np.ndarray, "..."]:
    """Label in the property's own shape; a tensor may be given flat, stress and virial as six numbers.

    Blocks of pairs of atoms, as of a Hessian, may be given as the matrix [3N, 3N] or its numbers in a row.

    Args:
        value: as the file has it.
        prop: what it is.
        num_atoms: of the structure.
        voigt: where the components of a symmetric tensor stand among its six numbers.

    Raises:
        ValueError: if the shape is none of these.
    """
    label = as_numbers(value)
    rows = {"structure": (), "atom": (num_atoms,), "pair": (num_atoms**2,)}[prop.rows]
    shape = (*rows, *prop.shape)
    if label.shape == shape:
        return label
    matrix = tuple(num_atoms * size for size in prop.shape)
    if prop.rows == "pair" and len(matrix) == 2 and label.shape in (matrix, (math.prod(matrix),)):
        blocks = label.reshape(num_atoms, prop.shape[0], num_atoms, prop.shape[1])
        return blocks.transpose(0, 2, 1, 3).reshape(shape)
    if label.shape == (6,) and is_voigt(prop):
        return label[voigt]
    # one number may come as an array of one, a tensor as its nine numbers in a row
    if label.shape == (*rows, math.prod(prop.shape)):
        return label.reshape(shape)
    raise ValueError(f"has shape {label.shape}, expected {_expected(prop, rows)}")


def is_voigt(prop: Property) -> bool:
    """Whether six numbers may stand for the symmetric tensor."""
    return prop.name in PARTNERS and prop.shape == (3, 3)


def converted(partner: Float64[np.ndarray, "3 3"], name: str, volume: float) -> Float64[np.ndarray, "3 3"]:
    """Stress from virial, or virial from stress: ``virial = −volume · stress``."""
    return -partner / volume if name == "stress" else -partner * volume


def conversion(name: str) -> str:
    """The formula behind ``converted``, for the report."""
    return "stress = −virial / volume" if name == "stress" else "virial = −volume · stress"


def num_labelled(label: Float64[np.ndarray, "..."], prop: Property) -> int:
    """Number of rows with an entry that is not missing."""
    finite = np.isfinite(label)
    if finite.all():
        return 1 if prop.rows == "structure" else len(label)
    inside = tuple(range(label.ndim - len(prop.shape), label.ndim))
    return int(finite.any(axis=inside).sum() if inside else finite.sum())


def _with_prefixes(names: Iterable[str]) -> list[str]:
    return [prefix + name for name in names for prefix in PREFIXES]


def _expected(prop: Property, rows: tuple[int, ...]) -> str:
    shapes = [(*rows, *prop.shape)]
    if len(prop.shape) > 1:
        shapes.append((*rows, math.prod(prop.shape)))
    if is_voigt(prop):
        shapes.append((6,))
    return " or ".join(map(str, shapes))
