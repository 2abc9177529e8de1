"""orb-models: settings of its regressors and of its fine-tuning script."""

from math import sqrt

import pytest
import torch

import pesloss
from pesloss.losses.terms.conservative import RotationPenalty
from pesloss.recipes import from_config, load, node
from tests.batches import make
from tests.laws import assert_same, forward, leaves

FINE_TUNED = {
    "energy_loss_weight": 0.01,
    "forces_loss_weight": 1.0,
    "stress_loss_weight": 0.1,
    "equigrad_loss_weight": 0.0001,
    "base_model": "orb_v3_conservative_inf_omat",
}
WEIGHTS = {"energy": 0.5, "grad_forces": 3.0, "grad_stress": 0.1}
HEADS = {
    "energy": {"latent_dim": 256, "num_mlp_layers": 1, "mlp_hidden_dim": 256},
    "forces": {},
    "stress": {},
}


def weights(loss):
    return dict(zip(loss.weighting.names, loss.weighting.prior.tolist(), strict=True))


def same(config, name):
    batch = make()
    loss, recipe = from_config("orb", config), pesloss.build(load(name))
    assert weights(loss) == weights(recipe)
    assert_same(forward(loss, leaves(batch), batch), forward(recipe, leaves(batch), batch))


def test_the_defaults_are_recipes():
    same({}, "orb_conservative")
    same({"energy": 1.0, "grad_forces": 1.0, "grad_stress": 1.0}, "orb_conservative")
    same({"heads": HEADS}, "orb_direct")
    same({"base_model": "orb_v3_direct_20_omat"}, "orb_direct")


def test_flags_of_the_fine_tuning_script():
    found = weights(from_config("orb", FINE_TUNED))
    expected = {"energy": 0.01, "forces": 1.0, "stress": 0.1, "equigrad": sqrt(2) * 0.0001}
    assert found == pytest.approx(expected)
    assert "stress" not in from_config("orb", FINE_TUNED | {"stress_loss_weight": 0.0}).required
    direct = {"energy_loss_weight": 2.0, "forces_loss_weight": 3.0, "base_model": "orb_v3_direct_inf_mpa"}
    expected = {"energy": 2.0, "forces": 3.0, "stress_diagonal": 1.0, "stress_off_diagonal": 0.1}
    assert weights(from_config("orb", direct)) == pytest.approx(expected)


def test_weights_alone_are_a_config():
    assert node("orb", WEIGHTS) == node("orb", {"loss_weights": WEIGHTS})
    of_theory = {"energy-d3": 0.5, "grad_forces-d3": 3.0, "grad_stress-d3": 0.1}
    config = {"loss_weights": of_theory, "level_of_theory": "d3"}
    assert node("orb", config) == node("orb", WEIGHTS)


def test_strata_are_in_units_of_the_standard_deviation():
    made = node("orb", WEIGHTS, stds={"forces": 2.5})
    forces = made["terms"]["forces"]
    assert forces["penalty"]["thresholds"] == [250.0, 500.0, 750.0]
    assert forces["residual"]["scale"] == 2.5
    assert made["huber_delta"] == {"energy": 0.01, "forces": 0.01, "stress": 0.01}


def test_forces_without_strata_are_averaged_by_structure():
    for kind, penalty in (("mae", "Absolute"), ("mse", "Squared"), ("huber_0.3", "Huber")):
        forces = node("orb", {"forces_loss_type": kind})["terms"]["forces"]
        assert forces["reduction"] == "per_structure"
        assert forces["penalty"]["_target_"].endswith(penalty)


def test_energies_are_in_units_of_their_reference():
    whole = {"heads": {"energy": {"predict_atom_avg": False, "reference_energy": "mp-traj-d3"}}}
    energy = node("orb", whole)["terms"]["energy"]
    assert energy["residual"]["residual"] == "difference"
    assert energy["residual"]["scale"] == pytest.approx(22.456, abs=1e-3)
    assert from_config("orb", {}).terms["energy"].residual.formula("energy").startswith("[Δenergy / N] / σ")


def test_the_target_says_what_a_regressor_is():
    module = "orb_models.forcefield"
    config = {"_target_": f"{module}.conservative_regressor.ConservativeForcefieldRegressor", "heads": HEADS}
    assert "direct_forces" in from_config("orb", config).required
    config["_target_"] = f"{module}.direct_regressor.DirectForcefieldRegressor"
    assert "direct_forces" not in from_config("orb", config).required


