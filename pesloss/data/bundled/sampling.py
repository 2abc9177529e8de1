"""Random draws that anyone can repeat, with every rejection counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from numpy.random import RandomState

SEED = 20240501
_T = TypeVar("_T")


class RejectedError(Exception):
    """A drawn structure is not kept; the message is the reason."""


def draw(
    make: Callable[[RandomState], _T], key: Sequence[int], rejected: Counter[str], attempts: int = 50
) -> _T:
    """The first accepted of a sequence of draws is a function of the key alone.

    Args:
        make: turns random numbers into a structure, or raises `RejectedError`
        key: what is drawn, as integers; attempt k of key K always sees the same random numbers
        rejected: counts the rejections by reason; changed in place
        attempts: how many draws are tried

    Raises:
        RuntimeError: if every attempt is rejected.
    """
    for attempt in range(attempts):
        # NumPy freezes the stream of RandomState for good; that of default_rng may change
        accepted = _once(make, RandomState([SEED, *key, attempt]), rejected)
        if accepted is not None:
            return accepted
    raise RuntimeError(
        f"draw {list(key)} was rejected {attempts} times; all rejections so far: {dict(rejected)}"
    )


def _once(make: Callable[[RandomState], _T], rng: RandomState, rejected: Counter[str]) -> _T | None:
    try:
        return make(rng)
    except RejectedError as reason:
        rejected[str(reason)] += 1
        return None
