"""Errors against a number that varies: a weight, a Huber delta, a learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pesloss.report.sweep.comparison import Comparison, is_number
from pesloss.report.sweep.markup import BEST, OTHER, figure, legend, named, unit_of
from pesloss.report.sweep.reading import ErrorName
from pesloss.report.sweep.settings import Mean
from pesloss.report.sweep.svg import COLOURS, DASHES, Axis, Panel, band, dot, horizontal, line, vertical
from pesloss.report.sweep.texts import Digits, value

MAX_LINES = 6
"""That a reader can tell apart in one plot."""
DOTS = "#8f8f8f"


@dataclass(frozen=True)
class Line:
    """The errors of settings that differ in one number alone.

    Args:
        name: what they agree in.
        points: number and error, sorted.
    """

    name: str
    points: Sequence[tuple[float, Mean]]


def lines_of(comparison: Comparison, key: str, error: ErrorName) -> list[Line]:
    """An error against a number, a line for each combination of whatever else varies."""
    found = []
    for rest, settings in comparison.without(key):
        points = [
            (float(setting.values[key]), mean)
            for setting in settings
            if is_number(setting.values.get(key)) and (mean := comparison.mean(setting, error)) is not None
        ]
        if points:
            found.append(Line(named(rest), sorted(points, key=lambda point: point[0])))
    return found


def lowest(lines: Sequence[Line]) -> list[tuple[float, Mean]]:
    """The lowest mean at each number; nothing if most numbers come once, as random ones do."""
    best: dict[float, Mean] = {}
    points = [point for one in lines for point in one.points]
    for at, mean in points:
        best[at] = min(best.get(at, mean), mean, key=lambda mean: mean.value)
    return sorted(best.items(), key=lambda point: point[0]) if len(points) >= 2 * len(best) else []


def against(comparison: Comparison, key: str) -> Iterator[str]:
    """A plot an error: the error against a number that varies, then what the lines are."""
    found = {error: lines_of(comparison, key, error) for error in comparison.columns}
    names = list(dict.fromkeys(one.name for lines in found.values() for one in lines))
    for error, lines in found.items():
        if lines:
            yield figure(f"{error.label}{unit_of(error)}", _against(key, error, lines, names))
    if len(names) > MAX_LINES:
        others = (f"{len(names)} combinations of the others", OTHER, "")
        best = [("best of them", BEST, "")] if any(map(lowest, found.values())) else []
        yield legend([others, *best])
    elif len(names) > 1:
        yield legend([(name, *_look(i)) for i, name in enumerate(names)])


def _look(place: int) -> tuple[str, str]:
    """Colour and dashes of a line."""
    return COLOURS[place], DASHES[place % len(DASHES)]


def _against(key: str, error: ErrorName, lines: Sequence[Line], names: Sequence[str]) -> str:
    numbers = sorted({at for one in lines for at, _ in one.points})
    across, up = (
        horizontal(numbers),
        vertical(end for one in lines for _, mean in one.points for end in mean.ends),
    )
    panel = Panel(across, up, key, f"{error.label} against {key}", numbers if len(numbers) <= 8 else None)
    if len(names) > MAX_LINES:
        return panel.svg(*_crowd(lines, across, up))
    places = [(one, *_look(names.index(one.name))) for one in lines]
    return panel.svg(*(part for one in places for part in _line(*one, across, up)))


def _line(one: Line, colour: str, dash: str, across: Axis, up: Axis) -> Iterator[str]:
    spread = [(across(at), mean.ends) for at, mean in one.points if mean.spread is not None]
    if len(spread) > 1:
        yield band(
            [(x, up(low)) for x, (low, _) in spread], [(x, up(high)) for x, (_, high) in spread], colour
        )
    yield line([(across(at), up(mean.value)) for at, mean in one.points], "c", colour, dash, 1.6)
    yield from _dots(one, 3, colour, across, up)


def _dots(one: Line, radius: float, colour: str, across: Axis, up: Axis) -> Iterator[str]:
    for at, mean in one.points:
        told = f"{one.name}\n{value(at)}: {Digits.of([mean]).mean(mean)}".strip()
        yield dot((across(at), up(mean.value)), "p", radius, colour, told)


def _crowd(lines: Sequence[Line], across: Axis, up: Axis) -> Iterator[str]:
    """Many lines, thin, with the lowest value at each number on top."""
    for one in lines:
        yield line([(across(at), up(mean.value)) for at, mean in one.points], "c", OTHER, width=0.8)
        yield from _dots(one, 2.4, DOTS, across, up)
    points = [(across(at), up(mean.value)) for at, mean in lowest(lines)]
    yield line(points, "c", BEST, width=2)
    yield from (dot(at, "p", 3, BEST) for at in points)
