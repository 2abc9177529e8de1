"""Whether atoms, positions and cell make up a structure that can exist."""

from __future__ import annotations

import math

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool, Float64, Int, Int64, Shaped

from pesloss.data.reading.structures import Structure

MIN_DISTANCE = 0.1
"""Closest distance of two atoms that can be meant, in Å: half of it would be a nucleus."""

FLAT = 1e-8
"""Volume over the product of the lengths below which lattice vectors span no space."""


def check_geometry(
    numbers: Int64[np.ndarray, "atoms"],
    positions: Float64[np.ndarray, "..."],
    cell: Float64[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, "3"],
) -> None:
    """A structure has atoms that are elements, finite positions, and lattice vectors where it repeats.

    Raises:
        ValueError: if not.
    """
    if len(numbers) == 0:
        raise ValueError("it has no atoms.")
    _check_elements(numbers)
    if positions.shape != (len(numbers), 3):
        raise ValueError(f"positions have shape {positions.shape}, expected {(len(numbers), 3)}.")
    if not np.isfinite(positions).all():
        atom = int(np.argmin(np.isfinite(positions).all(axis=1)))
        raise ValueError(f"positions of atom {atom} must be finite, got {positions[atom].tolist()}.")
    _check_cell(cell, pbc)


def check_distances(
    structure: Structure,
    pairs: Int[np.ndarray, "2 edges"],
    shifts: Shaped[np.ndarray, "edges 3"],
    min_distance: float = MIN_DISTANCE,
) -> None:
    """No two atoms lie upon each other, periodic images included.

    Args:
        structure: whose atoms.
        pairs: neighbours (centre, neighbour) within any cutoff above ``min_distance``.
        shifts: whole cell vectors from the neighbour to its image.
        min_distance: in Å.

    Raises:
        ValueError: if two are closer than that, with their names.
    """
    centre, neighbour = pairs
    vectors = structure.positions[neighbour] - structure.positions[centre] + shifts @ structure.cell
    squares = np.einsum("ex,ex->e", vectors, vectors)
    if len(squares) and squares.min() < min_distance**2:
        edge = int(squares.argmin())
        names = [f"{chemical_symbols[structure.numbers[atom]]} {atom}" for atom in pairs[:, edge].tolist()]
        raise ValueError(
            f"{structure.source}: positions: atoms {names[0]} and {names[1]} are "
            f"{math.sqrt(squares[edge]):.3g} Å apart, closer than min_distance = {min_distance} Å; "
            "is the unit of length right?"
        )


def volume(cell: Float64[np.ndarray, "3 3"]) -> float:
    """Volume between three lattice vectors, in Å³."""
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    return abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


def _check_elements(numbers: Int64[np.ndarray, "atoms"]) -> None:
    if numbers.min() < 1 or numbers.max() >= len(chemical_symbols):
        atom = int(np.argmax((numbers < 1) | (numbers >= len(chemical_symbols))))
        raise ValueError(f"atom {atom} is no chemical element (atomic number {numbers[atom]}).")


def _check_cell(cell: Float64[np.ndarray, "3 3"], pbc: Bool[np.ndarray, "3"]) -> None:
    if not np.isfinite(cell).all():
        raise ValueError(f"the cell must be finite, got {cell.tolist()}.")
    if pbc.any() and _flatness(cell[pbc]) < FLAT:
        raise ValueError(
            f"it repeats along {pbc.tolist()}, but those lattice vectors of the cell span no such space: "
            f"{cell.tolist()}."
        )


def _flatness(vectors: Float64[np.ndarray, "vectors 3"]) -> float:
    """Volume between vectors of length 1 in these directions; 0 if they lie in a plane or one is 0."""
    lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    if not lengths.all():
        return 0.0
    unit = vectors / lengths
    if len(unit) == 3:
        return volume(unit)
    return math.sqrt(max(0.0, float(np.linalg.det(unit @ unit.T))))
