"""Densities of states with an unknown zero of energy, against loops over structures, shifts and points."""

from itertools import pairwise
from math import inf

import ase.io
import numpy as np
import pytest
import torch

from pesloss.data import read
from pesloss.losses import Given, PerStructure, Property, PropertyTerm, TotalLoss
from pesloss.losses.residuals import Cumulative
from pesloss.losses.terms.dos import SLOPE, DOSTerm
from tests.batches import MISSING
from tests.laws import EXACT, assert_same
from tests.test_shared_data import shared

POINTS, EXTRA, SPACING = 12, 5, 0.3
WIDTH = 0.3  # eV, of a broadened level
DOS = Property("dos", shape=(POINTS,), unit="1/eV")
BOTH = {"gradient_weight": 0.07, "cumulative_weight": 0.4, "spacing": SPACING}
VARIANTS = {
    "trapezoid": {"extra": EXTRA},
    "trapezoid, no shift": {},
    "trapezoid, zeros": {"zeros": True},
    "sum, zeros": {"zeros": True, "method": "sum"},
    "sum, both": {"zeros": True, "method": "sum", "extra": 2},
    "per atom": {"extra": EXTRA, "per_atom": True},
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(label, **entries):
    return {"ptr": torch.arange(len(label) + 1) * 2, "dos": label, **entries}


def labels(seed=0):
    """Labels that end at some point, of which one has a hole and one is missing."""
    label = normal(6, POINTS, seed=seed)
    for structure in range(1, 5):
        label[structure, POINTS - structure :] = MISSING
    label[3, 4] = label[5] = MISSING
    return label


def value(prediction, label, prop=DOS, **options):
    entries = {key: options.pop(key) for key in ("dos_mask",) if key in options}
    return TotalLoss({"dos": DOSTerm(prop, **options)})({"dos": prediction}, batch_of(label, **entries))


def integral(values, method, spacing):
    if method == "sum":
        return sum(values)
    return sum(0.5 * spacing * (a + b) for a, b in pairwise(values))


def by_hand(p, t, *, zeros=False, extra=0, method="trapezoid", per_atom=False, spacing=SPACING, **weights):
    """Cost of one structure."""
    known, t = [bool(x == x) for x in t], [torch.where(x.isnan(), 0, x) for x in t]
    p = list(p)
    if per_atom:
        p, t = [x / 2 for x in p], [x / 2 for x in t]
    if zeros:
        none = [torch.zeros((), dtype=torch.float64)] * len(t)
        p = none + p + none
    costs = []
    for shift in range(len(p) - len(t) + 1):
        errors = [(p[shift + g] - t[g]) ** 2 * known[g] for g in range(len(t))]
        below = p[:shift] if method == "sum" else p[: shift + 1]
        costs.append(integral(errors, method, spacing) + integral([x**2 for x in below], method, spacing))
    shift = min(range(len(costs)), key=lambda s: costs[s].item())
    cost = costs[shift]
    rough = []
    for j in range(4, len(p)):
        slope = sum(c * p[j - 4 + k] for k, c in enumerate(SLOPE)) / spacing
        told = j < shift or (j - shift < len(t) and known[j - shift])
        rough.append(slope**2 * (not told))
    cost = cost + weights.get("gradient_weight", 0) * integral(rough, "trapezoid", spacing)
    errors = [(p[shift + g] - t[g]) * known[g] for g in range(len(t))]
    numbers = [integral(errors[: g + 1], "trapezoid", spacing) ** 2 * known[g] for g in range(1, len(t))]
    return cost + weights.get("cumulative_weight", 0) * integral(numbers, "trapezoid", spacing)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_loop_over_structures_shifts_and_points(variant, seed):
    options, label = {**VARIANTS[variant], **BOTH}, labels(seed)
    prediction = normal(6, POINTS + options.get("extra", 0), seed=seed + 10).requires_grad_()
    expected = sum(by_hand(prediction[i], label[i], **options) for i in range(5)) / 5
    found = value(prediction, label, **options)
    torch.testing.assert_close(found, expected, **EXACT)
    pulls = [torch.autograd.grad(each, prediction)[0] for each in (found, expected)]
    torch.testing.assert_close(*pulls, **EXACT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_finite_differences(variant):
    options = {**VARIANTS[variant], **BOTH}
    prediction, label = normal(3, POINTS + options.get("extra", 0), seed=10), labels()[[0, 3, 5]]
    assert torch.autograd.gradcheck(lambda p: value(p, label, **options), prediction.requires_grad_())


@pytest.mark.parametrize("shift", range(EXTRA + 1))
def test_the_zero_of_energy_does_not_matter(shift):
    """The same spectrum anywhere on a longer grid costs nothing and has no gradient."""
    label = torch.exp(-(torch.linspace(-4, 4, POINTS, dtype=torch.float64) ** 2)).expand(3, -1).clone()
    label[:, 0] = 0
    prediction = torch.zeros(3, POINTS + EXTRA, dtype=torch.float64)
    prediction[:, shift : shift + POINTS] = label
    prediction.requires_grad_()
    total = value(prediction, label, extra=EXTRA, cumulative_weight=1.0)
    (gradient,) = torch.autograd.grad(total, prediction)
    assert total < 1e-30 and bool((gradient.abs() < 1e-14).all())


@pytest.mark.parametrize("shift", [-7, -3, 0, 2, 7])
def test_with_zeros_any_shift_is_found(shift):
    label = torch.zeros(2, POINTS + 14, dtype=torch.float64)
    label[:, 8:17] = normal(2, 9).abs()
    moved = torch.roll(label, shift, 1)
    prop = Property("dos", shape=(POINTS + 14,))
    total = value(moved, label, prop, zeros=True, method="sum", **BOTH)
    assert total < 1e-25


def test_what_is_predicted_below_the_label_costs():
    """Not above it, where nothing is known."""
    label = torch.zeros(1, POINTS, dtype=torch.float64)
    label[:, 2:6] = 1
    prediction = torch.zeros(1, POINTS + EXTRA, dtype=torch.float64)
    prediction[:, EXTRA + 2 : EXTRA + 6] = 1
    below, above = prediction.clone(), torch.roll(prediction, -EXTRA, 1)
    below[:, 1], above[:, POINTS + 2] = 0.1, 5.0
    assert value(prediction, label, extra=EXTRA) == value(above, label, extra=EXTRA) == 0
    torch.testing.assert_close(value(below, label, extra=EXTRA, spacing=SPACING).item(), 0.01 * SPACING)


def test_a_mask_is_a_label_that_is_not_known():
    label, prediction = normal(6, POINTS), normal(6, POINTS + EXTRA, seed=1)
    mask = normal(6, POINTS, seed=2) < 0.5
    mask[4] = False
    expected = value(prediction, torch.where(mask, label, MISSING), extra=EXTRA, **BOTH)
    found = value(prediction, label, extra=EXTRA, mask=Given("dos_mask"), dos_mask=mask, **BOTH)
    torch.testing.assert_close(found, expected, **EXACT)
    rows = mask.any(1)
    expected = value(prediction[rows], label[rows], extra=EXTRA, **BOTH)
    found = value(prediction, label, extra=EXTRA, mask=Given("dos_mask"), dos_mask=rows, **BOTH)
    torch.testing.assert_close(found, expected, **EXACT)


def test_a_mask_fits_the_label():
    mask = torch.ones(6, POINTS + 1).bool()
    with pytest.raises(ValueError, match=r"Mask of 'dos' has shape \(6, 13\)"):
        value(normal(6, POINTS), labels(), mask=Given("dos_mask"), dos_mask=mask)


def test_points_in_front_of_a_padded_label_are_not_read():
    label, prediction = labels(), normal(6, POINTS + EXTRA, seed=1)
    padded = torch.cat([torch.full((6, EXTRA), 1e9, dtype=torch.float64), label], 1)
    prop = Property("dos", shape=(POINTS + EXTRA,))
    found = value(prediction, padded, prop, extra=EXTRA, padded=True, **BOTH)
    torch.testing.assert_close(found, value(prediction, label, extra=EXTRA, **BOTH), **EXACT)


def test_a_structure_without_any_known_point_does_not_count():
    label, prediction = labels(), normal(6, POINTS, seed=1)
    loss = TotalLoss({"dos": DOSTerm(DOS)})
    assert loss.step([batch_of(label)]).counts.tolist() == [5]
    spoilt = prediction.clone()
    spoilt[5] = float("nan")
    assert loss({"dos": spoilt}, batch_of(label)) == loss({"dos": prediction}, batch_of(label))


def test_a_point_that_is_not_finite_is_loud_wherever_it_is():
    label = labels()
    for place in range(POINTS + EXTRA):
        prediction = normal(6, POINTS + EXTRA, seed=1)
        prediction[4, place] = float("nan")
        assert not value(prediction, label, extra=EXTRA).isfinite()


def test_structures_may_be_weighted():
    label, prediction = labels(), normal(6, POINTS, seed=1)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    costs = [value(prediction[i : i + 1], label[i : i + 1]) for i in range(5)]
    expected = sum(float(weight[i]) * cost for i, cost in enumerate(costs)) / 4
    for reduction in ("mean", PerStructure()):
        loss = TotalLoss({"dos": DOSTerm(DOS, reduction=reduction)})
        found = loss({"dos": prediction}, batch_of(label, weight=weight))
        torch.testing.assert_close(found, expected, **EXACT)


def test_single_precision_finds_the_same_shift():
    """Squared differences of single precision would not see which of two close shifts is better."""
    label = 100 * torch.exp(-(torch.linspace(-3, 3, 200, dtype=torch.float64) ** 2))[None]
    term = DOSTerm(Property("dos", shape=(200,)), extra=20)
    prediction = torch.nn.functional.pad(label, (7, 13)) + 1e-4 * normal(1, 220)
    shifts = [term.shift(p, t, t == t) for p, t in ((prediction, label), (prediction.float(), label.float()))]
    assert [shift.item() for shift in shifts] == [7, 7]


def test_the_slope_is_exact_for_polynomials():
    x = torch.linspace(-1, 0, 5, dtype=torch.float64)
    for power in range(1, 5):
        slope = sum(c * (x[k] + 2) ** power for k, c in enumerate(SLOPE)) / 0.25
        torch.testing.assert_close(slope.item(), power * 2.0 ** (power - 1), **EXACT)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prop": Property("dos", shape=(4,))}, "5 points or more"),
        ({"prop": Property("dos", shape=(5, 5))}, "5 points or more"),
        ({"prop": Property("dos")}, "5 points or more"),
        ({"extra": 8, "padded": True}, "beyond the 8 padded ones"),
        ({"extra": -1}, "extra is a number of points"),
        ({"method": "trapez"}, "did you mean 'trapezoid'"),
        ({"spacing": 0.0}, "spacing must be finite and positive"),
        ({"gradient_weight": -1.0}, "gradient_weight must be finite and not negative"),
        ({"cumulative_weight": inf}, "cumulative_weight must be finite"),
    ],
)
def test_what_makes_no_sense_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        DOSTerm(options.pop("prop", DOS), **options)


