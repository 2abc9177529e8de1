"""Parts by name, what to say about a name that is none, and words as others have to read them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Sentence about a name that does not exist, with the nearest one that does.

    Example:
        >>> unknown("penalty", "hubr", ["huber", "squared"])
        "Unknown penalty 'hubr'; did you mean 'huber'? Known: huber, squared."
    """
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    guess = f"; did you mean '{near[0]}'?" if near else "."
    return f"Unknown {what} '{name}'{guess} Known: {', '.join(names) or 'none'}."


def part(what: str, spec: T | str, kind: type[T], table: Mapping[str, Callable[[], T]]) -> T:
    """The part that a config means: an object as it is, or the one of a lower-case name.

    Raises:
        ValueError: if no part has that name.
        TypeError: if it is neither a name nor a part of this kind.
    """
    if isinstance(spec, kind):
        return spec
    if isinstance(spec, str):
        if spec not in table:
            raise ValueError(unknown(what, spec, table))
        return table[spec]()
    raise TypeError(
        f"{what} must be a {kind.__name__} or one of {', '.join(sorted(table))}, got {_describe(spec)}."
    )


def visible(text: str) -> str:
    """A text that a terminal shows and does not obey: control characters are spelt out.

    Example:
        >>> print(visible("red" + chr(27) + "[31m"))
        red\\x1b[31m
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _describe(spec: Any) -> str:
    return f"{spec!r} of type {type(spec).__name__}"


def quoted(text: str) -> str:
    """A word on Hydra's command line, whatever is in it.

    Example:
        >>> print(quoted("Ann's run=1"))
        'Ann\\'s run=1'
    """
    return "'" + text.replace("'", r"\'") + "'"
