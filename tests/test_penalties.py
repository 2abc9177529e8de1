"""Law 6: a penalty is one function."""

import numpy as np
import pytest
import torch

from pesloss.losses import PENALTIES as NAMED
from pesloss.losses import Absolute, Huber, L2Norm, Squared
from tests import references
from tests.parts import PENALTIES

GRID = torch.linspace(-3, 3, 121, dtype=torch.float64)[:, None]  # through 0 and through delta


def cost(penalty, residual):
    return penalty(residual, torch.zeros_like(residual))


def slope(penalty, residual):
    residual = residual.clone().requires_grad_()
    return torch.autograd.grad(cost(penalty, residual).sum(), residual)[0]


@pytest.mark.parametrize("name", PENALTIES)
def test_equals_numpy(name):
    for residual in (GRID, GRID.reshape(-1, 11), torch.randn(4, 3, 3, dtype=torch.float64)):
        expected = references.PENALTIES[name](residual.numpy())
        np.testing.assert_allclose(
            cost(PENALTIES[name](), residual).numpy(), expected, rtol=1e-14, atol=1e-14
        )


@pytest.mark.parametrize("name", PENALTIES)
def test_even_convex_and_growing(name):
    values = cost(PENALTIES[name](), GRID).flatten()
    torch.testing.assert_close(values, values.flip(0), rtol=1e-14, atol=1e-14)
    assert bool((values.diff().diff() >= -1e-14).all())
    assert bool((values[60:].diff() > 0).all())


@pytest.mark.parametrize("name", PENALTIES)
def test_zero_at_zero_with_zero_gradient(name):
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    assert not cost(PENALTIES[name](), zeros).any() and not slope(PENALTIES[name](), zeros).any()


@pytest.mark.parametrize("name", PENALTIES)
def test_gradient_is_the_derivative(name):
    residual = torch.randn(5, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: cost(PENALTIES[name](), r), residual)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("size", [1e-30, 1e6, 1e18])
def test_far_residuals_stay_finite(name, size):
    residual = torch.tensor([[size]], dtype=torch.float32)
    assert cost(PENALTIES[name](), residual).isfinite() and slope(PENALTIES[name](), residual).isfinite()


def test_huber_is_half_the_square_for_a_large_delta():
    torch.testing.assert_close(cost(Huber(1e9), GRID), 0.5 * cost(Squared(), GRID), rtol=1e-14, atol=0)


def test_scaled_huber_is_the_absolute_error_for_a_small_delta():
    torch.testing.assert_close(cost(Huber(1e-9, scale=True), GRID), cost(Absolute(), GRID), rtol=0, atol=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 0.1, 2.0])
def test_slope_beyond_delta(delta):
    far = torch.tensor([[2.5], [-7.0]], dtype=torch.float64)
    torch.testing.assert_close(slope(Huber(delta), far), delta * far.sign())
    torch.testing.assert_close(slope(Huber(delta, scale=True), far), far.sign())


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_units_are_the_users_choice(factor):
    """In another unit a cost changes by the power of the unit that it has."""
    powers = {"squared": 2, "absolute": 1, "l2_norm": 1}
    for name, power in powers.items():
        torch.testing.assert_close(
            cost(PENALTIES[name](), factor * GRID), factor**power * cost(PENALTIES[name](), GRID)
        )
    for scale, power in ((False, 2), (True, 1)):
        scaled = cost(Huber(0.7 * factor, scale=scale), factor * GRID)
        torch.testing.assert_close(scaled, factor**power * cost(Huber(0.7, scale=scale), GRID))


@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_l2_norm_is_the_same_in_every_frame(shape):
    residual = torch.randn(6, *shape, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    rotated = residual @ rotation if len(shape) == 1 else rotation.T @ residual @ rotation
    torch.testing.assert_close(cost(L2Norm(), rotated), cost(L2Norm(), residual))
    turned = slope(L2Norm(), residual)
    turned = turned @ rotation if len(shape) == 1 else rotation.T @ turned @ rotation
    torch.testing.assert_close(slope(L2Norm(), rotated), turned)


@pytest.mark.parametrize("delta", [0, -1, float("nan"), float("inf"), "0.1", True, False, [0.1]])
def test_a_delta_is_a_positive_number(delta):
    with pytest.raises((ValueError, TypeError), match="delta"):
        Huber(delta)


def test_an_open_delta_cannot_be_used():
    with pytest.raises(ValueError, match="Huber has no delta yet"):
        cost(NAMED["huber"](), GRID)


def test_a_delta_can_be_read():
    assert repr(Huber(0.5)) == "Huber(delta=0.5)"
    assert repr(NAMED["scaled_huber"]()) == "Huber(delta=open, scale=True)"
