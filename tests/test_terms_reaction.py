"""Energies of reactions: sums over the structures of a reaction, where all of them are there."""

import pytest
import torch

from pesloss.losses import TotalLoss
from pesloss.losses.terms.reaction import ReactionTerm
from tests.batches import MISSING, make, take
from tests.laws import EXACT, HostSynchronisations, assert_same

REACTIONS = (4, 9, -1, 4, 9, 4, 7, -1)
COEFFICIENTS = (-1.0, 2.0, 5.0, -2.0, -1.0, 3.0, 1.5, 1.0)
SIZES = (3, 2, 1, 3, 2, 3, 1, 1)


def batch_of(**options):
    batch = make(**{"missing": False, "weights": False, **options})
    batch["reaction"] = torch.tensor(REACTIONS)
    batch["reaction_coefficient"] = torch.tensor(COEFFICIENTS, dtype=torch.float64)
    batch["reaction_size"] = torch.tensor(SIZES)
    return batch


def by_hand(energy, batch):
    """Reaction energies by code, of complete reactions."""
    found = {}
    for code in sorted(set(batch["reaction"].tolist()) - {-1}):
        rows = [i for i, other in enumerate(batch["reaction"].tolist()) if other == code]
        if len(rows) == int(batch["reaction_size"][rows[0]]):
            found[code] = sum(batch["reaction_coefficient"][i] * energy[i] for i in rows)
    return found


def total_and_gradient(loss, energy, batch):
    energy = energy.detach().requires_grad_()
    total = loss({"energy": energy}, batch)
    return [total.detach(), *torch.autograd.grad(total, [energy])]


def loss_of(**options):
    return TotalLoss({"term": ReactionTerm(**options)})


@pytest.mark.parametrize("penalty", ["squared", "absolute"])
def test_it_is_a_mean_over_complete_reactions(penalty):
    batch = batch_of()
    predicted, labelled = by_hand(batch["x::energy"], batch), by_hand(batch["energy"], batch)
    assert set(predicted) == {4, 7, 9}
    errors = torch.stack([predicted[code] - labelled[code] for code in predicted])
    expected = errors.square().mean() if penalty == "squared" else errors.abs().mean()
    found = total_and_gradient(loss_of(penalty=penalty), batch["x::energy"], batch)[0]
    torch.testing.assert_close(found, expected, **EXACT)


def test_the_gradient_is_that_of_the_sum():
    batch = batch_of()
    energy = batch["x::energy"].clone().requires_grad_()
    labelled = by_hand(batch["energy"], batch)
    errors = [value - labelled[code] for code, value in by_hand(energy, batch).items()]
    expected = torch.autograd.grad(torch.stack(errors).square().mean(), energy)
    assert_same(total_and_gradient(loss_of(), energy, batch)[1:], list(expected))


@pytest.mark.parametrize("gone", [0, 1, 5])
def test_a_reaction_that_is_not_complete_does_not_count(gone):
    """Nor does one of whose members an energy is missing, or has no weight."""
    batch = batch_of()
    codes = batch["reaction"]
    parts = take(batch, [i for i in range(8) if i != gone])
    missing = {**batch, "energy": batch["energy"].index_fill(0, torch.tensor([gone]), MISSING)}
    weighted = {**batch, "weight": (torch.arange(8) != gone).double()}
    rest = {**batch, "reaction": torch.where(codes == codes[gone], -1, codes)}
    expected = total_and_gradient(loss_of(), batch["x::energy"], rest)
    found = total_and_gradient(loss_of(), parts["x::energy"], parts)
    torch.testing.assert_close(found[0], expected[0], **EXACT)
    for other in (missing, weighted):
        assert_same(total_and_gradient(loss_of(), batch["x::energy"], other), expected)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e300])
def test_predictions_of_members_that_do_not_count_do_not_matter(garbage):
    batch = batch_of()
    batch["energy"][3] = MISSING  # reaction 4
    spoilt = batch["x::energy"].clone()
    spoilt[[0, 2, 3, 5, 7]] = garbage
    expected = total_and_gradient(loss_of(), batch["x::energy"], batch)
    assert_same(total_and_gradient(loss_of(), spoilt, batch), expected)


