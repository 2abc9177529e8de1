"""Every rank takes the same steps, which share the structures of an epoch among them, as budgets allow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pesloss.data import Packed, Structure, batches, pack
from pesloss.losses.properties import as_properties

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


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        (s, e): tuple(torch.cat(batches(50, 7, shuffle=True, seed=s, epoch=e)).tolist())
        for s in (0, 1)
        for e in (0, 1)
    }
    assert len(set(orders.values())) == 4
    torch.manual_seed(9)
    assert tuple(torch.cat(batches(50, 7, shuffle=True, seed=1, epoch=1)).tolist()) == orders[1, 1]
    # the numbers themselves, so that a run of last year can be repeated
    assert torch.cat(batches(6, 2, shuffle=True)).tolist() == [3, 2, 5, 4, 0, 1]


# ---- budgets ----


def ragged(sizes: list[int], **options: object) -> Packed:
    """Chains of so many atoms, 1 Å apart: an atom sees the next on either side."""
    structures = [
        Structure(
            numbers=np.ones(size, np.int64),
            positions=np.arange(size)[:, None] * np.eye(3)[:1],
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, bool),
            labels={},
            weights={},
            fixed=np.zeros(size, bool),
            file="short" if size < 5 else "long",
            row=row,
        )
        for row, size in enumerate(sizes)
    ]
    store = pack(structures, as_properties(["energy"]), 1.5).store
    return Packed(store, **options)


SIZES = np.random.default_rng(0).integers(1, 30, 200).tolist()


@pytest.fixture(scope="module")
def part() -> Packed:
    return ragged(SIZES)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "budgets",
    [
        {"max_atoms": 100},
        {"max_edges": 90},
        {"max_atoms": 60, "max_edges": 57},
        {"batch_size": 4, "max_atoms": 70},
    ],
    ids=str,
)
def test_steps_are_as_large_as_their_budget_allows(part, budgets, world_size):
    options = {"shuffle": True, "epoch": 2, "world_size": world_size}
    ranks = [batches(part, **budgets, rank=rank, **options) for rank in range(world_size)]
    steps = [torch.cat(shares) for shares in zip(*ranks, strict=True)]
    assert sorted(torch.cat(steps).tolist()) == list(range(200))
    assert torch.equal(torch.cat(steps), torch.cat(batches(part, 7, shuffle=True, epoch=2)))
    for step, following in itertools.pairwise(steps):
        larger = torch.cat([step, following[:1]])
        assert fits(part, step, budgets)
        assert not fits(part, larger, budgets)


def fits(part: Packed, step: torch.Tensor, budgets: dict[str, int]) -> bool:
    sizes = {"batch_size": torch.ones(len(part)), "max_atoms": part.num_atoms, "max_edges": part.num_edges}
    return all(sizes[name][step].sum() <= budget for name, budget in budgets.items())


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_a_budget_as_equally_as_structures_allow(part, world_size):
    ranks = [
        batches(part, max_atoms=400, shuffle=True, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for shares in list(zip(*ranks, strict=True))[:-1]:
        atoms = [int(part.num_atoms[share].sum()) for share in shares]
        assert max(atoms) - min(atoms) <= max(SIZES)


def test_structures_without_edges_are_not_lost():
    part = ragged([1, 1, 5, 1, 1, 1])
    for world_size in (1, 2, 3):
        ranks = [batches(part, max_edges=8, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert {len(steps) for steps in ranks} == {1}
        assert torch.cat([steps[0] for steps in ranks]).tolist() == list(range(6))


def test_a_structure_larger_than_the_budget_is_named():
    part = ragged([3, 40, 2])
    with pytest.raises(ValueError, match="long, structure 1 has 40 atoms, more than max_atoms = 39"):
        batches(part, max_atoms=39)
    with pytest.raises(ValueError, match="long, structure 1 has 78 edges, more than max_edges = 20"):
        batches(part, max_atoms=50, max_edges=20)


# ---- sampling ----


@pytest.mark.parametrize(("rate", "draws"), [(0.0, 0), (0.3, 3), (1.0, 10), (2.0, 20), (2.5, 25), (0.96, 10)])
def test_an_epoch_takes_a_file_as_often_as_its_sampling_says(rate, draws):
    part = ragged([2] * 10 + [6] * 7, sampling=np.array([rate] * 10 + [1.0] * 7))
    taken = torch.cat(batches(part, 4, shuffle=True, seed=3)).tolist()
    times = [taken.count(position) for position in range(17)]
    assert sum(times[:10]) == draws
    assert max(times[:10]) - min(times[:10]) <= 1
    assert times[10:] == [1] * 7


def test_a_sampled_share_is_another_in_each_epoch():
    part = ragged([2] * 10, sampling=np.full(10, 0.5))
    epochs = [tuple(torch.cat(batches(part, 4, shuffle=True, epoch=e)).tolist()) for e in range(4)]
    assert len({frozenset(epoch) for epoch in epochs}) > 1
    assert epochs[1] == tuple(torch.cat(batches(part, 4, shuffle=True, epoch=1)).tolist())


def test_sampling_once_is_no_sampling():
    once = ragged([2] * 10, sampling=np.ones(10))
    for ours, theirs in zip(batches(once, 3, shuffle=True), batches(10, 3, shuffle=True), strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_is_sampled_in_order():
    part = ragged([2] * 10, sampling=np.full(10, 3.0))
    assert torch.cat(batches(part, 4)).tolist() == list(range(10))


# ---- what makes no sense ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": 0, "batch_size": 1}, "no structures"),
        ({"part": 3, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"part": 3}, "How large is a batch. Give batch_size, max_atoms or max_edges"),
        (
            {"part": 3, "batch_size": 1, "rank": 2, "world_size": 2},
            "rank must lie between 0 and world_size - 1 = 1, got 2",
        ),
    ],
)
def test_epochs_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(**arguments)


def test_budgets_need_structures_and_an_epoch_needs_one():
    with pytest.raises(TypeError, match="max_atoms needs the structures themselves, not their number 3"):
        batches(3, max_atoms=10)
    with pytest.raises(ValueError, match="max_edges must be at least 1, got 0"):
        batches(ragged([2]), max_edges=0)
    with pytest.raises(ValueError, match="An epoch has no structure: sampling takes none of 2"):
        batches(ragged([2, 2], sampling=np.array([0.1, 0.1])), 1, shuffle=True)
