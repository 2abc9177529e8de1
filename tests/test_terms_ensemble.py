"""Scores of ensembles: right on average, and as spread as they are wrong."""

from itertools import product
from math import inf

import pytest
import torch

from pesloss.losses import TotalLoss
from pesloss.losses.terms.ensemble import EnsembleTerm, empirical_crps, gaussian_crps
from tests.batches import MISSING, make
from tests.laws import EXACT

SCORES = {
    "gaussian_nll": {"score": "gaussian_nll"},
    "gaussian_crps": {"score": "gaussian_crps"},
    "empirical_crps": {"score": "empirical_crps"},
    "fair": {"score": "empirical_crps", "fair": True},
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bare():
    return make(missing=False, weights=False)


def scored(members, label, **options):
    """Value of a term over structures that are single numbers."""
    batch = {"ptr": torch.arange(len(label) + 1), "energy": label}
    return TotalLoss({"energy": EnsembleTerm("energy", **options)})({"energy_ensemble": members}, batch)


def grad(value, of):
    return torch.autograd.grad(value, of)[0]


def test_the_likelihood_is_that_of_torch_with_its_clamp():
    """Also where members agree to less than the smallest variance: the gradient is not cut off."""
    members, label = normal(6, 5), normal(6, seed=1)
    members[0], label[0] = 1e-5 * members[0], 1e-5 * label[0]
    members.requires_grad_()
    expected = torch.nn.GaussianNLLLoss()(members.mean(1), label, members.var(1))
    found = scored(members, label)
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(grad(found, members), grad(expected, members), **EXACT)


def test_the_gaussian_score_integrates_the_squared_difference_of_distributions():
    deviations = normal(4, 3)
    mean, sigma = deviations.mean(1, keepdim=True), deviations.std(1, keepdim=True)
    grid = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
    below = torch.special.ndtr((grid - mean) / sigma)
    expected = torch.trapezoid((below - (grid >= 0).double()).square(), grid, dim=1)
    torch.testing.assert_close(gaussian_crps(deviations, 1e-12), expected, rtol=0, atol=1e-4)


def test_the_empirical_score_integrates_it_too():
    deviations = normal(4, 3)
    grid = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    below = (grid >= deviations[:, :, None]).double().mean(1)
    expected = torch.trapezoid((below - (grid >= 0).double()).square(), grid, dim=1)
    torch.testing.assert_close(empirical_crps(deviations, fair=False), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("members", [2, 5, 8])
def test_the_empirical_score_is_its_sum_over_pairs(members, fair):
    deviations = normal(7, members).requires_grad_()
    pairs = (deviations[:, :, None] - deviations[:, None]).abs().sum((1, 2))
    expected = deviations.abs().mean(1) - 0.5 * pairs / (members * (members - fair))
    found = empirical_crps(deviations, fair)
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(grad(found.sum(), deviations), grad(expected.sum(), deviations), **EXACT)


@pytest.mark.parametrize("members", [2, 3, 4])
def test_the_fair_score_does_not_know_how_many_members_there_are(members):
    """Its expectation over all ensembles drawn from a distribution is the score of the distribution."""
    outcomes = torch.tensor([-1.3, 0.2, 2.5, 0.9], dtype=torch.float64)
    ensembles = torch.stack([outcomes[list(draw)] for draw in product(range(4), repeat=members)])
    score = empirical_crps(outcomes[None], fair=False)[0]
    torch.testing.assert_close(empirical_crps(ensembles, fair=True).mean(), score, **EXACT)
    assert empirical_crps(ensembles, fair=False).mean() > score + 0.01


@pytest.mark.parametrize("score", SCORES)
def test_gradients_are_those_of_finite_differences(score):
    label = normal(4, seed=1)
    members = normal(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: scored(y, label, **SCORES[score]), members)


@pytest.mark.parametrize("score", SCORES)
def test_the_order_of_members_and_a_common_shift_do_not_matter(score):
    members, label = normal(6, 4), normal(6, seed=1)
    expected = scored(members, label, **SCORES[score])
    for other in (members.flip(1), members[:, [2, 0, 3, 1]]):
        torch.testing.assert_close(scored(other, label, **SCORES[score]), expected, **EXACT)
    torch.testing.assert_close(scored(members + 7, label + 7, **SCORES[score]), expected, **EXACT)


@pytest.mark.parametrize("score", SCORES)
def test_members_that_agree_have_a_finite_score(score):
    members, label = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True), normal(3)
    value = scored(members, label, **SCORES[score])
    assert value.isfinite() and bool(grad(value, members).isfinite().all())


def test_a_sharp_ensemble_that_is_right_beats_a_vague_one():
    label, spread = torch.zeros(1, dtype=torch.float64), torch.linspace(-1, 1, 9, dtype=torch.float64)[None]
    for options in SCORES.values():
        assert scored(0.1 * spread, label, **options) < scored(spread, label, **options)
        assert scored(0.1 * spread + 3, label, **options) > scored(spread + 3, label, **options)


@pytest.mark.parametrize("score", SCORES)
def test_per_atom_is_everything_over_the_number_of_atoms(score):
    batch = bare()
    atoms, members = batch["ptr"].diff(), normal(8, 4)
    one, other = (
        TotalLoss({"energy": EnsembleTerm("energy", per_atom=per_atom, **SCORES[score])})
        for per_atom in (True, False)
    )
    divided = {**batch, "energy": batch["energy"] / atoms}
    expected = other({"energy_ensemble": members / atoms[:, None]}, divided)
    torch.testing.assert_close(one({"energy_ensemble": members}, batch), expected, **EXACT)


def test_components_of_vectors_are_scored_one_by_one():
    batch, members = bare(), normal(25, 4, 3)
    loss = TotalLoss({"forces": EnsembleTerm("forces", score="gaussian_crps")})
    expected = gaussian_crps(members.movedim(1, 2) - batch["forces"][..., None], 1e-12).mean()
    torch.testing.assert_close(loss({"forces_ensemble": members}, batch), expected, **EXACT)
    assert loss.step([batch]).labels.tolist() == [75]


def test_a_component_without_a_label_is_not_scored():
    batch, members = bare(), normal(25, 4, 3)
    batch["forces"][2, 1] = MISSING
    loss = TotalLoss({"forces": EnsembleTerm("forces", score="empirical_crps")})
    members[2, :, 1] = float("nan")
    members.requires_grad_()
    gradient = grad(loss({"forces_ensemble": members}, batch), members)
    assert loss.step([batch]).labels.tolist() == [74]
    assert bool((gradient[2, :, 1] == 0).all()) and bool((gradient[2, :, 0] != 0).any())


def test_the_model_is_asked_for_members():
    required = EnsembleTerm("forces", members=5, ensemble="committee").required
    assert list(required) == ["committee"] and required["committee"].shape == (5, 3)
    assert set(EnsembleTerm("forces").labels) == {"forces"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"score": "gaussian_nl"}, "did you mean 'gaussian_nll'"),
        ({"fair": True}, "Only score 'empirical_crps' has a fair form"),
        ({"score": "empirical_crps", "floor": 0.1}, "takes no variance"),
        ({"floor": 0.0}, "must be finite and positive"),
        ({"floor": inf}, "must be finite and positive"),
        ({"members": 1}, "two members or more"),
        ({"members": True}, "two members or more"),
    ],
)
def test_what_makes_no_sense_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        EnsembleTerm("energy", **options)


