"""Parts of a set are disjoint, cover it and depend on the seed alone."""

from __future__ import annotations

import pytest
import torch

from pesloss.data import split

SIZES = [
    {"train": 0.8, "val": 0.1, "test": 0.1},
    {"train": None, "val": 0.25, "test": 7},
    {"train": 30, "val": 7},
    {"train": None, "val": 0.0, "test": 1},
    {"train": 1 / 3, "val": 1 / 3, "test": 1 / 3},
    {"train": None},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_parts_are_disjoint_and_complete(sizes):
    parts = split(37, sizes, seed=0)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(37))
    assert list(parts) == list(sizes)
    for part in parts.values():
        assert part.tolist() == sorted(part.tolist())


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ({"train": 0.8, "val": 0.1, "test": 0.1}, [80, 10, 10]),
        ({"val": 0.1, "train": None, "test": 7}, [10, 83, 7]),
        ({"train": None, "val": 0.001}, [99, 1]),
        ({"train": 1.0, "val": 0.0}, [100, 0]),
        ({"train": 95, "val": 5}, [95, 5]),
    ],
)
def test_parts_have_the_sizes_asked_for(sizes, counts):
    assert [len(part) for part in split(100, sizes, seed=3).values()] == counts


def test_a_split_depends_on_the_seed_alone():
    sizes = {"train": None, "val": 0.5}
    first = split(100, sizes, seed=1)["val"]
    torch.manual_seed(5)
    assert torch.equal(first, split(100, sizes, seed=1)["val"])
    assert not torch.equal(first, split(100, sizes, seed=2)["val"])
    # the numbers themselves, so that a split of last year is the split of next year
    assert split(10, {"train": None, "val": 3}, seed=0)["val"].tolist() == [0, 3, 5]


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed):
    groups = [f"molecule {index % 12}" for index in range(100)]
    parts = split(100, {"train": None, "val": 0.2, "test": 0.2}, seed, groups=groups)
    names = [{groups[i] for i in part.tolist()} for part in parts.values()]
    assert sum(map(len, names)) == len(set().union(*names)) == 12
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(100))
    assert all(abs(len(part) - size) <= 9 for part, size in zip(parts.values(), (60, 20, 20), strict=True))


@pytest.mark.parametrize(
    ("num", "sizes", "message"),
    [
        (10, {"train": 0.8, "val": 0.1}, "Fractions must add up to 1"),
        (10, {"train": 5, "val": 4}, "leave 1 for no part"),
        (10, {"train": None, "val": 10}, "leave 0 for train"),
        (10, {"train": None, "val": None}, "Only one part can be the rest"),
        (10, {"train": None, "val": 11}, r"'val' must be a fraction between .* got 11"),
        (10, {"train": None, "val": -0.1}, "'val' must be a fraction"),
        (10, {"train": None, "val": 1.5}, "'val' must be a fraction"),
        (10, {"train": None, "val": True}, "'val' must be a fraction"),
        (1, {"train": 0.5, "val": 0.5}, "leave 0 for"),
        (0, {"train": None}, "leave 0 for train"),
    ],
)
def test_sizes_that_make_no_sense(num, sizes, message):
    with pytest.raises(ValueError, match=message):
        split(num, sizes, seed=0)


def test_groups_that_make_no_sense():
    with pytest.raises(ValueError, match="gets no structure: 1 groups are too few"):
        split(4, {"train": None, "val": 0.5}, seed=0, groups="aaaa")
    with pytest.raises(ValueError, match="a group for each of 4 structures, got 3"):
        split(4, {"train": None, "val": 0.5}, seed=0, groups="aab")
