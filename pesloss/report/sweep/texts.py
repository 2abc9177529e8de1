"""Numbers and values as a reader wants them: few digits, the same ones down a column."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from statistics import median
from typing import Any

from pesloss.report.sweep.settings import Mean

MINUS = "\N{MINUS SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LARGE = 1e6
"""From here on a number is told by its power of ten."""


@dataclass(frozen=True)
class Digits:
    """How many decimals a column of errors is told with.

    Args:
        decimals: the same for all that are below a million.
    """

    decimals: int

    @classmethod
    def of(cls, means: Sequence[Mean]) -> Digits:
        """Three digits of the smallest mean, or as many, up to five, as the spread between seeds allows."""
        values = [abs(mean.value) for mean in means if mean.value != 0]
        spreads = [mean.spread for mean in means if mean.spread]
        if not values:
            return cls(1)
        least = decimals(min(values), 3)
        if spreads:
            least = max(least, min(decimals(median(spreads), 1), decimals(min(values), 5)))
        return cls(least)

    def text(self, value: float) -> str:
        """A number of the column.

        Example:
            >>> [Digits(1).text(value) for value in (21.34, -3.0, 123456789.0, float("inf"))]
            ['21.3', '−3.0', '1.23·10⁸', 'inf']
        """
        if isfinite(value) and abs(value) >= LARGE:
            return scientific(value, 3)
        return f"{value:.{self.decimals}f}".replace("-", MINUS)

    def mean(self, mean: Mean | None) -> str:
        """A mean and its spread.

        Example:
            >>> means = Mean(21.34, 0.42, 3), Mean(21.34, 0.013, 3), Mean(21.34, None, 1), None
            >>> [Digits(1).mean(mean) for mean in means]
            ['21.3 ± 0.4', '21.3 ± 0.01', '21.3', '–']
        """
        if mean is None:
            return "–"
        return " ".join(filter(None, (self.text(mean.value), self.spread(mean))))

    def spread(self, mean: Mean) -> str:
        """What stands behind a mean; one digit where that of the column would be 0."""
        if mean.spread is None:
            return ""
        is_small = 0 < mean.spread < 0.5 * 10**-self.decimals
        return f"± {number(float(f'{mean.spread:.1g}')) if is_small else self.text(mean.spread)}"


def decimals(value: float, digits: int) -> int:
    """Decimals that show so many digits of a number.

    Example:
        >>> [decimals(value, 3) for value in (1234.5, 12.3, 0.0123)]
        [0, 1, 4]
    """
    return min(max(digits - 1 - floor(log10(abs(value))), 0), 9)


def scientific(value: float, digits: int) -> str:
    """A number by its power of ten.

    Example:
        >>> scientific(1.0e-5, 1), scientific(-2.5e7, 2)
        ('10⁻⁵', '−2.5·10⁷')
    """
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    raised = f"10{str(int(power)).translate(SUPERSCRIPTS)}"
    if float(mantissa) == 1:
        return raised
    return f"{mantissa}·{raised}".replace("-", MINUS)


def number(value: float) -> str:
    """A number on an axis.

    Example:
        >>> [number(value) for value in (0.0, 0.001, 2.5, 1000.0, 100000.0, 1e-5)]
        ['0', '0.001', '2.5', '1000', '10⁵', '10⁻⁵']
    """
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return scientific(value, len(f"{value:.3g}".partition("e")[0].replace(".", "").strip("-0")) or 1)
    return f"{value:.6g}".replace("-", MINUS)


def value(found: Any) -> str:
    """A value of the config, as on the command line.

    Example:
        >>> [value(found) for found in (1e-05, 10.0, 0.3141592653589793, "huber", None, [1, True])]
        ['1e-5', '10', '0.31416', 'huber', 'null', '[1, true]']
    """
    if isinstance(found, str):
        return found
    if isinstance(found, float):
        whole = repr(found).removesuffix(".0")
        short = whole if len(whole) <= 8 else f"{found:.5g}"  # a sampler's numbers have sixteen digits
        return short.replace("e-0", "e-").replace("e+0", "e")
    return json.dumps(found, ensure_ascii=False, default=str)


def plural(num: int, word: str, words: str = "") -> str:
    """So many of something.

    Example:
        >>> plural(1, "job"), plural(2, "job"), plural(0, "seed")
        ('1 job', '2 jobs', '0 seeds')
    """
    return f"{num} {word if num == 1 else words or word + 's'}"