def test_forces_are_not_compared_per_atom():
    with pytest.raises(ValueError, match="cannot be divided by the number of atoms"):
        EnsembleTerm("forces", per_atom=True)


@pytest.mark.parametrize(
    ("shape", "members", "match"),
    [
        ((8,), None, r"expected \(structures, members\)"),
        ((8, 4, 3), None, r"expected \(structures, members\)"),
        ((8, 1), None, "two members or more"),
        ((8, 4), 5, r"expected \(structures, 5\)"),
        ((7, 4), None, "but labelled with shape"),
    ],
)
def test_predictions_of_another_shape_are_refused(shape, members, match):
    loss = TotalLoss({"energy": EnsembleTerm("energy", members=members)})
    with pytest.raises(ValueError, match=match):
        loss({"energy_ensemble": normal(*shape)}, bare())


def test_an_ensemble_that_is_not_predicted_is_missed_by_name():
    with pytest.raises(KeyError, match="No 'energy_ensemble' in predictions"):
        TotalLoss({"energy": EnsembleTerm("energy")})({"energy": normal(8)}, bare())


def test_the_formula_says_what_is_scored():
    said = EnsembleTerm("energy", per_atom=True, floor=0.25).formula()
    assert "energy / N" in said and "0.25" in said
    assert "M(M − 1)" in EnsembleTerm("energy", score="empirical_crps", fair=True).formula()
