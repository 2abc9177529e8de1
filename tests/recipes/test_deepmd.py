import json

import numpy as np
import pytest
import torch

from pesloss.losses import TotalLoss
from pesloss.recipes import from_config, node
from pesloss.recipes.deepmd import DEFAULTS, OverDeviation, PopulationTerm
from pesloss.recipes.deepmd_parts import COMBINATIONS
from tests.batches import make, take
from tests.laws import accumulated, assert_same, value_and_gradients
from tests.parity.drawing import Drawing

EFV = {"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1}
NO_VIRIAL = {"start_pref_v": 0, "limit_pref_v": 0}
DPA4 = {"loss_func": "mae", "f_use_norm": True, "start_pref_e": 20, "limit_pref_e": 20}
DPA4_FORCES = {"start_pref_f": 20, "limit_pref_f": 20}
SPIN = {
    "type": "ener_spin",
    "start_pref_e": 0.02,
    "limit_pref_e": 1,
    "start_pref_fr": 1000,
    "limit_pref_fr": 1.0,
}
POPULATION = {
    "type": "population",
    **{f"{when}_pref_spin": 1 for when in ("start", "limit")},
    **{f"{when}_pref_spin_total": 1 for when in ("start", "limit")},
    "start_pref_pop": 1000,
    "limit_pref_pop": 1,
    "loss_func": "mae",
    "metric": ["mae"],
}

DOCUMENTED = {
    "train-energy": ({**EFV, **NO_VIRIAL, "loss_func": "mse", "intensive_ener_virial": False}, {}),
    "train-energy, pf": (
        {**EFV, **NO_VIRIAL, "start_pref_pf": 1.0, "limit_pref_pf": 1.0, "use_default_pf": True},
        {},
    ),
    "train-energy-hessian": ({"type": "ener", **EFV, **NO_VIRIAL, "start_pref_h": 10, "limit_pref_h": 1}, {}),
    "train-energy-spin": (
        {**SPIN, "start_pref_fm": 10000, "limit_pref_fm": 10.0, **NO_VIRIAL, "loss_func": "mse"},
        {},
    ),
    "train-fitting-dos": (
        {"type": "dos", **{f"{w}_pref_{t}": 0.0 for w in ("start", "limit") for t in ("dos", "cdf", "acdf")}},
        {"numb_dos": 250},
    ),
    "train-fitting-tensor": ({"type": "tensor", "pref": 1.0, "pref_atomic": 1.0}, {"tensor": "polar"}),
    "train-fitting-property": (
        {"type": "property", "metric": ["mae"], "loss_func": "smooth_mae"},
        {"property_name": "band_prop", "task_dim": 3, "intensive": True},
    ),
    "train-fitting-population": (POPULATION, {}),
    "dprc/generalized_force": (
        {"type": "ener", **EFV, "start_pref_gf": 10, "limit_pref_gf": 100, "numb_generalized_coord": 1},
        {},
    ),
    "water/dpa3": (
        {"type": "ener", "start_pref_e": 0.2, "limit_pref_e": 20, "start_pref_f": 100, "limit_pref_f": 60}
        | {"start_pref_v": 0.02, "limit_pref_v": 1, "_comment": " that's all"},
        {},
    ),
    "water/dpa4": ({"type": "ener", **DPA4, **DPA4_FORCES, "start_pref_v": 5, "limit_pref_v": 5}, {}),
    "water/dpa4, dens": (
        {"type": "dens", "loss_func": "mae", "start_pref_e": 20, "limit_pref_e": 20, **DPA4_FORCES}
        | {"dens_prob": 0.5, "dens_std": 0.025, "dens_corrupt_ratio": 0.5}
        | {"dens_denoising_pos_coefficient": 10.0},
        {},
    ),
    "water/dplr, dw": ({"type": "tensor", "pref": 0.0, "pref_atomic": 1.0}, {"tensor": "dipole"}),
    "nothing": ({}, {}),
}
PREDICTED = {
    "train-energy": ["energy", "forces"],
    "train-energy, pf": ["energy", "forces"],
    "train-energy-hessian": ["energy", "forces", "hessian"],
    "train-energy-spin": ["energy", "forces", "noncollinear_magnetic_forces"],
    "train-fitting-dos": ["atomic_dos"],
    "train-fitting-tensor": ["polarizability", "atomic_polarizability"],
    "train-fitting-property": ["band_prop"],
    "train-fitting-population": ["populations"],
    "dprc/generalized_force": ["energy", "forces"],
    "water/dpa3": ["energy", "forces", "virial"],
    "water/dpa4": ["energy", "forces", "virial"],
    "water/dpa4, dens": ["energy", "forces", "denoising"],
    "water/dplr, dw": ["atomic_dipole"],
    "nothing": ["energy", "forces"],
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_loss_is_one_of_ours(name):
    config, options = DOCUMENTED[name]
    for faithful in (False, True):
        loss = from_config("deepmd", config, faithful=faithful, **options)
        assert list(loss.required) == PREDICTED[name]


def test_json_text_is_read():
    text = json.dumps({"type": "ener", **EFV})
    assert node("deepmd", text) == node("deepmd", EFV)


def test_the_old_name_of_the_hessian_loss():
    assert node("deepmd", {"type": "ener_hess", **EFV}) == node("deepmd", EFV)


def test_a_whole_input_says_what_the_fitting_net_knows():
    whole = {
        "model": {"fitting_net": {"type": "dos", "numb_dos": 5, "neuron": [120]}},
        "loss": {"type": "dos", "start_pref_dos": 1.0, "limit_pref_dos": 1.0},
        "learning_rate": {"start_lr": 1e-3},
    }
    assert from_config("deepmd", whole).required["dos"].shape == (5,)
    dipole = {
        "model": {"fitting_net": {"type": "dipole"}},
        "loss": {"type": "tensor", "pref": 1, "pref_atomic": 0},
    }
    assert list(from_config("deepmd", dipole).required) == ["dipole"]


def test_weights_follow_the_learning_rate():
    drawn = Drawing(labels=("energy", "forces", "virial")).draw(3)
    config = {**EFV, "start_pref_v": 0.5, "limit_pref_v": 0.5}
    loss = from_config("deepmd", config)
    for rate in (1.0, 0.3, 0.0):
        loss.advance(learning_rate=rate)
        found = loss.evaluate(drawn.predictions, drawn.batch)
        expected = {"energy": 1 + (0.02 - 1) * rate, "forces": 1 + 999 * rate, "virial": 0.5}
        assert {name: float(w) for name, w in found.weights.items()} == pytest.approx(expected, rel=1e-14)
        fixed = from_config("deepmd", config, learning_rate=rate)(drawn.predictions, drawn.batch)
        torch.testing.assert_close(found.total, fixed, rtol=1e-14, atol=0)


def test_a_weight_that_starts_at_zero_rises_unless_faithful():
    config = {**EFV, "start_pref_v": 0.0, "limit_pref_v": 4.0}
    loss = from_config("deepmd", config)
    loss.advance(learning_rate=0.25)
    weight = loss.weighting.current[list(loss.by_name).index("virial")]
    assert float(weight) == pytest.approx(3.0)
    assert "virial" not in from_config("deepmd", config, faithful=True).by_name
    assert "never there" in from_config("deepmd", config).because
    hessian = {**EFV, "start_pref_h": 0.0, "limit_pref_h": 4.0}
    assert "hessian" in from_config("deepmd", hessian, faithful=True).by_name


@pytest.mark.parametrize(
    ("config", "options", "match"),
    [
        ({"start_perf_e": 1}, {}, "type ener: Unknown key 'start_perf_e'; did you mean 'start_pref_e'"),
        ({"type": "enr"}, {}, "Unknown type 'enr'; did you mean 'ener'"),
        ({"loss_func": "maee"}, {}, "Unknown error 'maee'; did you mean 'mae'"),
        ({"loss_dict": {"water_1": {}, "water_2": {}}}, {}, "one of loss_dict: water_1, water_2"),
        ({"f_use_norm": True}, {}, "f_use_norm needs loss_func: mae or use_huber"),
        ({"use_huber": True, "relative_f": 1.0}, {}, "no Huber errors of relative forces"),
        ({"use_huber": True, "start_pref_h": 1.0}, {}, "nor beside start_pref_pf"),
        ({"use_huber": True, "huber_delta": [0.1, 0.2]}, {}, "three for energy, forces and virial"),
        ({"type": "ener_spin", "relative_f": 1.0}, {}, "does nothing with it"),
        ({"type": "ener_spin", "start_pref_pf": 1.0}, {}, "does nothing with it"),
        ({"type": "dens"}, {}, "start_pref_f and limit_pref_f differ"),
        ({"type": "dens", **DPA4_FORCES, "dens_fixed_noise_std": False}, {}, "takes only true"),
        ({"type": "dos"}, {}, "needs the number of grid points: give numb_dos"),
        ({"type": "dos"}, {"num_dos": 3}, "Unknown key 'num_dos'; did you mean 'numb_dos'"),
        ({"type": "tensor", "pref": 1.0}, {"tensor": "dipole"}, "needs 'pref_atomic'"),
        ({"type": "tensor", "pref": 1.0, "pref_atomic": 1.0}, {"tensor": "polr"}, "did you mean 'polar'"),
        ({"type": "property"}, {}, "give property_name"),
        (
            {"type": "property", "loss_func": "mape"},
            {"property_name": "x"},
            "mape is of intensive properties",
        ),
        ({"type": "property", "loss_func": "rms"}, {"property_name": "x"}, "did you mean 'rmse'"),
        ({"type": "population", "loss_func": "rmse"}, {}, "a root of a mean times the number of entries"),
        ("just text", {}, "must be a mapping"),
    ],
)
def test_errors_name_what_was_found_and_what_is_accepted(config, options, match):
    with pytest.raises(ValueError, match=match):
        node("deepmd", config, **options)


def test_every_default_is_a_key_of_its_type():
    for kind, keys in DEFAULTS.items():
        assert keys
        assert all("_" in key or key in ("pref", "metric", "beta") for key in keys), kind


def _populations(missing=()):
    drawn = Drawing(labels=("populations",), shapes={"populations": ("atom", (2,))}).draw(1)
    for atom, spin in missing:
        drawn.batch["populations"][atom, spin] = torch.nan
    return drawn


@pytest.mark.parametrize(
    ("of", "combine", "total"),
    [
        ("spins", lambda p: (p[:, 0] - p[:, 1])[:, None], False),
        ("populations", lambda p: p, False),
        ("total_spin", lambda p: (p[:, 0] - p[:, 1])[:, None], True),
        ("total_up", lambda p: p[:, :1], True),
        ("total_down", lambda p: p[:, 1:], True),
    ],
)
def test_populations_equal_a_loop_over_structures(of, combine, total):
    drawn = _populations(missing=[(5, 0)])
    drawn.batch["weight"] = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    expected = 0.0
    sizes = drawn.num_atoms.tolist()
    parts = zip(
        drawn.predictions["populations"].split(sizes), drawn.batch["populations"].split(sizes), strict=True
    )
    for weight, (made, label) in zip(drawn.batch["weight"].tolist(), parts, strict=True):
        difference = (combine(made) - combine(label)).detach().numpy()
        if total:
            expected += weight * np.nan_to_num(np.abs(difference.sum(0)), nan=0.0).sum()
        else:
            expected += weight * np.nansum(np.abs(difference)) / len(made)
    term = PopulationTerm(of)
    sums, (counts, _) = term.measure(drawn.predictions, drawn.batch)
    value = term.value(sums, counts)
    assert value.item() == pytest.approx(expected, rel=1e-13)
    (gradient,) = torch.autograd.grad(value, drawn.predictions["populations"])
    assert bool(gradient.isfinite().all())


def test_splitting_the_batch_changes_nothing():
    loss = TotalLoss({of: PopulationTerm(of, penalty="squared") for of in COMBINATIONS})
    batch = make()
    parts = [take(batch, [0, 1, 2, 3, 4]), take(batch, [5, 6, 7])]
    assert_same(accumulated(loss, parts), value_and_gradients(loss, batch))


def test_populations_without_labels_are_zero():
    drawn = _populations()
    del drawn.batch["populations"]
    sums, (_, labels) = PopulationTerm("total_spin").measure(drawn.predictions, drawn.batch)
    assert sums.item() == 0
    assert labels.item() == 0


def test_populations_name_what_they_can_be():
    with pytest.raises(ValueError, match="Unknown quantity made of populations 'spin'; did you mean 'spins'"):
        PopulationTerm("spin")


def test_deviations_are_those_of_the_training_labels():
    labels = torch.tensor([[1.0, 5.0], [2.0, 5.0], [4.0, torch.nan]], dtype=torch.float64)
    residual = OverDeviation(components=2)
    with pytest.raises(ValueError, match="no σ yet"):
        residual(labels, labels, {})
    for row in labels:
        residual.fit(row[None], {})
    residual.fitted()
    torch.testing.assert_close(residual.sigma, torch.tensor([np.std([1, 2, 4]), 1.0], dtype=torch.float64))
    again = OverDeviation(components=2)
    again.load_state_dict(residual.state_dict())
    assert not again.needs_fit
    torch.testing.assert_close(again(labels[:2], 0 * labels[:2], {}), labels[:2] / residual.sigma)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"deviation": [1.0, 0.0]}, "finite deviations > 0"), ({"deviation": [1.0]}, "for entries of shape")],
)
def test_deviations_fit_the_property(options, match):
    with pytest.raises(ValueError, match=match):
        OverDeviation(**options).entry_shape(from_config(*_property()).required["x"])


def test_deviations_need_a_label():
    residual = OverDeviation()
    residual.fit(torch.full((2, 1), torch.nan), {})
    with pytest.raises(ValueError, match="no label to fit"):
        residual.fitted()


def _property():
    whole = {"model": {"fitting_net": {"property_name": "x", "task_dim": 2}}, "loss": {"type": "property"}}
    return "deepmd", whole
