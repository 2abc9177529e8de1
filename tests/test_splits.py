"""Parts of a set are disjoint, cover it and depend on the seed alone; so do the steps of an epoch."""

from __future__ import annotations

import itertools

import pytest
import torch

from pesloss.data import batches, split

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


# ---- steps ----

EPOCHS = list(itertools.product([1, 5, 7, 12, 23], [1, 4, 12, 30], [1, 2, 3, 5], [False, True]))


@pytest.mark.parametrize(("num", "batch_size", "world_size", "shuffle"), EPOCHS)
def test_ranks_share_the_steps_of_one(num, batch_size, world_size, shuffle):
    options = {"shuffle": shuffle, "seed": 1, "epoch": 3}
    alone = batches(num, batch_size, **options)
    ranks = [batches(num, batch_size, rank=r, world_size=world_size, **options) for r in range(world_size)]
    assert {len(steps) for steps in ranks} == {len(alone)}
    for step, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(torch.cat(parts), step)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_has_every_structure_once(shuffle):
    steps = batches(23, 5, shuffle=shuffle)
    assert [len(step) for step in steps] == [5, 5, 5, 5, 3]
    assert sorted(torch.cat(steps).tolist()) == list(range(23))
    assert (torch.cat(steps).tolist() == list(range(23))) is not shuffle


def test_an_incomplete_last_step_can_be_left_out():
    assert [len(step) for step in batches(23, 5, drop_last=True)] == [5, 5, 5, 5]
    assert [len(step) for step in batches(20, 5, drop_last=True)] == [5, 5, 5, 5]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        (s, e): tuple(torch.cat(batches(50, 7, shuffle=True, seed=s, epoch=e)).tolist())
        for s in (0, 1)
        for e in (0, 1)
    }
    assert len(set(orders.values())) == 4
    torch.manual_seed(9)
    assert tuple(torch.cat(batches(50, 7, shuffle=True, seed=1, epoch=1)).tolist()) == orders[1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0, "batch_size": 1}, "no structures"),
        ({"num": 3, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        (
            {"num": 3, "batch_size": 1, "rank": 2, "world_size": 2},
            "rank must lie between 0 and world_size - 1 = 1, got 2",
        ),
        ({"num": 3, "batch_size": 4, "drop_last": True}, "drop_last leaves no step"),
    ],
)
def test_epochs_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(**arguments)
