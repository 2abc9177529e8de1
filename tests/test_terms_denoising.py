"""Forces of atoms that stay, noise of atoms that were moved, each with its own target and weight."""

import pytest
import torch

from pesloss.losses import Huber, TotalLoss
from pesloss.losses.terms.denoising import DenoisingTerm
from tests.batches import MISSING, make, take
from tests.laws import EXACT, HostSynchronisations, assert_same

DEAL = [[0, 1, 2, 3, 4], [], [5, 6, 7]]
SIZES = (1, 3, 5, 2, 7, 1, 4, 2)


def loss_of(**options):
    return TotalLoss({"term": DenoisingTerm(**{"probability": 0.7, **options})})


def leaves(batch, seed=5):
    generator = torch.Generator().manual_seed(seed)
    shape = batch["positions"].shape
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name in ("forces", "denoising")
    }


def total_and_gradients(loss, predictions, batch):
    total = loss(predictions, batch)
    return [total.detach(), *torch.autograd.grad(total, list(predictions.values()), allow_unused=True)]


@pytest.mark.parametrize("penalty", ["squared", "l2_norm", Huber(0.3)], ids=str)
@pytest.mark.parametrize("normalized", [True, False])
def test_it_is_a_mean_over_clean_and_moved_atoms(penalty, normalized):
    batch, sigma, ratio = make(weights=False, missing=False), 0.1, 0.3
    loss = loss_of(penalty=penalty, normalized=normalized, std=sigma, ratio=ratio)
    prepared, cost = loss.prepare(batch), loss.terms["term"].term.penalty
    predictions, costs = leaves(prepared), []
    for i, moved in enumerate(prepared["noise_mask"].tolist()):
        target = prepared["noise"][i] / (sigma if normalized else 1) if moved else batch["forces"][i]
        residual = predictions["denoising" if moved else "forces"][i] - target
        costs.append((ratio if moved else 1) * cost(residual[None], residual[None]))
    assert 0 < prepared["noise_mask"].sum() < 25
    expected = torch.cat(costs).mean().detach()
    torch.testing.assert_close(loss(predictions, prepared).detach(), expected, **EXACT)


def test_noise_has_the_width_and_the_shares_that_were_asked_for():
    batch = make((40,) * 200, missing=False, weights=False)
    term = DenoisingTerm(std=0.2, probability=0.3, corrupt_ratio=0.4)
    prepared = term.prepare(batch)
    moved, noise = prepared["noise_mask"], prepared["noise"]
    torch.testing.assert_close(prepared["positions"], batch["positions"] + noise, **EXACT)
    perturbed = moved.view(200, 40).any(1)
    assert abs(perturbed.double().mean() - 0.3) < 0.1
    assert abs(moved.view(200, 40)[perturbed].double().mean() - 0.4) < 0.03
    assert abs(noise[moved].std() / 0.2 - 1) < 0.03 and noise[~moved].count_nonzero() == 0


def test_a_structure_gets_the_same_noise_in_every_batch():
    batch, term, order = make(SIZES), DenoisingTerm(max_corrupted=1.0, probability=0.9), [6, 2, 4, 7]
    whole, part = term.prepare(batch), term.prepare(take(batch, order))
    taken = take({**batch, **{key: whole[key] for key in ("noise", "noise_mask")}}, order)
    assert torch.equal(part["noise"], taken["noise"]) and torch.equal(part["noise_mask"], taken["noise_mask"])


def test_the_next_step_has_other_noise():
    batch, loss = make(missing=False), loss_of()
    first = loss.prepare(batch)["noise"]
    loss.advance()
    assert not torch.equal(loss.prepare(batch)["noise"], first)


def test_accumulated_batches_are_one_batch():
    batch, loss = make(), loss_of(ratio=0.4)
    predictions = leaves(batch)
    together = {**batch, **{f"p::{name}": value for name, value in predictions.items()}}
    parts = [take(together, part) for part in DEAL]
    prepared = [loss.prepare(part) for part in parts]
    step = loss.step(prepared)
    shares = [loss({name: part[f"p::{name}"] for name in predictions}, part, step) for part in prepared]
    whole = loss(predictions, loss.prepare(batch))
    assert whole > 0
    assert_same([sum(shares).detach()], [whole.detach()])
    assert_same(
        list(torch.autograd.grad(sum(shares), list(predictions.values()))),
        list(torch.autograd.grad(whole, list(predictions.values()))),
    )


def test_without_noise_it_is_a_loss_of_forces():
    batch, loss = make(), loss_of()
    predictions = leaves(batch)
    found = total_and_gradients(loss, predictions, batch)
    expected = total_and_gradients(TotalLoss({"forces": {}}), {"forces": predictions["forces"]}, batch)
    assert_same(found[:2], expected)
    assert found[2].count_nonzero() == 0  # and connected


def test_noise_that_is_given_is_left_alone():
    batch = make(missing=False, weights=False)
    batch["noise_mask"] = torch.arange(25) % 2 == 0
    batch["noise"] = torch.ones(25, 3, dtype=torch.float64) * batch["noise_mask"][:, None]
    assert loss_of().prepare(batch) is batch


