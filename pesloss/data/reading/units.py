"""What the numbers of a file are multiplied with, from their unit in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pesloss.units import BOHR, HARTREE, Powers, Unit, as_unit

ATOMIC_UNITS = ("a.u.", "au", "atomic units")
PER_ATOM: Powers = (0, 0, 0, -1, 0)
# a polarizability in the Gaussian system is a volume, α' = α / 4πε₀
COULOMB_CONSTANT = HARTREE * BOHR
COULOMB_POWERS: Powers = (1, 1, -2, 0, 0)


@dataclass(frozen=True)
class Scale:
    """What the numbers of a file are multiplied with.

    Args:
        factor: to pesloss's unit.
        per_atom: whether with the number of atoms too.
        text: the unit of the file, in words.
    """

    factor: float = 1.0
    per_atom: bool = False
    text: str = ""

    @property
    def is_one(self) -> bool:
        """Whether it changes nothing."""
        return self.factor == 1.0 and not self.per_atom

    def agrees(self, other: Scale) -> bool:
        """Whether both say the same, up to the digits of the constants of nature."""
        return self.per_atom == other.per_atom and math.isclose(self.factor, other.factor, rel_tol=1e-4)


def scale(text: str, target: Unit, *, extensive: bool = False) -> Scale:
    """From a unit in words to another unit of the same dimension.

    An extensive quantity may be given per atom; a polarizability as a volume; and anything in atomic units.

    Raises:
        ValueError: if the dimensions differ.

    Example:
        >>> scale("meV/atom", as_unit("eV"), extensive=True)
        Scale(factor=0.001, per_atom=True, text='meV/atom')
        >>> [round(scale(text, as_unit("e²·Å²/eV")).factor, 6) for text in ("bohr^3", "a.u.")]
        [0.010291, 0.010291]
    """
    if text in ATOMIC_UNITS:
        return Scale(_atomic(target), text=text)
    unit = as_unit(text)
    if unit.powers == target.powers:
        return Scale(unit.factor / target.factor, text=text)
    if extensive and unit.powers == (target * Unit(1.0, PER_ATOM)).powers:
        return Scale(unit.factor / target.factor, per_atom=True, text=text)
    if target.powers[2] == 2 and unit.powers == (target * Unit(1.0, COULOMB_POWERS)).powers:
        return Scale(unit.factor / COULOMB_CONSTANT / target.factor, text=text)
    raise ValueError(
        f"'{text}' is a unit of {unit.dimension}, expected one of {target.dimension}"
        + (f" such as '{target.text}'." if target.text else ".")
    )


def _atomic(target: Unit) -> float:
    energy, length, _, _, moment = target.powers
    if moment:
        raise ValueError(
            "Atomic units of a magnetic moment are 2 μB, but many files mean μB; give the unit by its name."
        )
    return HARTREE**energy * BOHR**length / target.factor
