"""Weights that are configured, and weights that are the variances of the errors."""

import math

import pytest
import torch

from pesloss.weighting import WEIGHTINGS, Fixed, Uncertainty
from tests.batches import ALL, MISSING, make
from tests.laws import EXACT, leaves, without_labels
from tests.parts import LOSSES, PENALTIES, REDUCTIONS, three_terms
from tests.parts import WEIGHTINGS as MADE

FORMS = ["likelihood", "kendall", "tace"]
PRIOR = {"energy": 1.0, "forces": 5.0, "stress": 0.3}
WEIGHTS = torch.tensor(list(PRIOR.values()), dtype=torch.float64)
VALUES = torch.tensor([0.2, 3.0, 0.01], dtype=torch.float64)
LABELS = torch.tensor([8, 75, 48])
SHARES = LABELS.double() / LABELS.sum()


def weighting(form, **options):
    made = Uncertainty(form, **options)
    made.setup(PRIOR)
    return made


def total(made, values=VALUES, labels=LABELS):
    weights, regulariser = made(values, labels)
    return (weights * values).sum() + (0.0 if regulariser is None else regulariser)


def slope(made, **inputs):
    (found,) = torch.autograd.grad(total(made, **inputs), made.log_variance)
    return found


@pytest.mark.parametrize("name", MADE)
def test_the_first_weights_are_the_configured_ones(name):
    made = MADE[name]()
    made.setup(PRIOR)
    made.advance(epoch=0, step=0, learning_rate=1.0)
    torch.testing.assert_close(made(VALUES, LABELS).values, WEIGHTS, **EXACT)


@pytest.mark.parametrize("name", MADE)
def test_the_first_step_of_a_loss_has_the_configured_weights(name):
    batch = make()
    weights = LOSSES[f"weighting {name}"]().evaluate(leaves(batch), batch).weights
    torch.testing.assert_close(torch.stack([*weights.values()]), WEIGHTS, **EXACT)


@pytest.mark.parametrize("name", MADE)
def test_the_weight_of_a_term_has_the_precision_of_its_value(name):
    made = MADE[name]()
    made.setup(PRIOR)
    made.advance(epoch=0, step=0, learning_rate=1.0)
    assert {part.dtype for part in made(VALUES.float(), LABELS) if part is not None} == {torch.float32}


@pytest.mark.parametrize("form", FORMS)
def test_the_total_is_the_formula(form):
    """At log-variances s of the effective weights, in the words of each paper."""
    made = weighting(form)
    made(VALUES, LABELS)
    s = (made.log_variance + made.log_share).detach()
    expected = {
        "likelihood": (SHARES * (0.5 * torch.exp(-s) * VALUES + 0.5 * s)).sum(),
        "kendall": (0.5 * torch.exp(-s) * VALUES + 0.5 * s).sum(),
        "tace": (0.5 * torch.exp(-s) * VALUES + s).sum(),
    }[form]
    torch.testing.assert_close(total(made).detach(), expected, **EXACT)


@pytest.mark.parametrize(
    ("form", "variance"), [("likelihood", VALUES), ("kendall", VALUES), ("tace", VALUES / 2)]
)
def test_rests_at_the_variance_of_the_errors(form, variance):
    made = weighting(form)
    made(VALUES, LABELS)
    with torch.no_grad():
        made.log_variance.copy_(variance.log() - made.log_share)
    torch.testing.assert_close(slope(made), torch.zeros(3, dtype=torch.float64), **EXACT)
    with torch.no_grad():
        made.log_variance += 0.1
    assert bool((slope(made) > 0).all())  # and it is a minimum


