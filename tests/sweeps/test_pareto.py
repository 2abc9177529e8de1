"""The front: what nothing dominates, compared with looking at every pair."""

from __future__ import annotations

import numpy as np
import pytest

from pesloss.sweeps.pareto import front, staircase


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def points(errors: int, num: int = 60, seed: int = 0) -> np.ndarray:
    """With ties, and some without a number."""
    found = np.random.default_rng(seed).integers(0, 12, (num, errors)).astype(float)
    found[3, 0], found[7, -1], found[9] = np.nan, np.inf, -np.inf
    return found


@pytest.mark.parametrize("errors", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_other_point_dominates(errors, seed):
    found = points(errors, seed=seed)
    finite = [i for i, point in enumerate(found) if np.isfinite(point).all()]
    expected = [i for i in finite if not any(dominates(found[j], found[i]) for j in finite)]
    assert front(found) == expected


def test_it_does_not_depend_on_units_or_order():
    found = points(3)
    assert front(found * [1e3, 1.0, 1e-6]) == front(found)
    turned = found[::-1]
    assert sorted(len(found) - 1 - i for i in front(turned)) == front(found)


def test_no_points_have_no_front():
    assert front(np.empty((0, 2))) == [] == front(np.full((3, 2), np.nan))


def test_the_staircase_bounds_what_is_dominated():
    found = points(2)
    corners = staircase(found)
    assert (np.diff(corners[:, 0]) >= 0).all() and (np.diff(corners[:, 1]) <= 0).all()
    members = {tuple(point) for point in found[front(found)].tolist()}
    assert {tuple(corner) for corner in corners[::2].tolist()} == members
    finite = found[np.isfinite(found).all(axis=1)]
    for x, y in finite:  # each lies on the line or above it
        assert y >= corners[corners[:, 0] <= x, 1].min()