def test_a_grid_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"'dos' has shape \(6, 12\), expected \(structures, 17\)"):
        value(normal(6, POINTS), labels(), extra=EXTRA)


def test_the_formula_says_every_number():
    said = DOSTerm(DOS, gradient_weight=0.125, cumulative_weight=0.375, spacing=0.75).formula()
    assert all(number in said for number in ("0.125", "0.375", "0.75"))


def silicon():
    """Densities of states of 32 atoms, eleven structures at 250 energies."""
    folder = shared("deepmd_examples/dos/data/heat-221")
    structures = read(folder, {"dos": Property("dos", shape=(250,))})
    return torch.from_numpy(np.array([s.labels["dos"] for s in structures])).double()


def metals():
    """Densities of states of gold and magnesium: broadened levels, as far up as all bands were computed."""
    edges = np.arange(-15, 15, 0.05)
    bell = np.exp(-0.5 * (np.arange(-30, 31) * 0.05 / WIDTH) ** 2)
    found = []
    for atoms in ase.io.read(shared("metatrain_small/DOS_structures.xyz.gz"), ":"):
        bands, weights = atoms.info["eigenvalues"], atoms.info["k-point weights"]
        weights = np.broadcast_to((2 / 0.05) * (weights / weights.sum())[:, None], bands.shape)
        number, _ = np.histogram(bands, edges, weights=weights)
        density = np.convolve(number, bell / bell.sum(), "same")
        found.append(np.where(edges[:-1] < bands[:, -1].min() - 3 * WIDTH, density, np.nan))
    return torch.from_numpy(np.array(found))


