"""Small plots as SVG: axes with few ticks, lines, points and bands, in the fonts of the page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10

from pesloss.report.sweep.texts import number

WIDTH, HEIGHT = 440.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 44.0
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f5f3f")
"""Okabe and Ito's, which colour-blind readers tell apart, without the yellow."""
DASHES = ("", "6 3", "2 2", "8 3 2 3")

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """From numbers to pixels, linear or logarithmic.

    Args:
        low: the number at ``start``.
        high: the number at ``end``.
        start: pixels.
        end: pixels.
        is_log: whether equal factors are equal lengths; then 0 has a place of its own, apart from the rest.
        zero: pixels of that place, if 0 is among the numbers.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    zero: float | None = None

    @classmethod
    def of(cls, values: Iterable[float], start: float, end: float, ratio: float = 20.0) -> Axis:
        """An axis around numbers, logarithmic if they span more than a ratio.

        Numbers that are not finite are not looked at.
        """
        found = sorted(value for value in values if isfinite(value))
        positive = [value for value in found if value > 0]
        if positive and found[0] >= 0 and positive[-1] > ratio * positive[0]:
            return cls._log(positive, start, end, found[0] == 0)
        low, high = (found[0], found[-1]) if found else (0.0, 1.0)
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        floor_ = 0.0 if 0 <= low < pad else low - pad
        return cls(floor_, high + pad, start, end)

    @classmethod
    def _log(cls, positive: list[float], start: float, end: float, has_zero: bool) -> Axis:
        room = 0.14 * (end - start) if has_zero else 0.0
        first, last = log10(positive[0]), log10(positive[-1])
        pad = 0.06 * (last - first)
        low, high = (10 ** min(max(power, -300), 300) for power in (first - pad, last + pad))
        zero = start + 0.3 * room if has_zero else None
        return cls(low, high, start + room, end, True, zero)

    def __call__(self, value: float) -> float:
        """The place of a number in pixels."""
        if self.is_log and value <= 0:
            return self.start if self.zero is None else self.zero
        low, high, at = (log10(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def whole_ticks(self) -> list[float]:
        """Round numbers on the axis of what is counted."""
        return [tick for tick in self.ticks() if tick == int(tick)]

    def ticks(self, num: int = 5) -> list[float]:
        """About so many round numbers on the axis."""
        inner = _round_powers(self.low, self.high, num) if self.is_log else []
        if len(inner) < 2:
            inner = _round_steps(self.low, self.high, num)
        return [*([0.0] if self.zero is not None else []), *inner]


def _round_powers(low: float, high: float, num: int) -> list[float]:
    first, last = floor(log10(low)), ceil(log10(high))
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**p for p in range(first, last + 1) for m in mantissas]
        inside = [value for value in found if low <= value <= high]
        if len(inside) <= num + 1:
            return inside
    powers = [10.0**p for p in range(first, last + 1) if low <= 10.0**p <= high]
    return powers[:: ceil(len(powers) / num)]


def _round_steps(low: float, high: float, num: int) -> list[float]:
    raw = (high - low) / num
    scale = 10.0 ** floor(log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    places = range(ceil(low / step), floor(high / step) + 1)
    return [float(f"{place * step:.12g}") for place in places]


@dataclass(frozen=True)
class Panel:
    """A plot: two axes and what is drawn between them.

    Args:
        x: the horizontal axis.
        y: the vertical axis.
        xlabel: its quantity and unit.
        about: the plot in words, for who cannot see it.
        xticks: numbers on the horizontal axis; ``None`` takes round ones.
        ylabel: quantity and unit of the vertical axis, if the caption does not tell them.
    """

    x: Axis
    y: Axis
    xlabel: str
    about: str
    xticks: Sequence[float] | None = None
    ylabel: str = ""

    def svg(self, *drawn: str) -> str:
        """The plot with what is drawn in it."""
        size = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}"'
        parts = (*self._horizontal(), *self._vertical(), *drawn)
        return f'<svg {size} role="img" aria-label="{html.escape(self.about)}">{"".join(parts)}</svg>'

    def _horizontal(self) -> Iterable[str]:
        bottom, end = HEIGHT - BOTTOM, WIDTH - RIGHT
        yield line([(LEFT, bottom), (end, bottom)], "a")
        ticks = self.x.ticks() if self.xticks is None else self.xticks
        last = -100.0
        for tick in ticks:
            at, words = self.x(tick), number(tick)
            yield line([(at, bottom), (at, bottom + 4)], "a")
            half = 3.6 * len(words)
            if at - half > last:
                yield text(at, bottom + 17, words, "m")
                last = at + half
        if self.x.zero is not None:  # the axis is broken between 0 and the rest
            cut = (self.x.zero + self.x(min(t for t in ticks if t > 0) if ticks else self.x.low)) / 2
            yield line([(cut - 5, bottom + 4), (cut - 1, bottom - 4)], "a")
            yield line([(cut + 1, bottom + 4), (cut + 5, bottom - 4)], "a")
        yield text((LEFT + end) / 2, HEIGHT - 8, self.xlabel, "m l")

    def _vertical(self) -> Iterable[str]:
        for tick in self.y.ticks():
            at = self.y(tick)
            yield line([(LEFT, at), (WIDTH - RIGHT, at)], "g")
            yield text(LEFT - 6, at + 4, number(tick), "e")
        if self.ylabel:
            middle = (TOP + HEIGHT - BOTTOM) / 2
            turned = f'transform="rotate(-90 11 {middle:g})"'
            yield text(11, middle, self.ylabel, "m l", turned)


def horizontal(values: Iterable[float], ratio: float = 20.0) -> Axis:
    """The axis below a panel."""
    return Axis.of(values, LEFT + 6, WIDTH - RIGHT - 6, ratio)


def vertical(values: Iterable[float], ratio: float = 6.0) -> Axis:
    """The axis at the left of a panel."""
    return Axis.of(values, HEIGHT - BOTTOM - 4, TOP + 4, ratio)


def line(points: Sequence[Point], kind: str, colour: str = "", dash: str = "", width: float = 0) -> str:
    """A line through points; it is broken where a point is not finite."""
    style = _style(stroke=colour, dash=dash, width=width)
    return f'<path class="{kind}"{style} d="{_path(points)}"/>' if points else ""


def band(low: Sequence[Point], high: Sequence[Point], colour: str) -> str:
    """The area between two lines."""
    return f'<path class="b" fill="{colour}" d="{_path([*low, *reversed(high)])}Z"/>'


def dot(at: Point, kind: str, radius: float, colour: str = "", title: str = "") -> str:
    """A point that tells what it is under the mouse."""
    fill = f' fill="{colour}"' if colour else ""
    where = f'cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}"'
    told = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<circle class="{kind}" {where}{fill}>{told}</circle>'


def text(x: float, y: float, words: str, kind: str, more: str = "") -> str:
    """Words in a plot."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(words)}</text>'


