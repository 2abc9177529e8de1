"""Which rows a term looks at."""

import pytest
import torch

from pesloss.losses import PropertyTerm, TotalLoss
from tests.batches import MISSING, make
from tests.laws import assert_same, forward, leaves
from tests.parts import PENALTIES, REDUCTIONS


def loss(mask, penalty="squared", reduction="mean"):
    parts = {"penalty": PENALTIES[penalty](), "reduction": REDUCTIONS[reduction]()}
    return TotalLoss({"forces": PropertyTerm("forces", mask=mask, **parts)})


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("reduction", [name for name in REDUCTIONS if name != "mean_over_entries"])
def test_a_fixed_atom_has_no_label(penalty, reduction):
    batch = make()
    predictions = leaves(batch)
    unlabelled = {**batch, "forces": batch["forces"].clone()}
    unlabelled["forces"][batch["fixed"]] = MISSING
    found = forward(loss("free_atoms", penalty, reduction), predictions, batch)
    assert_same(found, forward(loss("labelled", penalty, reduction), predictions, unlabelled))


def test_forces_of_fixed_atoms_have_no_gradient():
    batch = make(missing=False, weights=False)
    gradient = forward(loss("free_atoms"), leaves(batch), batch)[2]
    assert torch.equal((gradient != 0).all(1), ~batch["fixed"])


def test_all_atoms_fixed_is_no_label():
    batch = make(missing=False)
    batch["fixed"] = torch.ones_like(batch["fixed"])
    assert forward(loss("free_atoms"), leaves(batch), batch)[0] == 0


def test_only_atoms_can_be_fixed():
    with pytest.raises(ValueError, match="'free_atoms' chooses atoms, but 'energy' has one row a structure"):
        PropertyTerm("energy", mask="free_atoms")


def test_the_batch_says_which_atoms_are_fixed():
    batch = make()
    predictions = leaves(batch)
    del batch["fixed"]
    with pytest.raises(KeyError, match="needs 'fixed'"):
        loss("free_atoms")(predictions, batch)
