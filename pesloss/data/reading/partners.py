"""Whether stress and virial of one structure say the same: ``virial = −volume · stress``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float64

from pesloss.data.reading.voigt import voigt_option
from pesloss.losses.voigt import VOIGT_ASE
from pesloss.units import as_unit

RELATIVE = 5e-3
"""Difference over the largest component that digits explain: a file prints three of them at least."""

ABSOLUTE = 1e-5
"""The same in eV/Å³: kbar are printed with two decimals, eV/Å³ with five."""

UNITS = {"stress": ("kbar", "GPa", "bar", "hartree/bohr^3"), "virial": ("hartree", "kcal/mol", "kJ/mol")}
"""Units that codes write."""

SHEAR: tuple[str, ...] = ("yz", "xz", "xy")
INDEX = ((1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class Side:
    """A stress or a virial as it was read.

    Args:
        name: of the two.
        place: where it stands, in words.
        stress: what it says of the stress, in eV/Å³.
        six: whether it stands there as six numbers.
        order: by which these were read.
    """

    name: str
    place: str
    stress: Float64[np.ndarray, "3 3"]
    six: bool
    order: str = VOIGT_ASE


@dataclass(frozen=True)
class Pair:
    """Stress and virial of one structure, both there.

    Args:
        first: one of them.
        second: the other.
        num_atoms: of the structure.
        volume: of its cell, in Å³.
    """

    first: Side
    second: Side
    num_atoms: int
    volume: float

    def check(self) -> None:
        """Both say the same where neither is missing, up to the digits of a file.

        Raises:
            ValueError: if they do not, with what would make them agree.
        """
        first, second = self.first, self.second
        known = np.isfinite(first.stress) & np.isfinite(second.stress)
        one, other = np.where(known, first.stress, 0.0), np.where(known, second.stress, 0.0)
        if not _same(one, other):
            cause = next(self._causes(one, other), _far(one, other))
            raise ValueError(
                f"'{first.name}' from {first.place} and '{second.name}' from {second.place} contradict each "
                f"other, since virial = −volume · stress: {cause}; or name the one that is "
                "meant by a key for it alone."
            )

    def _causes(self, one: Float64[np.ndarray, "3 3"], other: Float64[np.ndarray, "3 3"]) -> Iterator[str]:
        """What would make them agree: a factor alone, or with another order of the shear components."""
        orders = [tuple(order) for order in permutations(range(3))]
        for order in orders if self.first.six or self.second.six else orders[:1]:
            moved = _moved(other, order)
            factor = float((one * moved).sum() / (moved**2).sum()) if moved.any() else 0.0
            if factor and _same(one / factor, moved) and _same(one, factor * moved):
                yield ", and ".join([*self._order(order), *self._sign(factor), *self._factor(abs(factor))])

    def _order(self, order: tuple[int, ...]) -> Iterator[str]:
        if order == (0, 1, 2):
            return
        side = self.second if self.second.six else self.first
        pairs = [(component, SHEAR[slot]) for component, slot in zip(SHEAR, order, strict=True)]
        # what stands as yz in the first stands in the second at the slot of its own
        true = dict(pairs if side is self.first else [(slot, component) for component, slot in pairs])
        words = " ".join(true.get(component, component) for component in side.order.split())
        both = ", an option for both" if self.first.six and self.second.six else ""
        yield f"the six numbers of the {side.name} agree in the order {words} ({voigt_option(words)}{both})"

    def _sign(self, factor: float) -> Iterator[str]:
        if factor < 0:
            names = [f"+data.signs.{side.name}=-1" for side in (self.first, self.second)]
            yield f"one of them has the other sign ({' or '.join(names)})"

    def _factor(self, factor: float) -> Iterator[str]:
        """The factor by which the first is too large, in words, or the second if that has a name."""
        if abs(factor - 1) > RELATIVE:
            named = [self._unit(self.first, factor), self._unit(self.second, 1 / factor)]
            unnamed = f"the {self.first.name} is {factor:.6g} times what the {self.second.name} makes it"
            yield next(filter(None, named), unnamed)

    def _unit(self, side: Side, factor: float) -> str | None:
        for unit in UNITS[side.name]:
            if np.isclose(factor, 1 / as_unit(unit).factor, rtol=RELATIVE):
                return f"the {side.name} is in {unit} (+data.units.{side.name}={unit})"
        if side.name == "virial" and np.isclose(factor, 1 / self.num_atoms, rtol=RELATIVE):
            return "the virial is per atom (+data.units.virial=eV/atom)"
        if side.name == "stress" and np.isclose(factor, self.volume, rtol=RELATIVE):
            return "the stress is not divided by the volume, so that it is a virial"
        return None


def _far(one: Float64[np.ndarray, "3 3"], other: Float64[np.ndarray, "3 3"]) -> str:
    size = max(np.abs(one).max(), np.abs(other).max())
    return f"they differ by {np.abs(one - other).max() / size:.0%} of the larger one"


def _same(one: Float64[np.ndarray, "3 3"], other: Float64[np.ndarray, "3 3"]) -> bool:
    size = max(np.abs(one).max(), np.abs(other).max())
    return bool(np.abs(one - other).max() <= RELATIVE * size + ABSOLUTE)


def _moved(tensor: Float64[np.ndarray, "3 3"], order: tuple[int, ...]) -> Float64[np.ndarray, "3 3"]:
    """Shear components taken from other places."""
    moved = tensor.copy()
    for (i, j), slot in zip(INDEX, order, strict=True):
        moved[i, j], moved[j, i] = tensor[INDEX[slot]], tensor[INDEX[slot][::-1]]
    return moved
