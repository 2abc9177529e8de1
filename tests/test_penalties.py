"""Law 6: a penalty is one function."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch.func import functional_call, vmap

from pesloss.losses import PENALTIES as NAMED
from pesloss.losses import (
    Absolute,
    ConditionalHuber,
    ConditionalSquared,
    Huber,
    HuberNorm,
    L2Norm,
    LogCosh,
    Quantile,
    QuantileHuber,
    Squared,
    SquaredNorm,
    StratifiedHuber,
)
from pesloss.losses.penalties import HuberLike
from tests import references
from tests.laws import HostSynchronisations
from tests.parts import PENALTIES

GRID = torch.linspace(-3, 3, 121, dtype=torch.float64)[:, None]  # through 0 and through delta
SYMMETRIC = [name for name in PENALTIES if PENALTIES[name]().symmetric]
PER_ROW = [name for name in PENALTIES if PENALTIES[name]().per_row]
SHAPED = [name for name in PENALTIES if PENALTIES[name]().shaped_by_label]
HUBER_LIKE = [name for name in NAMED if isinstance(NAMED[name](), HuberLike)]
BENT = [name for name in PENALTIES if PENALTIES[name]().linear_share(GRID, GRID) is not None]


def cost(penalty, residual, label=None):
    return penalty(residual, torch.zeros_like(residual) if label is None else label)


def slope(penalty, residual, label=None):
    residual = residual.clone().requires_grad_()
    return torch.autograd.grad(cost(penalty, residual, label).sum(), residual)[0]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(*shape):
    """Residuals, and labels of lengths from nothing to far beyond every threshold."""
    sizes = torch.linspace(0, 2, shape[0], dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 1))
    return normal(*shape, seed=1), sizes * normal(*shape, seed=2)


@pytest.mark.parametrize("name", PENALTIES)
def test_equals_numpy(name):
    for residual, label in (drawn(121, 1), drawn(11, 11), drawn(40, 3, 3), drawn(50)):
        expected = references.PENALTIES[name](residual.numpy(), label.numpy())
        found = PENALTIES[name]()(residual, label).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", PENALTIES)
def test_growing_and_convex(name):
    values = cost(PENALTIES[name](), GRID).flatten()
    assert bool((values.diff().diff() >= -1e-14).all())
    assert bool((values[60:].diff() > 0).all()) and bool((values[:61].diff() < 0).all())


@pytest.mark.parametrize("name", PENALTIES)
def test_blind_to_the_sign_or_says_so(name):
    values = cost(PENALTIES[name](), GRID).flatten()
    assert PENALTIES[name]().symmetric == torch.allclose(values, values.flip(0), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", PENALTIES)
def test_one_cost_a_component_or_a_row(name):
    residual, label = drawn(5, 3, 3)
    assert PENALTIES[name]()(residual, label).shape == ((5,) if name in PER_ROW else (5, 3, 3))
    assert PENALTIES[name]()(residual[:0], label[:0]).numel() == 0


@pytest.mark.parametrize("name", PENALTIES)
def test_zero_at_zero_with_zero_gradient(name):
    zeros, label = torch.zeros(4, 3, dtype=torch.float64), drawn(4, 3)[1]
    assert (
        not cost(PENALTIES[name](), zeros, label).any() and not slope(PENALTIES[name](), zeros, label).any()
    )


@pytest.mark.parametrize("name", PENALTIES)
def test_gradient_is_the_derivative(name):
    residual, label = drawn(5, 3)
    assert torch.autograd.gradcheck(lambda r: cost(PENALTIES[name](), r, label), residual.requires_grad_())


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("size", [1e-30, 1e6, 1e18])
def test_far_residuals_stay_finite(name, size):
    residual = torch.tensor([[size]], dtype=torch.float32)
    for label in (torch.zeros_like(residual), residual):
        values = cost(PENALTIES[name](), residual, label), slope(PENALTIES[name](), residual, label)
        assert all(value.isfinite() and value.dtype == torch.float32 for value in values)


@pytest.mark.parametrize("name", PENALTIES)
def test_only_what_is_shaped_by_the_label_sees_it(name):
    residual, label = drawn(20, 3)
    values = [cost(PENALTIES[name](), residual, each) for each in (label, torch.zeros_like(label))]
    assert torch.equal(*values) == (name not in SHAPED)


@pytest.mark.parametrize("name", PENALTIES)
def test_nothing_waits_and_many_are_one_after_another(name):
    """Every number of a penalty can be stacked."""
    residual, label = drawn(6, 3)
    penalty = PENALTIES[name]()
    with HostSynchronisations() as waiting:
        cost(penalty, residual.requires_grad_(), label).sum().backward()
        penalty.linear_share(residual, label)
    assert not waiting.found
    numbers = dict(penalty.named_buffers())
    for key, value in numbers.items():
        stacked = torch.stack([value, 0.5 * value])
        found = vmap(lambda v, key=key: functional_call(penalty, {key: v}, (residual.detach(), label)))(
            stacked
        )
        expected = [functional_call(penalty, {key: v}, (residual.detach(), label)) for v in stacked]
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", PER_ROW)
@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_the_cost_of_a_row_is_the_same_in_every_frame(name, shape):
    residual = normal(6, *shape)
    rotation = torch.linalg.qr(normal(3, 3, seed=3)).Q

    def turn(tensor):
        return tensor @ rotation if len(shape) == 1 else rotation.T @ tensor @ rotation

    penalty = PENALTIES[name]()
    torch.testing.assert_close(cost(penalty, turn(residual)), cost(penalty, residual))
    torch.testing.assert_close(slope(penalty, turn(residual)), turn(slope(penalty, residual)))


@pytest.mark.parametrize("name", SHAPED)
def test_the_shape_is_the_same_in_every_frame(name):
    residual, label = drawn(20, 3)
    rotation = torch.linalg.qr(normal(3, 3, seed=3)).Q
    torch.testing.assert_close(
        *(cost(PENALTIES[name](), residual, each) for each in (label, label @ rotation))
    )


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_units_are_the_users_choice(factor):
    """In another unit a cost changes by the power of the unit that it has."""
    powers = {"squared": 2, "absolute": 1, "quantile": 1, "l2_norm": 1, "squared_norm": 2}
    for name, power in powers.items():
        torch.testing.assert_close(
            cost(PENALTIES[name](), factor * GRID), factor**power * cost(PENALTIES[name](), GRID)
        )
    for kind in (Huber, HuberNorm, LogCosh, ConditionalHuber):
        for scale, power in ((False, 2), (True, 1)):
            scaled = cost(kind(0.7 * factor, scale=scale), factor * GRID)
            torch.testing.assert_close(scaled, factor**power * cost(kind(0.7, scale=scale), GRID))


# ---- the family of Huber ----


def test_huber_is_half_the_square_for_a_large_delta():
    for kind in (Huber, HuberNorm, LogCosh, ConditionalHuber):
        torch.testing.assert_close(cost(kind(1e9), GRID).reshape(-1, 1), 0.5 * cost(Squared(), GRID))


def test_scaled_huber_is_the_absolute_error_for_a_small_delta():
    for kind in (Huber, HuberNorm, LogCosh, ConditionalHuber):
        found = cost(kind(1e-9, scale=True), GRID).reshape(-1, 1)
        torch.testing.assert_close(found, cost(Absolute(), GRID), rtol=0, atol=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 0.1, 2.0])
def test_slope_beyond_delta(delta):
    far = torch.tensor([[25.0], [-70.0]], dtype=torch.float64)
    for kind in (Huber, HuberNorm, LogCosh, ConditionalHuber):
        torch.testing.assert_close(slope(kind(delta), far), delta * far.sign())
        torch.testing.assert_close(slope(kind(delta, scale=True), far), far.sign())


@pytest.mark.parametrize("delta", [0.01, 1.0])
def test_smooth_l1_is_that_of_torch(delta):
    penalty = NAMED["smooth_l1"]()
    penalty.set_delta(delta)
    expected = torch.nn.functional.smooth_l1_loss(GRID, 0 * GRID, beta=delta, reduction="none")
    torch.testing.assert_close(cost(penalty, GRID), expected, rtol=1e-14, atol=1e-14)


def test_log_cosh_keeps_its_digits_near_zero():
    small = torch.tensor([[1e-3], [1e-4]], dtype=torch.float32)
    torch.testing.assert_close(cost(LogCosh(1.0), small), small.square() / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope(LogCosh(1.0), small), small, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [Huber, HuberNorm, LogCosh, ConditionalHuber])
@pytest.mark.parametrize("delta", [0, -1, float("nan"), float("inf"), "0.1", True, False, [0.1]])
def test_a_delta_is_a_positive_number(kind, delta):
    with pytest.raises((ValueError, TypeError), match="delta"):
        kind(delta)


@pytest.mark.parametrize("name", HUBER_LIKE)
def test_an_open_delta_cannot_be_used(name):
    with pytest.raises(ValueError, match=r"has no delta yet: give it one, or huber_delta"):
        cost(NAMED[name](), GRID)
    with pytest.raises(ValueError, match="has no delta yet"):
        NAMED[name]().linear_share(GRID, GRID)


@pytest.mark.parametrize("name", HUBER_LIKE)
def test_a_delta_can_be_set_later(name):
    later, expected = NAMED[name](), NAMED[name]()
    for penalty in (later, expected):
        penalty.set_delta(0.3)
    later.set_delta(0.5)
    expected.delta.fill_(0.5)
    assert not later.open and torch.equal(cost(later, GRID), cost(expected, GRID))


def test_a_delta_can_be_read():
    assert repr(Huber(0.5)) == "Huber(delta=0.5)"
    assert repr(NAMED["scaled_huber"]()) == "Huber(delta=open, scale=True)"
    assert repr(QuantileHuber()) == "QuantileHuber(delta=open, quantile=0.9, rate=0.1)"


@pytest.mark.parametrize("name", BENT)
def test_the_linear_zone_is_where_the_slope_no_longer_grows(name):
    """A little further out the slope is the same, a little further in it is smaller."""
    residual, label = drawn(60, 1)
    penalty = PENALTIES[name]()
    share = penalty.linear_share(residual, label).flatten()
    assert share.any() and not share.all()
    if isinstance(penalty, LogCosh):
        return
    steeper = (
        slope(penalty, 1.001 * residual, label).abs() - slope(penalty, residual, label).abs()
    ).flatten()
    assert bool((steeper[share].abs() < 1e-12).all()) and bool((steeper[~share] > 0).all())


@pytest.mark.parametrize("name", [name for name in PENALTIES if name not in BENT])
def test_others_have_no_linear_zone(name):
    assert PENALTIES[name]().linear_share(GRID, GRID) is None


# ---- strata of the label ----


def forces(*sizes):
    return torch.tensor([[size, 0.0, 0.0] for size in sizes], dtype=torch.float64)


def test_a_label_on_a_threshold_belongs_above_it():
    """MACE's strata, half open."""
    label = forces(0.0, 99.999, 100.0, 200.0, 299.0, 300.0, 1e6)
    found = slope(ConditionalHuber(0.01), torch.full((7, 3), 5.0, dtype=torch.float64), label)[:, 0]
    expected = 0.01 * torch.tensor([1, 1, 0.7, 0.4, 0.4, 0.1, 0.1], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    weights = cost(ConditionalSquared(), torch.ones_like(label), label)[:, 0]
    torch.testing.assert_close(weights, 100 * expected, rtol=1e-14, atol=0)


def test_strata_in_any_order():
    residual, label = drawn(50, 3)
    expected = cost(StratifiedHuber({0: 0.5, 0.7: 0.2, 1.5: 0.1}), residual, label)
    assert torch.equal(cost(StratifiedHuber({1.5: 0.1, 0: 0.5, 0.7: 0.2}), residual, label), expected)


def test_below_the_first_stratum_are_squares():
    residual = 10 * torch.ones(3, 3, dtype=torch.float64)
    found = cost(StratifiedHuber({1.0: 0.2}), residual, forces(0.0, 0.99, 1.0))
    torch.testing.assert_close(found[:, 0], torch.tensor([50.0, 50.0, 0.2 * 9.9], dtype=torch.float64))


@pytest.mark.parametrize("kind", [ConditionalHuber, ConditionalSquared])
@pytest.mark.parametrize(
    ("strata", "words"),
    [
        ({"thresholds": [1.0, 2.0]}, "2 thresholds make 3 strata, got 4 numbers"),
        ({"thresholds": [1.0, 3.0, 2.0]}, "Thresholds must be positive and increase"),
        ({"thresholds": [0.0, 1.0, 2.0]}, "Thresholds must be positive and increase"),
        ({"thresholds": [1.0, 2.0, math.inf]}, "Thresholds must be positive and increase"),
        ({"factors": [1.0, 0.7, 0.4, 0.0]}, "Numbers of strata must be positive"),
        ({"factors": [1.0, 0.7, 0.4, math.nan]}, "Numbers of strata must be positive"),
    ],
)
def test_strata_make_sense(kind, strata, words):
    with pytest.raises(ValueError, match=words):
        kind(**strata)


@pytest.mark.parametrize("deltas", [{}, {-1.0: 0.1}, {math.nan: 0.1}, {math.inf: 0.1}])
def test_strata_have_lower_bounds(deltas):
    with pytest.raises(ValueError, match="lower bound"):
        StratifiedHuber(deltas)


@pytest.mark.parametrize("delta", [0.0, -0.1, math.nan])
def test_strata_have_positive_deltas(delta):
    with pytest.raises(ValueError, match="must be positive"):
        StratifiedHuber({0.0: 0.1, 1.0: delta})


# ---- a quantile ----


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.8])
def test_the_minimiser_is_the_quantile(quantile):
    labels = normal(2001)
    guesses = torch.linspace(-2, 2, 401, dtype=torch.float64)
    costs = cost(Quantile(quantile), guesses[:, None] - labels).mean(1)
    found = guesses[costs.argmin()]
    torch.testing.assert_close(found, labels.quantile(quantile), rtol=0, atol=0.01)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.1, math.nan, True, "0.5"])