@pytest.mark.parametrize("form", FORMS)
def test_descent_finds_the_variance(form):
    made = weighting(form)
    optimizer = torch.optim.LBFGS(
        made.parameters(), max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = total(made)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = (made.log_variance + made.log_share).detach().exp()
    torch.testing.assert_close(found, VALUES / 2 if form == "tace" else VALUES, rtol=1e-4, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prop", ["energy", "forces", "stress"])
def test_the_variance_of_a_term_without_labels_rests(form, prop):
    loss, batch = LOSSES[f"weighting {form}"](), without_labels(make(), prop)
    before = loss.weighting.log_variance.detach().clone()
    optimizer = torch.optim.SGD([{"params": group["params"], "lr": 0.1} for group in loss.parameter_groups()])
    output = loss.evaluate(leaves(batch), batch)
    output.total.backward()
    optimizer.step()
    moved = dict(zip(loss.by_name, (loss.weighting.log_variance - before).tolist(), strict=True))
    assert output.weights[prop] == 0 == moved.pop(prop) and all(moved.values())


@pytest.mark.parametrize("form", FORMS)
def test_a_term_that_comes_late_starts_with_its_configured_weight(form):
    loss, batch = LOSSES[f"weighting {form}"](), make()
    loss(leaves(batch), without_labels(batch, "stress"))
    assert float(loss.evaluate(leaves(batch), batch).weights["stress"]) == pytest.approx(0.3, rel=1e-12)


def test_the_share_of_labels_is_kept_from_the_first_step():
    """More forces later means more of them in the likelihood; only the start was relative."""
    made = weighting("likelihood")
    made(VALUES, LABELS)
    later = torch.tensor([8, 150, 48])
    growth = later.double() / later.sum() / SHARES
    expected = growth * WEIGHTS
    torch.testing.assert_close(made(VALUES, later).values.detach(), expected, **EXACT)


def test_evaluation_keeps_nothing():
    made = weighting("likelihood").eval()
    torch.testing.assert_close(made(VALUES, LABELS).values, WEIGHTS, **EXACT)
    assert not made.seen.any() and not made.log_share.any()


@pytest.mark.parametrize("form", FORMS)
def test_no_label_at_all_is_zero(form):
    made = weighting(form)
    assert (
        total(made, torch.zeros(3).double(), torch.zeros(3)) == 0
        and not slope(made, values=torch.zeros(3).double(), labels=torch.zeros(3)).any()
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("value", "end"), [(1e-9, -3), (1e9, 3)])
def test_at_a_bound_only_the_way_back_is_open(form, value, end):
    """Errors that shrink to nothing pull the log-variance down, past its bound; growing ones up."""
    made = weighting(form, bounds=(-3, 3))
    made(VALUES, LABELS)
    with torch.no_grad():
        made.log_variance.copy_(end - made.log_share + 0.5 * end)
    outward = torch.full((3,), value, dtype=torch.float64)
    assert not slope(made, values=outward).any()
    inward = slope(made, values=1 / outward)
    assert bool((inward.sign() == end / 3).all())
    effective = made(VALUES, LABELS).values
    share = SHARES if form == "likelihood" else torch.ones(3).double()
    torch.testing.assert_close(effective, 0.5 * share * math.exp(-end), **EXACT)


def test_inside_the_bounds_nothing_is_stopped():
    free, bounded = weighting("kendall", bounds=(-100, 100)), weighting("kendall", bounds=(-3, 3))
    assert torch.equal(slope(free), slope(bounded))


def test_energies_are_not_overweighted_by_the_likelihood():
    """At rest its weights are n/L, a component of each property alike; those of Kendall 1/L, a term."""
    at_rest = {}
    for form in ("likelihood", "kendall"):
        made = weighting(form)
        made(VALUES, LABELS)
        with torch.no_grad():
            made.log_variance.copy_(VALUES.log() - made.log_share)
        at_rest[form] = made(VALUES, LABELS).values.detach()
    torch.testing.assert_close(at_rest["likelihood"], SHARES * at_rest["kendall"], **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "liklihood"}, "'likelihood'"),
        ({"bounds": (3, -3)}, r"must be \(low, high\)"),
        ({"bounds": (0.0,)}, r"must be \(low, high\)"),
        ({"bounds": (-0.1, 0.1)}, "outside of"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        three_terms(PENALTIES["squared"], REDUCTIONS["mean"], weighting=Uncertainty(**options))


def test_learned_weights_have_their_own_group():
    made = weighting("kendall", learning_rate=0.5)
    assert made.parameter_groups() == [{"params": [made.log_variance], "weight_decay": 0.0, "lr": 0.5}]
    assert "lr" not in weighting("kendall", learning_rate=None).parameter_groups()[0]
    assert Fixed().parameter_groups() == []


def test_weight_decay_does_not_reach_the_variances():
    """With a gradient of zero AdamW would still shrink them."""
    loss, batch = LOSSES["UncertaintyLoss"](), without_labels(make(), *ALL)
    before = loss.weighting.log_variance.detach().clone()
    optimizer = torch.optim.AdamW(loss.parameter_groups(), weight_decay=0.5)
    loss(leaves(batch), batch).backward()
    optimizer.step()
    assert torch.equal(loss.weighting.log_variance, before)


def test_a_name_is_a_weighting():
    assert isinstance(
        three_terms(PENALTIES["squared"], REDUCTIONS["mean"], weighting="uncertainty").weighting, Uncertainty
    )
    assert set(WEIGHTINGS) == {"fixed", "uncertainty", "soft_adapt", "conflict_free"}


def test_a_nan_value_stays_one():
    for form in FORMS:
        assert total(weighting(form), torch.tensor([MISSING, 1, 1]).double()).isnan()
