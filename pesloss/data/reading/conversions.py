"""What the numbers of a file are multiplied with: units that the user, the file or its format states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pesloss.data.reading.units import Scale, scale
from pesloss.losses.properties import Property
from pesloss.units import DIMENSIONS, Powers, Unit, as_unit

ASE_UNITS: Mapping[str, str] = {"energy": "eV", "length": "Å", "charge": "e"}
BASES: Mapping[str, Powers] = {
    "energy": (1, 0, 0, 0, 0),
    "length": (0, 1, 0, 0, 0),
    "charge": (0, 0, 1, 0, 0),
}


class Conversions:
    """Scales of the quantities of one file.

    A quantity's own unit goes before those of energy, length and charge, from which it otherwise follows:
    forces in kcal/mol/bohr where energies are in kcal/mol and lengths in bohr.

    Args:
        given: units the user states, by ``energy``, ``length``, ``charge`` or property.
        stated: base units that the file states.
        defined: base units that every file of its format has.

    Raises:
        ValueError: if a unit cannot be read, is of another dimension, or if user and file disagree.
    """

    def __init__(
        self, given: Mapping[str, str], stated: Mapping[str, str], defined: Mapping[str, str]
    ) -> None:
        self.given = given
        self.own = {base: _base(base, given[base]) for base in BASES if base in given}
        self.stated = {base: _base(base, text) for base, text in stated.items()}
        for base in self.own.keys() & self.stated.keys():
            mine, theirs = Scale(self.own[base].factor), Scale(self.stated[base].factor)
            _check_same(base, given[base], mine, stated[base], theirs)
        self.bases = {
            **{base: _base(base, text) for base, text in defined.items()},
            **self.stated,
            **self.own,
        }

    def length(self, stated: str | None = None) -> Scale:
        """Of positions and cell.

        Args:
            stated: the unit that the file states for the positions themselves.
        """
        return self._scale("positions", as_unit("Å"), stated)

    def of(self, prop: Property, stated: str | None = None) -> Scale:
        """Of a property.

        Args:
            stated: the unit that the file states for this very entry.
        """
        try:
            target = as_unit(prop.unit)
        except ValueError:
            return self._foreign(prop, stated)
        return self._scale(prop.name, target, stated, extensive=prop.extensive)

    def _scale(self, name: str, target: Unit, stated: str | None, *, extensive: bool = False) -> Scale:
        mine = self._given(name, target, extensive)
        theirs = None if stated is None else _named(name, stated, target, extensive)
        if mine and theirs:
            _check_same(name, mine.text, mine, theirs.text, theirs)
        return mine or theirs or self._derived(name, target, self.bases)

    def _given(self, name: str, target: Unit, extensive: bool) -> Scale | None:
        if name in self.given:
            return _named(name, self.given[name], target, extensive)
        needed = _bases(target).keys()
        return self._derived(name, target, self.own) if needed and needed <= self.own.keys() else None

    def _derived(self, name: str, target: Unit, bases: Mapping[str, Unit]) -> Scale:
        needed = _bases(target)
        if any(base not in bases for base in needed):
            raise ValueError(
                _undeclared(name, [base for base in ("energy", "length", *needed) if base not in bases])
            )
        made = [(bases[base], power) for base, power in needed.items()]
        factor = math.prod(unit.factor**power for unit, power in made)
        return Scale(factor / target.factor, text=_in_words({unit.text: power for unit, power in made}))

    def _foreign(self, prop: Property, stated: str | None) -> Scale:
        """A unit that is no power of energy, length and charge is compared letter by letter."""
        found = self.given.get(prop.name, stated)
        if found is not None and found != prop.unit:
            raise ValueError(
                f"units: '{prop.name}' is in '{found}', and nothing is known of its unit '{prop.unit}'."
            )
        return Scale(text=prop.unit)


def _base(base: str, text: str) -> Unit:
    """Unit of energy, length or charge; an energy per atom says what an energy is in."""
    target = Unit(1.0, BASES[base], ASE_UNITS[base])
    found = _named(base, text, target, extensive=base == "energy")
    return Unit(found.factor, target.powers, text.removesuffix("/atom"))


def _named(name: str, text: str, target: Unit, extensive: bool) -> Scale:
    try:
        return scale(text, target, extensive=extensive)
    except ValueError as error:
        raise ValueError(f"units: '{name}': {error}") from None


def _bases(unit: Unit) -> dict[str, int]:
    """Energy, length and charge with the powers that make up a unit."""
    return {
        name: power for name, power in zip(DIMENSIONS, unit.powers, strict=True) if power and name in BASES
    }


def _check_same(name: str, mine: str, my_scale: Scale, theirs: str, their_scale: Scale) -> None:
    if not my_scale.agrees(their_scale):
        raise ValueError(
            f"units: '{name}' is given in {mine}, but the file itself states {theirs}; one of them is wrong."
        )


def _in_words(powers: Mapping[str, int]) -> str:
    """A product of powers of units: ``kcal/mol/Å``."""
    above = "·".join(_power(text, power) for text, power in powers.items() if power > 0)
    return "/".join([above or "1", *(_power(text, -power) for text, power in powers.items() if power < 0)])


def _power(text: str, power: int) -> str:
    return text if power == 1 else f"({text})^{power}" if "/" in text else f"{text}^{power}"


def _undeclared(name: str, lacking: Sequence[str]) -> str:
    """All units that the file lacks at once, since the next property would ask for the next of them."""
    examples = {"energy": "kcal/mol", "length": "angstrom", "charge": "e"}
    bases = " ".join(f"+data.units.{base}={examples[base]}" for base in dict.fromkeys(lacking))
    own = "" if name in ("positions", *BASES) else f", or for '{name}' alone +data.units.{name}=..."
    return (
        f"'{name}' has no unit: neither the file nor its format says what it is in. "
        f"Write for example {bases}{own}."
    )
