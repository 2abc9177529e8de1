"""Six numbers of a symmetric tensor, in the order somebody wrote them down."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from pesloss.losses.voigt import ORDERS, voigt_order


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


def voigt_option(order: str) -> str:
    """What to write in a config for an order, by a program's name if it has one.

    Example:
        >>> voigt_option("xx yy zz xy yz xz"), voigt_option("xx yy zz xy xz yz")
        ('data.voigt=vasp', "data.voigt='xx yy zz xy xz yz'")
    """
    named = [name for name, known in ORDERS.items() if known == voigt_order(order)]
    return f"data.voigt={named[0]}" if named else f"data.voigt='{order}'"