@pytest.mark.parametrize("kind", [Quantile, QuantileHuber])
def test_a_quantile_is_a_share(kind, quantile):
    with pytest.raises((ValueError, TypeError), match="quantile"):
        kind(quantile)


@pytest.mark.parametrize("quantile", [0.5, 0.9])
@pytest.mark.parametrize("start", [1e-2, 10.0])
def test_delta_follows_the_residuals(quantile, start):
    """From far off, to the quantile; and again after they shrink to a tenth."""
    penalty = QuantileHuber(quantile, start, rate=0.2)
    for size in (1.0, 0.1):
        for step in range(300):
            residual = size * normal(500, seed=step)
            penalty.advance(penalty.linear_share(residual, residual).double().mean())
        expected = size * normal(10**5).abs().quantile(quantile)
        torch.testing.assert_close(penalty.delta, expected, rtol=0.1, atol=0)


def test_a_step_without_residuals_moves_nothing():
    penalty = QuantileHuber(0.9, 0.3)
    penalty.advance(torch.tensor(math.nan))
    assert float(penalty.delta) == 0.3


def test_one_step_is_the_formula():
    penalty = QuantileHuber(0.9, 0.3, rate=0.05)
    with HostSynchronisations() as waiting:
        penalty.advance(torch.tensor(0.4))
    assert not waiting.found
    assert float(penalty.delta) == pytest.approx(0.3 * math.exp(0.05 * (0.4 - 0.1)), rel=1e-7)


