"""The Pareto front as plots of every two errors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.markup import BEST, FRONT, OTHER, figure, legend, told, unit_of
from pesloss.report.sweep.reading import ErrorName
from pesloss.report.sweep.settings import Mean
from pesloss.report.sweep.svg import DASHES, Axis, Panel, Point, dot, horizontal, labels, line, vertical
from pesloss.report.sweep.texts import plural
from pesloss.sweeps.pareto import staircase

MAX_PAIRS = 6


def front_plots(comparison: Comparison) -> Iterator[str]:
    """Every two errors against each other, with the front of the two as a line."""
    for x, y in comparison.pairs[:MAX_PAIRS]:
        if plot := _front_plot(comparison, x, y):
            yield figure("", plot)
    yield legend([("best setting", BEST), ("on the front", FRONT), ("others", OTHER)])


def _front_plot(comparison: Comparison, x: ErrorName, y: ErrorName) -> str:
    found = [
        (setting, a, b)
        for setting in comparison.settings
        if (a := comparison.mean(setting, x)) is not None and (b := comparison.mean(setting, y)) is not None
    ]
    if not found:
        return ""
    across = horizontal(end for _, a, _ in found for end in a.ends)
    up = vertical(end for _, _, b in found for end in b.ends)
    about = f"{y.label} against {x.label} of {plural(len(found), 'setting')}"
    panel = Panel(across, up, f"{x.label}{unit_of(x)}", about, ylabel=f"{y.label}{unit_of(y)}")
    edge = staircase(np.array([(a.value, b.value) for _, a, b in found]))
    drawn = [line([(across(p), up(q)) for p, q in edge.tolist()], "c", FRONT, DASHES[1], 1.2)]
    numbered: list[tuple[Point, str]] = []
    for setting, a, b in reversed(found):  # the best last, on top of the others
        at, place = (across(a.value), up(b.value)), comparison.number(setting)
        colour = BEST if setting is comparison.best else OTHER if place is None else FRONT
        drawn += _whiskers(across, up, a, b, colour)
        drawn.append(dot(at, "p", 3 if place is None else 4.5, colour, told(comparison, setting)))
        numbered += [] if place is None else [(at, str(place))]
    drawn += labels(reversed(numbered), [(across(a.value), up(b.value)) for _, a, b in found])
    return panel.svg(*drawn)


def _whiskers(across: Axis, up: Axis, a: Mean, b: Mean, colour: str) -> Iterator[str]:
    """The spreads between seeds."""
    x, y = across(a.value), up(b.value)
    if a.spread:
        yield line([(across(end), y) for end in a.ends], "c", colour, width=0.8)
    if b.spread:
        yield line([(x, up(end)) for end in b.ends], "c", colour, width=0.8)
