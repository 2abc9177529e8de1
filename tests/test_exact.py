"""Law 2: sums and counts add up, so a step does not depend on how structures are dealt out."""

import pytest
import torch
import torch.multiprocessing

from tests import batches, ranks
from tests.laws import accumulated, assert_finite, assert_same, value_and_gradients
from tests.parts import LOSSES

DEALS = {
    "2x4": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "5+3+0": [[0, 1, 2, 3, 4], [5, 6, 7], []],
    "one by one": [[i] for i in range(8)],
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("deal", DEALS)
def test_accumulated_batches_are_one_batch(name, deal):
    batch = batches.make()
    whole = value_and_gradients(LOSSES[name](), batch)
    assert_finite(whole)
    assert_same(accumulated(LOSSES[name](), [batches.take(batch, part) for part in DEALS[deal]]), whole)


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_structures_does_not_matter(name):
    batch = batches.make()
    shuffled = batches.take(batch, [3, 1, 7, 0, 2, 6, 5, 4])
    assert_same(value_and_gradients(LOSSES[name](), shuffled), value_and_gradients(LOSSES[name](), batch))


def test_a_root_of_a_mean_needs_predictions_to_be_accumulated():
    loss, batch = LOSSES["squared, root_mean"](), batches.make()
    with pytest.raises(ValueError, match=r"Terms \['energy', 'forces', 'stress'\] are not linear"):
        loss.step([batch])


def test_a_step_needs_a_batch():
    with pytest.raises(ValueError, match="at least one batch"):
        LOSSES["squared, mean"]().step([])


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_are_one_process(world, tmp_path):
    """One of the ranks has no structures, another none with labels; each accumulates two batches."""
    torch.multiprocessing.spawn(ranks.work, args=(world, str(tmp_path)), nprocs=world)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for name in LOSSES:
        whole = value_and_gradients(LOSSES[name](), ranks.whole(world))
        assert_finite(whole)
        for rank in range(world):
            assert_same(found[rank]["once"][name], whole)
            assert_same(found[rank]["accumulated"][name], whole)


def test_in_eval_a_rank_is_alone(tmp_path):
    """A host may validate on one rank only; a hidden reduction would hang it."""
    torch.multiprocessing.spawn(ranks.validate_on_one, args=(2, str(tmp_path)), nprocs=2)
    total = torch.load(tmp_path / "alone.pt", weights_only=True)
    batch = batches.make()
    assert_same([total], value_and_gradients(LOSSES["squared, mean"](), batch)[:1])
