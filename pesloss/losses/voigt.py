"""Orders in which the six numbers of a symmetric tensor are written down."""

from __future__ import annotations

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
            f"voigt must name each of {VOIGT_ASE} once, in the order of the six numbers, or one of "
            f"{', '.join(ORDERS)}, got {order!r}."
        )
    return " ".join(components)
