"""Learning curves of all jobs of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, isfinite

from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.markup import BEST, FRONT, OTHER, figure, legend, unit_of
from pesloss.report.sweep.reading import ErrorName
from pesloss.report.sweep.settings import Setting
from pesloss.report.sweep.svg import Panel, Point, dot, horizontal, line, vertical
from pesloss.report.sweep.texts import plural

MAX_CURVE = 20_000
"""Points of all learning curves of a panel together."""
LAYERS = ((OTHER, 0.7), (FRONT, 1.2), (BEST, 2.0))
"""Colour and width of all jobs, of the front, of the best setting, each drawn on top of those before."""


def learning(comparison: Comparison) -> Iterator[str]:
    """A plot an error on the validation structures: all jobs thin, those on the front and the best on top."""
    curves = [(setting, job.curves()) for setting in comparison.settings for job in setting.jobs]
    if not any(found for _, found in curves):
        return
    for error in comparison.columns:
        column = ErrorName("val", error.name, error.unit).column
        drawn = [(s, points(found, column, len(curves))) for s, found in curves if column in found]
        if any(isfinite(y) for _, curve in drawn for _, y in curve):
            yield figure(f"{error.label}, validation{unit_of(error)}", _learning(comparison, error, drawn))
    yield legend([("all jobs", OTHER, ""), ("front", FRONT, ""), ("best setting", BEST, "")])


def points(curves: dict[str, list[float]], column: str, num: int) -> list[Point]:
    """Epoch and error; of many curves some epochs alone, the last one always."""
    values = curves[column]
    epochs = curves.get("epoch") or [float(i + 1) for i in range(len(values))]
    step = max(1, len(values) * num // MAX_CURVE)
    places = [*range(len(values) - 1, -1, -step)][::-1]
    return [(epochs[i], values[i]) for i in places]


def _learning(
    comparison: Comparison, error: ErrorName, curves: Sequence[tuple[Setting, Sequence[Point]]]
) -> str:
    across = horizontal((x for _, curve in curves for x, _ in curve), ratio=inf)
    up = vertical(y for _, curve in curves for _, y in curve)
    layers: list[list[str]] = [[], [], []]
    for setting, curve in curves:
        layer = 2 if setting is comparison.best else 1 if comparison.number(setting) else 0
        at = [(across(x), up(y) if isfinite(y) else y) for x, y in curve]
        layers[layer].append(_curve(at, *LAYERS[layer]))
    about = f"{error.label} by epoch of {plural(len(curves), 'job')}"
    panel = Panel(across, up, "epoch", about, across.whole_ticks())
    return panel.svg(*(part for layer in layers for part in layer))


def _curve(points: Sequence[Point], colour: str, width: float) -> str:
    """A line; a training that has only begun is a point."""
    if len(points) > 1:
        return line(points, "c", colour, width=width)
    return "".join(dot(at, "p", 2.4, colour) for at in points if isfinite(at[1]))
