"""What a config gives for a parameter is of its type, or named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pytest

from pesloss.arguments import Pending, check_arguments, fits, hints, words
from pesloss.losses import PropertyTerm

RIGHT = [
    (1, float),
    (1.5, float),
    ("a", str),
    (None, float | None),
    ([1, 2.5], Sequence[float]),
    ([0.9, 0.999], tuple[float, float]),
    ([], Sequence[str]),
    ({"a": 1}, Mapping[str, float]),
    ({0: {1: 2.0}}, Mapping[int, Mapping[int, float]]),
    ([[1], [2]], Sequence[float] | Sequence[Sequence[float]]),
    ("H", str | Sequence[str | int]),
    ("huber", Literal["huber", "squared"]),
    ([1], Iterable[int]),
    ({"anything": [None]}, Any),
    (["x"], object),
    (Pending(), float),
]
WRONG = [
    (True, float),
    (1.5, int),
    ("1", float),
    (10**400, float),
    (None, float),
    ("xyz", Sequence[str]),
    ([1, "2"], Sequence[float]),
    ([1, 2], Mapping[str, float]),
    ({"a": "1"}, Mapping[str, float]),
    ({0: 1.0}, Mapping[str, float]),
    ({"a": 1}, Sequence[float]),
    ([1.0], float),
    ("cubic", Literal["huber", "squared"]),
    (1, Literal["1"]),
    (True, Literal[1]),
    (object(), Sequence[str]),
]


@pytest.mark.parametrize(("value", "hint"), RIGHT)
def test_right_values_fit(value, hint):
    assert fits(value, hint)


@pytest.mark.parametrize(("value", "hint"), WRONG)
def test_wrong_values_do_not(value, hint):
    assert not fits(value, hint)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (float | None, "a number or null"),
        (Sequence[float], "a list (each a number)"),
        (tuple[float, int], "a list (each a number or a whole number)"),
        (Mapping[str, float], "a mapping (each a number)"),
        (Mapping[str, Any], "a mapping"),
        (str | PropertyTerm, "a word or PropertyTerm"),
    ],
)
def test_types_in_words(hint, said):
    assert words(hint) == said


def function(number: float, *, forms: Sequence[str] = (), elsewhere: Unheard = None) -> None:
    """Something to be called, with a type that nobody can resolve."""


def test_types_are_told_as_far_as_they_can_be():
    assert set(hints(function)) == {"number", "forms", "return"}
    assert hints(print) == {}
    check_arguments(function, {"number": 1, "elsewhere": "anything"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"numbr": 1}, "Unknown argument of a test 'numbr'; did you mean 'number'"),
        (
            {"number": 1, "forms": "ab"},
            r"The argument of a test 'forms' takes a list \(each a word\), got 'ab'",
        ),
        ({"forms": []}, "The argument of a test 'number' is missing; got forms"),
        ({}, "'number' is missing; got none"),
    ],
)
def test_arguments_are_named(given, message):
    with pytest.raises(TypeError, match=message):
        check_arguments(function, given, "a test")
