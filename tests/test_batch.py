"""What every part knows about a batch from its shapes alone."""

from math import prod

import pytest
import torch

from pesloss.losses import group_code
from pesloss.losses.batch import atom_counts, flat_rows, num_atoms, num_structures, structure_of_atom
from tests.batches import ALL, SIZES, make, take
from tests.laws import assert_same, value_and_gradients, whole_step
from tests.parts import LOSSES


def test_a_code_is_the_same_in_every_process():
    assert group_code("surface") == 47644532877574407
    assert torch.tensor(group_code("surface")).dtype == torch.int64
    assert len({group_code(str(i)) for i in range(10_000)}) == 10_000


def test_sizes():
    batch = make()
    assert (num_structures(batch), num_atoms(batch)) == (8, 25)
    assert atom_counts(batch).tolist() == list(SIZES)
    assert num_structures(take(batch, [])) == num_atoms(take(batch, [])) == 0


@pytest.mark.parametrize("key", ["ptr", "batch", "numbers", "positions", "forces", "charges", "atom_weight"])
def test_the_number_of_atoms_is_known_from_any_entry_of_atoms(key):
    batch = {**make([2, 3]), "numbers": torch.ones(5), "positions": torch.ones(5, 3)}
    assert num_atoms({name: batch[name] for name in {"ptr", key}}) == 5


def test_structures_of_atoms_are_found_from_the_offsets():
    batch = make([2, 0, 3, 1])
    assert (
        structure_of_atom({"ptr": batch["ptr"]}, 6).tolist() == batch["batch"].tolist() == [0, 0, 2, 2, 2, 3]
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_structures_of_atoms_may_be_left_out(name):
    batch = make()
    bare = {key: value for key, value in batch.items() if key != "batch"}
    assert_same(value_and_gradients(LOSSES[name](), bare), value_and_gradients(LOSSES[name](), batch))


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 3), (0,), (0, 3, 3)])
def test_entries_side_by_side(shape):
    assert flat_rows(torch.zeros(shape)).shape == (shape[0], prod(shape[1:]))


@pytest.mark.parametrize("name", LOSSES)
def test_the_batch_of_these_tests_has_labels_for_every_term(name):
    """Else a law would hold because there is nothing to it."""
    assert bool((whole_step(LOSSES[name](), [make()]).labels > 0).all())


def test_the_batch_of_these_tests_misses_some_of_every_property():
    batch = make()
    for prop in ALL.values():
        known = ~batch[prop.name].isnan()
        assert 0 < int(known.sum()) < known.numel()
