"""What an entry of a file looks like, in words: for entries that nobody reads, in case they were meant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pesloss.data.reading.formats.base import ARRAYS, RESULTS, Place

OF_ATOMS = ("forces", "charges", "magmoms", "energies", "stresses")
"""Results of a calculator of ASE's that have a row an atom."""
AMBIGUOUS = ((3,), (3, 3))
"""Shapes of a vector and a tensor, which three atoms could fill with numbers and vectors of their own."""


def in_words(place: Place, value: Any, num_atoms: int) -> str:
    """What a value looks like.

    Example:
        >>> [in_words(Place("info", "a"), value, 3) for value in (1.5, "PBE", True, [1, 2], {"a": 1})]
        ['a number', 'text', 'true or false', '2 numbers', 'a dict']
    """
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal lengths
        return f"a {type(value).__name__}"
    if array.dtype.kind in "SU":
        return "text"
    if array.dtype.kind == "b" and not array.ndim:
        return "true or false"
    if array.dtype.kind not in "biuf":
        return f"a {type(value).__name__}"
    if place.where == ARRAYS or (place.where == RESULTS and place.key in OF_ATOMS and array.ndim):
        return an_atom(array.shape[1:])
    return of_shape(array.shape, num_atoms)


def of_shape(shape: Sequence[int], num_atoms: int) -> str:
    """What numbers of a shape look like, where only the shape tells whether atoms have a row each.

    Example:
        >>> [of_shape(shape, 3) for shape in [(), (1,), (6,), (3, 3), (3, 3, 3)]]
        ['a number', 'a number', '6 numbers', '3×3 numbers', '3×3 numbers an atom']
    """
    shape = tuple(shape)
    of_atoms = shape[:1] == (num_atoms,) and (num_atoms > 1 or len(shape) > 1) and shape not in AMBIGUOUS
    return an_atom(shape[1:]) if of_atoms else numbers(shape)


def an_atom(entry: Sequence[int]) -> str:
    """What an entry of this shape for each atom is called."""
    return f"{numbers(entry)} an atom"


def numbers(entry: Sequence[int]) -> str:
    """What an entry of this shape is called."""
    return "a number" if math.prod(entry) == 1 else f"{'×'.join(map(str, entry))} numbers"
