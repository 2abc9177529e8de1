"""Units in words: products of powers of names, such as ``kcal/mol/Å``, and what they are in eV, Å and e."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pesloss.names import unknown

Powers: TypeAlias = tuple[int, int, int, int, int]

# CODATA 2014 in eV and Å, to the last digit those of ase.units, which takes half a second to import
HARTREE = 27.211386024367243
BOHR = 0.5291772105638411
DEBYE = 0.20819433442462576
JOULE = COULOMB = 6.241509125883258e18
PASCAL = 6.241509125883258e-12
CALORIE = 2.611447418269555e19
MOLE = 6.022140857e23

DIMENSIONS = ("energy", "length", "charge", "atom", "magnetic moment")
NONE: Powers = (0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Unit:
    """A unit of the form ``energy^a · length^b · charge^c · atom^d · moment^e``.

    Args:
        factor: how many units made of eV, Å, e and μB it is.
        powers: the powers of energy, length, charge, number of atoms and magnetic moment.
        text: how it was written.
    """

    factor: float
    powers: Powers
    text: str = ""

    def __mul__(self, other: Unit) -> Unit:
        a, b, c, d, e = (mine + theirs for mine, theirs in zip(self.powers, other.powers, strict=True))
        return Unit(self.factor * other.factor, (a, b, c, d, e))

    def __pow__(self, power: int) -> Unit:
        a, b, c, d, e = (power * mine for mine in self.powers)
        return Unit(self.factor**power, (a, b, c, d, e))

    @property
    def dimension(self) -> str:
        """The dimension in words.

        Example:
            >>> as_unit("kbar").dimension
            'energy / length^3'
        """
        named = list(zip(DIMENSIONS, self.powers, strict=True))
        above = [_power(name, power) for name, power in named if power > 0]
        below = [_power(name, -power) for name, power in named if power < 0]
        return " / ".join([" · ".join(above) or "1", *below]) if above or below else "a plain number"


def _power(name: str, power: int) -> str:
    return name if power == 1 else f"{name}^{power}"


def _names() -> dict[str, Unit]:
    """Every name a unit goes by; where the case is free, in lower case."""
    energies = {
        "eV ev": 1.0,
        "meV": 1e-3,
        "Hartree hartree Ha ha Eh": HARTREE,
        "mHa mEh mHartree": 1e-3 * HARTREE,
        "Rydberg rydberg Ry ry": HARTREE / 2,
        "J joule": JOULE,
        "kJ kj kilojoule": 1e3 * JOULE,
        "cal": CALORIE,
        "kcal kilocalorie": 1e3 * CALORIE,
    }
    lengths = {
        "Å A Ang ang Angstrom angstrom angstroms Ångström": 1.0,
        "bohr Bohr a0": BOHR,
        "nm nanometer": 10.0,
        "pm": 0.01,
        "cm": 1e8,
        "m": 1e10,
    }
    charges = {"e elementary_charge": 1.0, "C coulomb": COULOMB}
    pressures = {"Pa": 1.0, "kPa": 1e3, "MPa": 1e6, "GPa gpa": 1e9, "bar": 1e5, "kbar kB": 1e8, "Mbar": 1e11}
    others = {
        "Debye debye D": (DEBYE, (0, 1, 1, 0, 0)),
        "V": (1.0, (1, 0, -1, 0, 0)),
        "mol mole": (MOLE, NONE),
        "atom atoms": (1.0, (0, 0, 0, 1, 0)),
        "μB muB mu_B bohr_magneton": (1.0, (0, 0, 0, 0, 1)),
    }
    table = {words: (factor, (1, 0, 0, 0, 0)) for words, factor in energies.items()}
    table |= {words: (factor, (0, 1, 0, 0, 0)) for words, factor in lengths.items()}
    table |= {words: (factor, (0, 0, 1, 0, 0)) for words, factor in charges.items()}
    table |= {words: (factor * PASCAL, (1, -3, 0, 0, 0)) for words, factor in pressures.items()}
    table |= others
    return {name: Unit(factor, powers) for words, (factor, powers) in table.items() for name in words.split()}


UNITS: Mapping[str, Unit] = _names()

_ASCII = str.maketrans({"Å": "A", "·": "*", "×": "*", "−": "-", "μ": "mu"})

_TOKEN = re.compile(
    r"\s*(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"
    r"|\s*(?P<name>a0|[^\W\d]+)(?P<power>(?:\s*(?:\^|\*\*)\s*)?[+-]?\d+)?"
    r"|\s*(?P<sign>[*/·×()])"
)


def as_unit(text: str) -> Unit:
    """The unit that words stand for.

    Raises:
        ValueError: if they cannot be read, with the nearest name that can.

    Example:
        >>> round(as_unit("kcal/mol").factor, 7)
        0.0433641
        >>> as_unit("eV/Å³").powers == as_unit("eV Å^-3").powers == as_unit("GPa").powers
        True
    """
    # superscripts become digits, and the sign of the Ångström the letter
    plain = unicodedata.normalize("NFKC", text).replace("−", "-").strip()
    tokens = _tokens(plain, text)
    unit = _product(tokens, text)
    if tokens:
        raise ValueError(f"Unit '{text}' has a bracket that was never opened.")
    return Unit(unit.factor, unit.powers, text)


def in_ascii(text: str) -> str:
    """The same unit in letters that any command line takes.

    Example:
        >>> in_ascii("20 meV/Å³")
        '20 meV/A3'
    """
    return unicodedata.normalize("NFKC", text).translate(_ASCII)


def _tokens(plain: str, text: str) -> list[str | Unit]:
    tokens: list[str | Unit] = []
    place = 0
    while place < len(plain):
        match = _TOKEN.match(plain, place)
        if match is None:
            raise ValueError(f"Unit '{text}' cannot be read from '{plain[place:]}' on.")
        tokens.append(_token(match, text))
        place = match.end()
    return tokens


def _token(match: re.Match[str], text: str) -> str | Unit:
    if match["sign"]:
        return match["sign"]
    if match["number"]:
        return Unit(float(match["number"]), NONE)
    if match["name"] not in UNITS:
        raise ValueError(f"{unknown('unit', match['name'], UNITS)} In '{text}'.")
    return UNITS[match["name"]] ** int((match["power"] or "1").strip(" ^*"))


def _product(tokens: list[str | Unit], text: str) -> Unit:
    """Factors up to the end or the closing bracket, taken off the list; ``/`` is for the next of them."""
    product, divide = Unit(1.0, NONE), False
    while tokens and (token := tokens[0]) != ")":
        tokens.pop(0)
        if isinstance(token, str) and token != "(":
            divide = token == "/"
            continue
        factor = _bracket(tokens, text) if isinstance(token, str) else token
        product, divide = product * factor ** (-1 if divide else 1), False
    if divide:
        raise ValueError(f"Unit '{text}' ends with '/'.")
    return product


def _bracket(tokens: list[str | Unit], text: str) -> Unit:
    inner = _product(tokens, text)
    if not tokens:
        raise ValueError(f"Unit '{text}' has a bracket that is never closed.")
    tokens.pop(0)
    return inner
