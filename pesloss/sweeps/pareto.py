"""The Pareto front: settings of which no other is as good in every error and better in one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def front(points: Float64[np.ndarray, "points errors"]) -> list[int]:
    """Which points no other dominates, by their place: none is as low in every error and lower in one.

    Equal points are on the front together. A point that is not finite in every error is not on the front,
    and dominates none.
    """
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    chosen = points[finite]
    no_worse = (chosen[:, None] <= chosen[None]).all(axis=2)
    better = (chosen[:, None] < chosen[None]).any(axis=2)
    return finite[~(no_worse & better).any(axis=0)].tolist()


def staircase(points: Float64[np.ndarray, "points 2"]) -> Float64[np.ndarray, "corners 2"]:
    """The edge of what a front of two errors dominates, from the lowest first error on."""
    members = points[front(points)]
    ordered = np.unique(members, axis=0)
    corners = np.repeat(ordered, 2, axis=0)[1:]
    corners[1::2, 1] = ordered[:-1, 1]
    return corners
