"""Chemical elements by symbol or atomic number."""

from __future__ import annotations

from pesloss.names import unknown

NUMBERS = 119
"""Length of a table with a row for every atomic number, and for 0."""


def atomic_number(element: str | int) -> int:
    """Atomic number of an element.

    Raises:
        ValueError: if there is no such element.
    """
    from ase.data import atomic_numbers  # half a second that only few losses need

    if isinstance(element, str) and element in atomic_numbers:
        return atomic_numbers[element]
    if isinstance(element, int) and not isinstance(element, bool) and 0 < element < len(atomic_numbers):
        return element
    raise ValueError(unknown("element", element, [symbol for symbol in atomic_numbers if symbol != "X"]))
