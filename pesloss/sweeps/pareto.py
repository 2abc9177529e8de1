"""The Pareto front: settings of which no other is as good in every error and better in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is nowhere above b and somewhere below.

    Example:
        >>> dominates((1, 2), (1, 3)), dominates((1, 2), (1, 2)), dominates((0, 3), (1, 2))
        (True, False, False)
    """
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Float64[np.ndarray, "points errors"]) -> list[int]:
    """Which points no other dominates, by their place; equal points are on the front together.

    A point that is not finite in every error is not on the front and dominates none.
    """
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    chosen = points[finite]
    no_worse = (chosen[:, None] <= chosen[None]).all(axis=2)
    better = (chosen[:, None] < chosen[None]).any(axis=2)
    return finite[~(no_worse & better).any(axis=0)].tolist()
