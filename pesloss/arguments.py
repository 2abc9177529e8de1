"""Whether what a config gives for a parameter is of the parameter's type, and words for what would be."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from sys import float_info
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pesloss.names import unknown

WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", NoneType: "null"}


class Pending:
    """What is yet to be built; nothing is known of its type."""


def check_arguments(target: Callable[..., Any], given: Mapping[str, Any], what: str = "") -> None:
    """Compare arguments by name with the parameters of what takes them.

    Args:
        target: class or function.
        given: arguments by name.
        what: whose arguments they are, for the message; nothing where that is plain.

    Raises:
        TypeError: if there is no such parameter, a value is not of its type, or one is missing.
    """
    known, argument = inspect.signature(target).parameters, f"argument of {what}" if what else "argument"
    for name in given:
        if name not in known:
            raise TypeError(unknown(argument, name, known))
    for name, message in misfits(target, given):
        raise TypeError(f"The {argument} '{name}' {message}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in given:
            found = ", ".join(map(str, given)) or "none"
            raise TypeError(f"The {argument} '{name}' is missing; got {found}.")


def misfits(target: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Arguments that are not of the type of their parameter, and what to say about each."""
    types = hints(target)
    for name, value in given.items():
        hint = types.get(name, Any)
        if not fits(value, hint):
            place, found, wanted = _culprit(name, value, hint)
            if get_origin(wanted) is Literal:
                yield place, unknown(place, found, map(str, get_args(wanted)))
            else:
                yield place, f"takes {words(wanted)}, got {reprlib.repr(found)}."


def _culprit(name: str, value: Any, hint: Any) -> tuple[str, Any, Any]:
    """What does not fit in a mapping that otherwise does: its place, itself and what would do."""
    for option in _options(hint):
        entries = get_args(option)
        if isinstance(value, dict) and len(entries) == 2 and _contains({}, get_origin(option), entries):
            for key, entry in value.items():
                if not fits(entry, entries[1]):
                    return _culprit(f"{name}.{key}", entry, entries[1])
    return name, value, hint


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Types of the parameters, as far as they can be told without importing anything."""
    function = inspect.unwrap(target.__init__ if isinstance(target, type) else target)
    if not isinstance(function, FunctionType):
        return {}
    found = {}
    for name, annotation in function.__annotations__.items():
        try:
            found |= get_type_hints(_Annotated({name: annotation}), function.__globals__)
        except Exception:  # noqa: PERF203, names that only a type checker sees
            continue
    return found


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config, or what was built of one, may stand for a parameter.

    Example:
        >>> fits({"forces": 2}, dict[str, float]), fits({"forces": "2"}, dict[str, float])
        (True, False)
    """
    return isinstance(value, Pending) or any(_is(value, option) for option in _options(hint))


def words(hint: Any) -> str:
    """A type, as who writes configs would call it.

    Example:
        >>> words(list[float] | None), words(dict[str, bool])
        ('a list (each a number) or null', 'a mapping (each true or false)')
    """
    return " or ".join(map(_word, _options(hint)))


class _Annotated:
    """Something with annotations, whose types can be told."""

    def __init__(self, annotations: Mapping[str, Any]) -> None:
        self.__annotations__ = dict(annotations)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is(value: Any, hint: Any) -> bool:
    kind = NoneType if hint is None else get_origin(hint) or hint
    if kind is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if kind in (Any, object) or not isinstance(kind, type):
        return True
    if isinstance(value, (list, tuple, dict)):
        return _contains(value, kind, get_args(hint))
    return _is_one(value, kind)


def _is_one(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if isinstance(value, str) and kind is not str:
        return False  # a word is no list of its letters
    return _is_float(value) if kind is float else isinstance(value, kind)


def _is_float(value: Any) -> bool:
    """Whether it is a number, and no whole one that is too large to have a point."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= float_info.max)


def _contains(value: Collection[Any], kind: type, entries: tuple[Any, ...]) -> bool:
    """Whether a container and all that is in it are of a type."""
    if isinstance(value, dict):
        key, entry = entries if len(entries) == 2 else (Any, Any)
        below = [*map(partial(_fits, hint=key), value), *map(partial(_fits, hint=entry), value.values())]
        return issubclass(dict, kind) and all(below)
    # OmegaConf has lists where a target has tuples
    return _takes_list(kind) and all(any(fits(one, entry) for entry in entries or (Any,)) for one in value)


def _fits(value: Any, hint: Any) -> bool:
    return fits(value, hint)


def _takes_list(kind: type) -> bool:
    return kind in (tuple, Iterable, Collection) or issubclass(list, kind) > issubclass(dict, kind)


def _word(hint: Any) -> str:
    kind = NoneType if hint is None else get_origin(hint) or hint
    if not isinstance(kind, type) or kind is Any:
        return str(hint)
    if issubclass(dict, kind) and kind not in (object, Iterable, Collection):
        return f"a mapping{_of(get_args(hint)[1:])}"
    if kind is not object and _takes_list(kind):
        return f"a list{_of(get_args(hint))}"
    return WORDS.get(kind, kind.__name__)


def _of(entries: tuple[Any, ...]) -> str:
    named = dict.fromkeys(words(entry) for entry in entries if entry not in (Any, ...))
    return f" (each {' or '.join(named)})" if named else ""