def test_what_is_predicted_for_the_other_head_does_not_matter():
    batch, loss = make(), loss_of()
    prepared = loss.prepare(batch)
    predictions, moved = leaves(batch), prepared["noise_mask"][:, None]
    spoilt = {
        name: torch.where(moved if name == "forces" else ~moved, MISSING, value.detach()).requires_grad_()
        for name, value in predictions.items()
    }
    assert_same(total_and_gradients(loss, spoilt, prepared), total_and_gradients(loss, predictions, prepared))


def test_a_ratio_of_zero_leaves_moved_atoms_out():
    batch = make()
    loss = loss_of(ratio=0.0)
    prepared = loss.prepare(batch)
    clean = {**batch, "forces": torch.where(prepared["noise_mask"][:, None], MISSING, batch["forces"])}
    predictions = leaves(batch)
    expected = TotalLoss({"forces": {}})(predictions, clean)
    torch.testing.assert_close(loss(predictions, prepared), expected, **EXACT)


def calm(batch, **options):
    """Which structures get noise if nothing but the options forbids it."""
    term = DenoisingTerm(probability=1.0, corrupt_ratio=1.0, **{"max_corrupted": 1.0, **options})
    moved = term.prepare(batch)["noise_mask"]
    return [bool(moved[batch["batch"] == i].any()) for i in range(len(batch["ptr"]) - 1)]


def test_structures_that_are_too_far_from_rest_stay_clean():
    batch = make((2, 3, 4, 1), missing=False, weights=False)
    assert calm(batch) == [True] * 4
    largest = [batch["forces"][batch["batch"] == i].norm(dim=1).max() for i in range(4)]
    limit = float(sorted(largest)[1])
    assert calm(batch, max_force=limit) == [bool(force <= limit) for force in largest]
    assert calm(batch, min_atoms=3) == [False, True, True, False]
    assert calm(batch, max_corrupted=0.9) == [False] * 4
    batch["forces"][3, 1] = MISSING
    assert calm(batch) == [True, False, True, True]
    assert calm({key: value for key, value in batch.items() if key != "forces"}) == [False] * 4


def test_atoms_that_are_held_stay_if_so_wished():
    batch = make((20,), missing=False, weights=False)
    term = DenoisingTerm(probability=1.0, corrupt_ratio=1.0, max_corrupted=1.0, all_atoms=False)
    assert torch.equal(term.prepare(batch)["noise_mask"], ~batch["fixed"])


def test_labels_that_depend_on_the_positions_are_hidden():
    batch = make(missing=False, weights=False)
    term = DenoisingTerm(probability=0.5)
    prepared = term.prepare(batch)
    moved = torch.zeros(8).index_add(0, batch["batch"], prepared["noise_mask"].float()) > 0
    assert 0 < moved.sum() < 8
    for name in ("stress", "virial"):
        assert torch.equal(prepared[name].isnan().all((1, 2)), moved)
    assert torch.equal(prepared["energy"], batch["energy"]) and not batch["stress"].isnan().any()


def test_it_says_what_it_needs():
    term = DenoisingTerm("forces", denoising="shift", normalized=False)
    assert set(term.required) == {"forces", "shift"} and set(term.labels) == {"forces"}
    assert term.required["shift"].unit == "Å"
    assert "σ = 0.025 Å" in term.formula() and "shift − noise" in term.formula()


def test_what_moves_atoms_back_is_learned_from_noise_alone():
    """Around a point of rest the noise is the displacement, in units of its width."""
    batch, std = make((6,) * 8, missing=False, weights=False), 0.2
    batch["forces"], batch["positions"] = (torch.zeros_like(batch["forces"]) for _ in range(2))
    matrix = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    loss, optimizer = loss_of(std=std, probability=1.0), torch.optim.Adam([matrix], lr=0.3)
    for _ in range(150):
        prepared = loss.prepare(batch)
        optimizer.zero_grad()
        shift = prepared["positions"] @ matrix
        total = loss({"forces": torch.zeros_like(shift), "denoising": shift}, prepared)
        total.backward()
        optimizer.step()
        loss.advance()
    torch.testing.assert_close(matrix.detach(), torch.eye(3, dtype=torch.float64) / std, rtol=0, atol=0.1)


def test_nothing_waits_for_the_device():
    batch, loss = make(), loss_of(max_force=2.0, all_atoms=False)
    predictions = leaves(batch)
    with HostSynchronisations() as waiting:
        prepared = loss.prepare(batch)
        loss(predictions, prepared).backward()
        loss.advance()
    assert not waiting.found


def test_an_empty_batch_is_a_connected_zero():
    batch, loss = take(make(), []), loss_of()
    prepared = loss.prepare(batch)
    total, *gradients = total_and_gradients(loss, leaves(prepared), prepared)
    assert total == 0 and all(gradient.shape == (0, 3) for gradient in gradients)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"probability": 1.5}, "probability is a share between 0 and 1, got 1.5"),
        ({"corrupt_ratio": -0.1}, "corrupt_ratio is a share"),
        ({"std": 0.0}, "std must be a positive length"),
        ({"ratio": -1.0}, "ratio must be finite and not negative"),
        ({"property": "energy"}, "'energy' has one row a structure"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DenoisingTerm(**options)


def test_predictions_have_both():
    batch = make()
    with pytest.raises(KeyError, match="No 'denoising' in predictions"):
        loss_of()({"forces": batch["forces"]}, batch)