TERMS = {
    "mask": lambda prop: DOSTerm(prop, extra=20, **BOTH),
    "zeros": lambda prop: DOSTerm(prop, zeros=True, method="sum", gradient_weight=1e-4),
    "plain": PropertyTerm,
    "cumulative": lambda prop: PropertyTerm(prop, residual=Cumulative(0.05)),
}


@pytest.mark.parametrize("data", [silicon, metals])
@pytest.mark.parametrize("term", TERMS)
def test_real_densities_are_fitted(data, term):
    """A smooth parametrisation, one of each structure, started flat: within some steps the loss falls."""
    label = data()
    made = TERMS[term](Property("dos", shape=(label.shape[1],)))
    points = made.required["dos"].shape[0]
    centres = torch.linspace(0, points, 60, dtype=torch.float64)
    basis = torch.exp(-0.5 * ((torch.arange(points)[:, None] - centres) / (points / 60)) ** 2)
    theta = torch.full((len(label), 60), 0.1, dtype=torch.float64, requires_grad=True)
    loss, optimizer = TotalLoss({"dos": made}), torch.optim.Adam([theta], lr=0.3)
    totals = []
    for _ in range(80):
        optimizer.zero_grad()
        total = loss({"dos": theta @ basis.mT}, batch_of(label))
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.2 * totals[0]


@pytest.mark.parametrize("shift", [3, 11])
def test_real_densities_are_found_wherever_their_zero_is(shift):
    label = silicon()
    moved = torch.nn.functional.pad(label, (shift, 20 - shift))
    made = DOSTerm(Property("dos", shape=(250,)), extra=20)
    assert made.shift(moved, label, label == label).flatten().tolist() == [shift] * 11
    total = TotalLoss({"dos": made})({"dos": moved}, batch_of(label))
    assert_same([total], [torch.zeros((), dtype=torch.float64)])