def test_a_weight_of_a_member_multiplies_the_cost_of_its_reaction():
    batch = batch_of()
    costs = []
    for factor in (1.0, 3.0):
        for key in ("weight", "energy_weight"):
            weight = torch.ones(8, dtype=torch.float64)
            weight[3] = factor
            costs.append(total_and_gradient(loss_of(), batch["x::energy"], {**batch, key: weight})[0])
    error = by_hand(batch["x::energy"] - batch["energy"], batch)[4]
    torch.testing.assert_close(costs[2] - costs[0], 2 * error.square() / 3, **EXACT)
    torch.testing.assert_close(costs[3], costs[2], **EXACT)


def test_weights_can_be_chosen():
    batch = batch_of()
    batch["weight"], batch["trust"] = torch.full((8,), 2.0), torch.full((8,), 0.5)
    plain = total_and_gradient(loss_of(weighted_by=[]), batch["x::energy"], batch)[0]
    torch.testing.assert_close(
        plain, total_and_gradient(loss_of(), batch["x::energy"], batch_of())[0], **EXACT
    )
    assert total_and_gradient(loss_of(weighted_by=["trust"]), batch["x::energy"], batch)[0] < plain
    with pytest.raises(KeyError, match=r"No 'trst' \[structures\]"):
        loss_of(weighted_by=["trst"])({"energy": batch["energy"]}, batch)


def test_a_reaction_may_have_a_label_of_its_own():
    batch = batch_of()
    codes = batch["reaction"]
    batch["barrier"] = torch.where(codes == 9, MISSING, codes.double())
    del batch["energy"]
    predicted = by_hand(batch["x::energy"], batch)
    expected = torch.stack([(predicted[code] - code) ** 2 for code in (4, 7)]).mean()
    loss = loss_of(label="barrier")
    assert set(loss.labels) == {"barrier"} and set(loss.required) == {"energy"}
    found = total_and_gradient(loss, batch["x::energy"], batch)[0]
    torch.testing.assert_close(found, expected, **EXACT)


def test_a_reaction_of_one_structure_is_its_energy():
    batch = batch_of()
    batch["reaction"], batch["reaction_size"] = torch.arange(8), torch.ones(8, dtype=torch.long)
    batch["reaction_coefficient"] = torch.ones(8, dtype=torch.float64)
    expected = TotalLoss({"energy": {}})({"energy": batch["x::energy"]}, batch)
    torch.testing.assert_close(loss_of()({"energy": batch["x::energy"]}, batch), expected, **EXACT)


def test_whole_reactions_may_be_dealt_to_batches():
    batch, loss = batch_of(), loss_of()
    parts = [take(batch, part) for part in ([0, 3, 5, 2], [], [1, 4, 6, 7])]
    step = loss.step(parts)
    whole = loss({"energy": batch["x::energy"]}, batch)
    shares = [loss({"energy": part["x::energy"]}, part, step) for part in parts]
    assert_same([sum(shares)], [whole])
    assert step.labels.tolist() == [3]


@pytest.mark.parametrize("kind", ["none", "empty", "unlabelled"])
def test_without_reactions_it_is_a_connected_zero(kind):
    batch = batch_of()
    if kind == "none":
        batch["reaction"] = torch.full((8,), -1)
    batch = take(batch, []) if kind == "empty" else batch
    if kind == "unlabelled":
        del batch["energy"]
    total, gradient = total_and_gradient(loss_of(), batch["x::energy"], batch)
    assert total == 0 and bool((gradient == 0).all())


def test_nothing_waits_for_the_device():
    batch, loss = batch_of(), loss_of()
    with HostSynchronisations() as waiting:
        total_and_gradient(loss, batch["x::energy"], batch)
    assert not waiting.found


def test_it_says_what_is_compared():
    formula = ReactionTerm().formula()
    assert "Σᵢ cᵢ energyᵢ" in formula and ReactionTerm().unit() == "eV"


@pytest.mark.parametrize("key", ["reaction", "reaction_coefficient", "reaction_size"])
def test_the_batch_says_which_reactions_there_are(key):
    batch = batch_of()
    del batch[key]
    with pytest.raises(KeyError, match=rf"No '{key}' \[structures\]"):
        loss_of()({"energy": batch["x::energy"]}, batch)


@pytest.mark.parametrize("prop", ["forces", "stress", "charges"])
def test_reactions_are_between_structures(prop):
    with pytest.raises(ValueError, match=f"'{prop}' has one row"):
        ReactionTerm(prop)