def test_heads_of_their_own_learn_from_the_gradient():
    config = {"heads": {"energy": {}, "forces": {}}, "distill_direct_heads": True}
    loss = from_config("orb", config)
    batch = make()
    predictions = leaves(batch)
    predictions["direct_forces"] = predictions["forces"].detach().clone().requires_grad_()
    values = loss.evaluate(predictions, batch).values
    assert values["direct_forces"] == 0 and values["forces"] > 0


def test_equigrad_is_the_norm_of_the_derivative_by_a_matrix():
    batch = make((3, 2, 4), weights=False)
    source = torch.Generator().manual_seed(5)
    batch["positions"] = torch.randn(9, 3, generator=source, dtype=torch.float64)
    batch["cell"] = torch.randn(3, 3, 3, generator=source, dtype=torch.float64)
    axis = torch.randn(3, generator=source, dtype=torch.float64)

    def energy(positions, cell):
        atoms = (positions @ axis).sin()  # an energy that knows a direction
        return atoms.new_zeros(3).index_add(0, batch["batch"], atoms) + (cell @ axis).square().sum(1)

    generator = torch.zeros(3, 3, 3, dtype=torch.float64, requires_grad=True)
    turn = torch.matrix_exp(generator - generator.mT)
    turned = (turn[batch["batch"]] @ batch["positions"][..., None])[..., 0]
    made = energy(turned, batch["cell"] @ turn.mT)
    (by_matrix,) = torch.autograd.grad(made.sum(), generator)
    equigrad = torch.linalg.norm(by_matrix, dim=(1, 2)).mean()

    loss = from_config("orb", {"energy": 1.0, "grad_forces": 1.0, "grad_stress": 1.0, "rotational_grad": 1.0})
    assert isinstance(loss.terms["equigrad"], RotationPenalty)
    batch = loss.prepare(batch)
    predictions = {**leaves(batch), "energy": energy(batch["positions"], batch["cell"])}
    output = loss.evaluate(predictions, batch)
    torch.testing.assert_close(output.weights["equigrad"] * output.values["equigrad"], equigrad)


def test_a_confidence_head_is_a_term():
    head = {"num_bins": 7, "max_error": 1.2, "binning_scale": "exponential", "hard_clamp": False}
    loss = from_config(
        "orb", {"heads": {"energy": {}, "confidence": head}, "loss_weights": {"confidence": 2.0}}
    )
    assert weights(loss)["confidence"] == 2.0
    assert loss.required["forces_confidence"].shape == (7,)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss_weight": WEIGHTS}, "Unknown key 'loss_weight'; did you mean 'loss_weights'"),
        ({"loss_weights": {"grad_force": 1.0}}, "Unknown key 'grad_force'; did you mean 'grad_forces'"),
        ({"heads": {"enrgy": {}}}, "heads: Unknown key 'enrgy'; did you mean 'energy'"),
        ({"heads": {"energy": {"loss": "mae"}}}, "heads.energy: Unknown key 'loss'"),
        ({"heads": {"energy": {"loss_type": "hubr_0.01"}}}, "Unknown key 'hubr'; did you mean 'huber'"),
        ({"heads": {"energy": {"loss_type": "condhuber_0.01"}}}, "Unknown key 'condhuber'"),
        ({"heads": {"energy": {"loss_type": "huber"}}}, "'huber' needs a number, such as 'huber_0.01'"),
        ({"heads": {"energy": {"reference_energy": "vsap"}}}, "Unknown key 'vsap'; did you mean 'vasp'"),
        ({"loss_weights": {"grad_forces": 1.0, "confidence": 1.0}}, "confidence needs a head 'confidence'"),
        ({"heads": HEADS, "loss_weights": {"grad_stress": 1.0}, "stds": {}}, "Unknown key 'stds'"),
        ({"heads": HEADS, "distill_direct_heads": True}, "a stress head learns from labels only"),
        ({"energy_loss_weight": 1.0, "lr": 1.0}, "finetune.py: Unknown key 'lr'"),
        ([1.0], "must be a mapping"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        from_config("orb", config)


def test_standard_deviations_are_of_terms():
    with pytest.raises(ValueError, match="stds: Unknown key 'force'; did you mean 'forces'"):
        from_config("orb", WEIGHTS, stds={"force": 1.0})
