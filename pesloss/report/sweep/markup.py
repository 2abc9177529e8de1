"""Pieces of the page: figures with captions, legends, settings in words; all text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.reading import ErrorName
from pesloss.report.sweep.settings import Setting
from pesloss.report.sweep.svg import COLOURS, dot, line
from pesloss.report.sweep.texts import value

BEST, FRONT, OTHER = COLOURS[0], COLOURS[1], "#b4b4b4"
"""Of the best setting, of the front, of all others."""


def unit_of(error: ErrorName) -> str:
    """The unit in brackets."""
    return f" [{error.unit}]" if error.unit else ""


def named(values: Iterable[tuple[str, Any]]) -> str:
    """Some values of the config in a line."""
    return ", ".join(f"{key} = {value(found)}" for key, found in values)


def setting_name(setting: Setting) -> str:
    """What makes a setting, in a line."""
    return named(setting.values.items()) or "the only setting"


def told(comparison: Comparison, setting: Setting) -> str:
    """A setting and its errors, in lines."""
    errors = [
        f"{error.label}: {digits.mean(setting.mean(error.column))} {error.unit}"
        for error, digits in comparison.digits.items()
    ]
    return "\n".join([setting_name(setting), *errors])


def badge(place: int | None) -> str:
    """The mark of a member of the front, empty for other settings."""
    return "" if place is None else f'<span class="badge">{place}</span>'


def breakable(key: str) -> str:
    """A key that may go on in the next line after its dots."""
    return escape(key).replace(".", ".<wbr>")


def figure(caption: str, content: str) -> str:
    """A figure with its name above, if it needs one."""
    name = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{name}{content}</figure>"


def legend(entries: Sequence[tuple[str, str] | tuple[str, str, str]]) -> str:
    """What marks of a plot are: the name and the colour of a point, or those and the dashes of a line."""
    parts = [f"<li>{_mark(*entry[1:])}{escape(entry[0])}</li>" for entry in entries]
    return f'<ul class="legend">{"".join(parts)}</ul>'


def _mark(colour: str, dash: str | None = None) -> str:
    drawn = dot((13, 5), "p", 4.5, colour) if dash is None else line([(0, 5), (26, 5)], "c", colour, dash, 2)
    return f'<svg viewBox="0 0 26 10" aria-hidden="true">{drawn}</svg>'
