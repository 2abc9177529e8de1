"""Predicted variances and evidence: as large as the errors turn out to be."""

from math import inf

import pytest
import torch

from pesloss.losses import TotalLoss
from pesloss.losses.terms.variance import EvidentialTerm, VarianceTerm
from tests.batches import MISSING, make
from tests.laws import EXACT


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bare():
    return make(missing=False, weights=False)


def heteroscedastic(mean, variance, label, **options):
    batch = {"ptr": torch.arange(len(label) + 1), "energy": label}
    loss = TotalLoss({"energy": VarianceTerm("energy", **options)})
    return loss({"energy": mean, "energy_variance": variance}, batch)


def evidential(gamma, nu, alpha, beta, label, **options):
    batch = {"ptr": torch.arange(len(label) + 1), "energy": label}
    loss = TotalLoss({"energy": EvidentialTerm("energy", **options)})
    predictions = {"energy": gamma, "energy_nu": nu, "energy_alpha": alpha, "energy_beta": beta}
    return loss(predictions, batch)


def gradients(value, *of):
    return torch.autograd.grad(value, of)


def test_with_beta_zero_it_is_the_gaussian_likelihood_of_torch():
    mean, variance, label = normal(6).requires_grad_(), normal(6, seed=1).exp(), normal(6, seed=2)
    variance[0] = 1e-9
    variance.requires_grad_()
    found, expected = (
        heteroscedastic(mean, variance, label, beta=0),
        torch.nn.GaussianNLLLoss()(mean, label, variance),
    )
    torch.testing.assert_close(found, expected, **EXACT)
    for a, b in zip(gradients(found, mean, variance), gradients(expected, mean, variance), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_beta_weights_the_likelihood_by_a_variance_without_gradient(beta):
    mean, variance = normal(6).requires_grad_(), normal(6, seed=1).exp().requires_grad_()
    label = normal(6, seed=2)
    cost = 0.5 * (variance.log() + (mean - label) ** 2 / variance)
    expected = (variance.detach() ** beta * cost).mean()
    found = heteroscedastic(mean, variance, label, beta=beta)
    torch.testing.assert_close(found, expected, **EXACT)
    for a, b in zip(gradients(found, mean, variance), gradients(expected, mean, variance), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_with_beta_one_the_mean_is_pulled_as_by_a_squared_error():
    mean, label = normal(6).requires_grad_(), normal(6, seed=2)
    value = heteroscedastic(mean, normal(6, seed=1).exp(), label, beta=1.0)
    expected = 0.5 * (mean - label).square().mean()
    torch.testing.assert_close(gradients(value, mean), gradients(expected, mean), **EXACT)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_best_variance_is_the_mean_squared_error(beta):
    label, mean = normal(50), torch.zeros(50, dtype=torch.float64)
    errors = (label - mean).square().mean()
    for factor in (0.9, 1.0, 1.1):
        variance = (factor * errors).detach().requires_grad_()
        (pull,) = gradients(heteroscedastic(mean, variance.expand(50), label, beta=beta), variance)
        assert abs(pull) < 1e-12 if factor == 1 else torch.sign(pull) == (1 if factor > 1 else -1)


def test_the_forms_of_a_variance_are_one_variance():
    mean, label, variance = normal(6), normal(6, seed=1), normal(6, seed=2).exp()
    expected = heteroscedastic(mean, variance, label)
    raw = variance.expm1().log()  # softplus backwards
    torch.testing.assert_close(heteroscedastic(mean, variance.log(), label, form="log_variance"), expected)
    torch.testing.assert_close(heteroscedastic(mean, raw, label, form="softplus"), expected)


def test_a_variance_below_the_floor_rises_where_errors_are_larger():
    mean, label = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    variance = torch.tensor([-3.0, -3.0], dtype=torch.float64, requires_grad=True)
    value = heteroscedastic(mean, variance, label, beta=0, floor=0.01)
    torch.testing.assert_close(value, 0.25 * (2 * torch.tensor(0.01).double().log() + 100))
    (pull,) = gradients(value, variance)
    assert pull[0] < 0 < pull[1]


def test_components_have_variances_of_their_own():
    batch, mean, variance = bare(), normal(25, 3), normal(25, 3, seed=1).exp()
    batch["forces"][2, 1] = MISSING
    cost = 0.5 * (variance.log() + (mean - batch["forces"]).square() / variance)
    loss = TotalLoss({"forces": VarianceTerm("forces", beta=0)})
    found = loss({"forces": mean, "forces_variance": variance}, batch)
    torch.testing.assert_close(found, cost[~cost.isnan()].sum() / 74, **EXACT)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"beta": 1.5}, "beta from 0 to 1"),
        ({"beta": True}, "beta from 0 to 1"),
        ({"floor": 0.0}, "must be finite and positive"),
        ({"form": "log_varience"}, "did you mean 'log_variance'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        VarianceTerm("energy", **options)


def test_a_variance_of_another_shape_is_refused():
    loss = TotalLoss({"energy": VarianceTerm("energy")})
    with pytest.raises(ValueError, match=r"'energy_variance' has shape \(8, 1\)"):
        loss({"energy": normal(8), "energy_variance": normal(8, 1)}, bare())
    with pytest.raises(KeyError, match="No 'energy_variance' in predictions"):
        loss({"energy": normal(8)}, bare())


def test_evidence_is_the_likelihood_of_student():
    """A normal-inverse-gamma distribution of mean and variance makes a Student distribution of labels."""
    gamma, label = normal(6), normal(6, seed=1)
    nu, alpha, beta = normal(6, seed=2).exp(), 1 + normal(6, seed=3).exp(), normal(6, seed=4).exp()
    student = torch.distributions.StudentT(2 * alpha, gamma, (beta * (1 + nu) / (nu * alpha)).sqrt())
    found = evidential(gamma, nu, alpha, beta, label, coefficient=0, softplus=False)
    torch.testing.assert_close(found, -student.log_prob(label).mean(), **EXACT)


def test_wrong_evidence_costs():
    gamma, label = normal(6), normal(6, seed=1)
    nu, alpha, beta = normal(6, seed=2).exp(), 1 + normal(6, seed=3).exp(), normal(6, seed=4).exp()
    with_it, without = (
        evidential(gamma, nu, alpha, beta, label, coefficient=c, softplus=False) for c in (0.3, 0.0)
    )
    expected = 0.3 * ((gamma - label).abs() * (2 * nu + alpha)).mean()
    torch.testing.assert_close(with_it - without, expected, **EXACT)


def test_any_numbers_are_made_evidence():
    gamma, label, raw = normal(6), normal(6, seed=1), [normal(6, seed=s) for s in (2, 3, 4)]
    soft = torch.nn.functional.softplus
    expected = evidential(gamma, soft(raw[0]), 1 + soft(raw[1]), soft(raw[2]), label, softplus=False)
    torch.testing.assert_close(evidential(gamma, *raw, label), expected, **EXACT)


def test_gradients_are_those_of_finite_differences():
    label = normal(4, seed=9)
    inputs = [normal(4, seed=s).requires_grad_() for s in range(4)]
    assert torch.autograd.gradcheck(lambda *x: evidential(*x, label, coefficient=0.2), inputs)
    assert torch.autograd.gradcheck(
        lambda m, v: heteroscedastic(m, v, label, beta=0, form="softplus"), inputs[:2]
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"coefficient": -1.0}, "finite coefficient >= 0"),
        ({"coefficient": inf}, "finite coefficient >= 0"),
        ({"evidence": ["nu", "alpha"]}, "three different keys"),
        ({"evidence": ["nu", "alpha", "nu"]}, "three different keys"),
    ],
)
def test_evidence_has_three_numbers(options, match):
    with pytest.raises(ValueError, match=match):
        EvidentialTerm("energy", **options)


def test_the_model_is_asked_for_all_of_it():
    assert list(VarianceTerm("forces", variance="v").required) == ["forces", "v"]
    asked = EvidentialTerm("energy", evidence=["a", "b", "c"]).required
    assert list(asked) == ["energy", "a", "b", "c"] and asked["c"].unit == "(eV)²"


def test_the_formulas_say_every_number():
    assert "0.25" in VarianceTerm("energy", beta=0.25, floor=1e-3).formula()
    said = EvidentialTerm("energy", coefficient=0.125).formula()
    assert "0.125" in said and "softplus(energy_nu)" in said
