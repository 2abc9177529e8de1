"""Six numbers of a symmetric tensor, in the order somebody wrote them down."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

VOIGT_ASE = "xx yy zz yz xz xy"
VOIGT_VASP = "xx yy zz xy yz xz"
ORDERS = {"ase": VOIGT_ASE, "vasp": VOIGT_VASP}


def voigt_order(order: str) -> str:
    """An order spelt out: six components such as ``xx yy zz yz xz xy``, or a program's name.

    Raises:
        ValueError: if a component is missing or unknown.

    Example:
        >>> voigt_order("vasp")
        'xx yy zz xy yz xz'
    """
    words = ORDERS.get(order, order).lower().replace(",", " ").split()
    components = ["".join(sorted(word)) for word in words]
    if sorted(components) != sorted(VOIGT_ASE.split()):
        raise ValueError(
            f"voigt must name each of {VOIGT_ASE} once, in the order of the file, or one of "
            f"{', '.join(ORDERS)}, got {order!r}."
        )
    return " ".join(components)


def voigt_index(order: str) -> Int64[np.ndarray, "3 3"]:
    """Where each component of the full tensor stands among the six."""
    components = voigt_order(order).split()
    places = [[components.index("".join(sorted(i + j))) for j in "xyz"] for i in "xyz"]
    return np.array(places, dtype=np.int64)


def full_tensor(six: Float64[np.ndarray, "6"], index: Int64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """The symmetric tensor of six numbers.

    Example:
        >>> full_tensor(np.arange(6.0), voigt_index("ase")).tolist()
        [[0.0, 5.0, 4.0], [5.0, 1.0, 3.0], [4.0, 3.0, 2.0]]
    """
    return six[index]
