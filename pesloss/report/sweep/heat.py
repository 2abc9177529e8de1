"""Heat maps: an error at every two numbers that vary, weight × delta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from math import log

from pesloss.report.sweep.comparison import Comparison, is_number, numbers_of
from pesloss.report.sweep.markup import breakable, figure, unit_of
from pesloss.report.sweep.reading import ErrorName
from pesloss.report.sweep.settings import Mean
from pesloss.report.sweep.texts import Digits, value

MAX_CELLS = 400
FILLED = 0.3
"""Share of the cells of a heat map that must have a number: points drawn at random make no grid."""


@dataclass(frozen=True)
class Grid:
    """The error at every two numbers; where more varies, the lowest.

    Args:
        columns: numbers of the first key.
        rows: numbers of the second.
        cells: means by column and row.
    """

    columns: Sequence[float]
    rows: Sequence[float]
    cells: dict[tuple[float, float], Mean]

    @property
    def is_readable(self) -> bool:
        """Whether it is a grid, and not too large a one."""
        size = len(self.columns) * len(self.rows)
        return size <= MAX_CELLS and len(self.cells) >= FILLED * size


def grid(comparison: Comparison, keys: tuple[str, str], error: ErrorName) -> Grid:
    """The error at every two numbers of two keys."""
    cells: dict[tuple[float, float], Mean] = {}
    for setting in comparison.settings:
        mean, (x, y) = comparison.mean(setting, error), [setting.values.get(key) for key in keys]
        if mean is not None and is_number(x) and is_number(y):
            at = (float(x), float(y))
            cells[at] = min(cells.get(at, mean), mean, key=lambda mean: mean.value)
    columns, rows = (numbers_of(comparison.settings, key) for key in keys)
    return Grid(columns, rows, cells)


def heat_maps(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """For every two numbers that vary, their names and a heat map an error."""
    for keys in combinations(comparison.numeric_keys, 2):
        grids = [(error, grid(comparison, keys, error)) for error in comparison.columns]
        maps = [heat_map(keys, error, found) for error, found in grids if found.is_readable]
        if maps:
            yield f"{keys[0]} × {keys[1]}", maps


def heat_map(keys: tuple[str, str], error: ErrorName, found: Grid) -> str:
    """A table whose cells are the darker the lower the error is."""
    digits, means = Digits.of([*found.cells.values()]), [mean.value for mean in found.cells.values()]
    head = "".join(f"<th>{escape(value(column))}</th>" for column in found.columns)
    rows = [
        f"<tr><th>{escape(value(row))}</th>"
        + "".join(_cell(found.cells.get((column, row)), digits, means) for column in found.columns)
        + "</tr>"
        for row in reversed(found.rows)
    ]
    names = [breakable(key) for key in keys]
    below = f'<td class="x" colspan="{len(found.columns)}">{names[0]}</td>'
    rows += [f"<tr><td></td>{head}</tr>", f"<tr><td></td>{below}</tr>"]
    table = f'<table class="heat">{"".join(rows)}</table>'
    return figure(
        f"{error.label}{unit_of(error)}", f'<p class="y">↑ {names[1]}</p><div class="box">{table}</div>'
    )


def _cell(mean: Mean | None, digits: Digits, means: Sequence[float]) -> str:
    if mean is None:
        return "<td></td>"
    share = _share(mean.value, min(means), max(means))
    ink = "#fff" if share < 0.33 else "#1b1b1b"
    kind = ' class="best"' if mean.value == min(means) else ""
    style = f'style="background:{shade(share)};color:{ink}"'
    return f'<td{kind} {style} title="{digits.mean(mean)}">{digits.text(mean.value)}</td>'


def _share(value: float, low: float, high: float) -> float:
    """Where a number lies between two, by factors where all are positive."""
    if low <= 0:
        return (value - low) / (high - low) if high > low else 0.0
    return log(value / low) / log(high / low) if high > low else 0.0


def shade(share: float) -> str:
    """A colour from dark (0) to light (1), of one hue.

    Example:
        >>> shade(0.0), shade(1.0)
        ('#08306b', '#f3f8fd')
    """
    stops = ((8, 48, 107), (33, 113, 181), (107, 174, 214), (198, 219, 239), (243, 248, 253))
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    i = min(int(place), len(stops) - 2)
    mixed = [round(a + (place - i) * (b - a)) for a, b in zip(stops[i], stops[i + 1], strict=True)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