def labels(wanted: Iterable[tuple[Point, str]], taken: Iterable[Point] = ()) -> Iterable[str]:
    """Short words beside points, moved around the point until none lies on another; left out if none fits."""
    boxes: list[tuple[float, float, float, float]] = [(x - 3, y - 3, x + 3, y + 3) for x, y in taken]
    for (x, y), words in wanted:
        width = 7.0 * len(words)
        for dx, dy in (
            (6, -5),
            (6, 14),
            (-6 - width, -5),
            (-6 - width, 14),
            (-width / 2, -9),
            (-width / 2, 19),
        ):
            box = (x + dx - 1.5, y + dy - 9, x + dx + width + 1.5, y + dy)
            if box[2] < WIDTH and box[0] > LEFT and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                yield text(x + dx, y + dy, words, "n")
                break


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _path(points: Sequence[Point]) -> str:
    whole = [isfinite(x) and isfinite(y) for x, y in points]
    starts = [now and not before for before, now in pairwise([False, *whole])]
    return "".join(
        f"{'M' if start else 'L'}{x:.1f} {y:.1f}"
        for (x, y), start, drawn in zip(points, starts, whole, strict=True)
        if drawn
    )


def _style(stroke: str, dash: str, width: float) -> str:
    parts = {"stroke": stroke, "stroke-dasharray": dash, "stroke-width": f"{width:g}" if width else ""}
    return "".join(f' {name}="{value}"' for name, value in parts.items() if value)