def test_a_moving_delta_is_saved_and_others_come_from_the_config():
    moved, fresh = QuantileHuber(0.9, 0.3), QuantileHuber(0.9, 0.3)
    moved.advance(torch.tensor(1.0))
    fresh.load_state_dict(moved.state_dict())
    assert torch.equal(cost(fresh, GRID), cost(moved, GRID)) and moved.delta != 0.3
    assert torch.equal(copy.deepcopy(moved).delta, moved.delta)
    others = [name for name in PENALTIES if PENALTIES[name]().state_dict()]
    assert others == ["quantile_huber"]


@pytest.mark.parametrize("rate", [0, -1.0, math.inf, True])
def test_a_rate_is_a_positive_number(rate):
    with pytest.raises(ValueError, match="rate"):
        QuantileHuber(0.9, 0.1, rate)


# ---- whole entries ----


def test_a_squared_norm_is_the_sum_of_squares():
    residual = normal(5, 3, 3)
    torch.testing.assert_close(cost(SquaredNorm(), residual), cost(Squared(), residual).sum((1, 2)))
    torch.testing.assert_close(cost(SquaredNorm(), residual), cost(L2Norm(), residual).square())


# ---- formulas ----


@pytest.mark.parametrize("name", PENALTIES)
def test_a_formula_has_the_residual_and_every_number(name):
    penalty = PENALTIES[name]()
    text = penalty.formula("Δforces")
    assert "Δforces" in text and "\n" not in text
    found = set(re.findall(r"\d+\.?\d*", text))
    numbers = [*penalty.named_buffers(), *vars(penalty).items()]
    for key, value in numbers:
        values = value.flatten().tolist() if isinstance(value, torch.Tensor) else [value]
        wanted = {f"{v:g}" for v in values if isinstance(v, float) and math.isfinite(v)}
        assert wanted <= found, (key, wanted, text)


@pytest.mark.parametrize(
    ("penalty", "text"),
    [
        (Huber(0.01), "½|r|² for |r| ≤ δ, δ(|r| − ½δ) beyond, δ = 0.01"),
        (Huber(0.01, scale=True), "½|r|²/δ for |r| ≤ δ, |r| − ½δ beyond, δ = 0.01"),
        (HuberNorm(0.01), "½‖r‖² for ‖r‖ ≤ δ, δ(‖r‖ − ½δ) beyond, δ = 0.01"),
        (StratifiedHuber({50: 0.2}), "δₖ = (∞, 0.2) for ‖label‖ from (0, 50)"),
        (Huber(), "δ = open"),
        (Squared(), "r²"),
    ],
)
def test_formulas(penalty, text):
    assert penalty.formula("r").endswith(text)
