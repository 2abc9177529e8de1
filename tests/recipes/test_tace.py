"""TACE: the loss sections of its documentation, and learned weights as they move there."""

import pytest
import torch

from pesloss.losses import NormalLoss, UncertaintyLoss
from pesloss.losses.terms.conservative import CurlPenalty
from pesloss.losses.terms.denoising import DenoisingTerm
from pesloss.recipes import Recipe, from_config, load, node
from tests.batches import make
from tests.laws import assert_same, forward, leaves
from tests.parity.cases import cases_of
from tests.parity.peers.tace import FAMILIES

EXAMPLE = """
misc: {project_name: tace}
loss:
  _target_: tace.utils.loss.NormalLoss
  loss_property: [energy, forces, stress]
  loss_function_name:
    - mse_energy_per_atom
    - mse_forces
    - mse_stress
  loss_property_weights: [1.0, 5.0, 0.5]
  loss_huber_delta: [0.01, 0.01, 0.01]
"""
LISTS = {
    "loss_property": ["energy", "forces", "stress"],
    "loss_function_name": ["mse_energy_per_atom", "mse_forces", "mse_stress"],
    "loss_property_weights": [1, 8, 8],
}
LEARNED = {"_target_": "tace.utils.loss.UncertaintyLoss", **LISTS, "loss_property_weights": [1, 1, 1]}
CHARGES = {
    "loss": {
        "loss_property": ["energy", "forces", "charges"],
        "loss_function_name": ["mse_energy_per_atom", "mse_forces", "mse_charges"],
        "loss_property_weights": [1.0, 5.0, 1.0],
        "loss_huber_delta": [0.01, 0.01, 0.01],
    }
}
RESPONSE = {
    "loss_property": [
        *["energy", "forces", "stress", "polarization"],
        *["conservative_polarizability", "born_effective_charges"],
    ],
    "loss_function_name": [
        *["mse_energy_per_atom", "mse_forces", "mse_stress", "mse_polarization_per_atom"],
        *["mse_conservative_polarizability_per_atom", "mse_born_effective_charges"],
    ],
    "loss_property_weights": [1, 1, 1, 1, 1000, 1],
}
KEYS = ("property", "residual", "penalty")


def said(made):
    return {name: tuple(term[key] for key in KEYS) for name, term in made["terms"].items()}


def of_recipe(name):
    made = load(name)
    return {
        term: tuple(arguments.get(key, "difference") for key in KEYS)
        for term, arguments in made["terms"].items()
    }


@pytest.mark.parametrize(
    ("config", "recipe", "weights"),
    [
        (EXAMPLE, "tace_normal", [1.0, 5.0, 0.5]),
        (LISTS, "tace_normal", [1, 8, 8]),
        ({**LISTS, "loss_huber_delta": 0.01}, "tace_normal", [1, 8, 8]),
        (LEARNED, "tace_uncertainty", [1, 1, 1]),
        (CHARGES, "tace_charges", [1.0, 5.0, 1.0]),
    ],
)
def test_sections_of_its_documentation_are_its_recipes(config, recipe, weights):
    made = node("tace", config)
    assert said(made) == of_recipe(recipe)
    assert list(made["weights"].values()) == weights
    assert isinstance(from_config("tace", config), Recipe)


def test_electric_response():
    made = node("tace", RESPONSE)
    expected = of_recipe("tace_response")
    found = {name.removeprefix("conservative_"): parts for name, parts in said(made).items()}
    assert {name: parts[1:] for name, parts in found.items()} == {
        name: parts[1:] for name, parts in expected.items()
    }
    assert list(made["weights"].values()) == list(load("tace_response")["weights"].values())
    assert set(from_config("tace", RESPONSE).required) == set(RESPONSE["loss_property"])


def test_uncertainty_is_learned_as_there():
    assert isinstance(from_config("tace", LEARNED).weighting.log_variance, torch.nn.Parameter)
    assert from_config("tace", LEARNED).weighting.form == "tace"


@pytest.mark.parametrize("front", [NormalLoss, UncertaintyLoss])
def test_the_front_ends_take_the_same_lists(front):
    batch = make()
    predictions = leaves(batch)
    config = {"_target_": f"tace.utils.loss.{front.__name__}", **LISTS}
    form = {"form": "tace"} if front is UncertaintyLoss else {}
    assert_same(
        forward(from_config("tace", config), predictions, batch),
        forward(front(**LISTS, **form), predictions, batch),
    )


@pytest.mark.parametrize("penalty", FAMILIES)
def test_the_front_ends_know_every_function(penalty):
    lists = {key: value for key, value in FAMILIES[penalty].items() if key != "_target_"}
    drawn = cases_of("tace")[f"every_{penalty}"].drawing.draw(0)
    expected = forward(from_config("tace", lists), drawn.predictions, drawn.batch)
    assert_same(forward(NormalLoss(**lists), drawn.predictions, drawn.batch), expected)


def test_learned_weights_move_as_in_tace():
    """Figures of TACE 0.2.4: slopes of log sigmas at the start; these and the total after 3 steps of Adam."""
    case = cases_of("tace")["uncertainty_mixed"]
    drawn = case.drawing.draw(0)
    predictions = {name: prediction.detach() for name, prediction in drawn.predictions.items()}
    loss = from_config(*case.config)
    (learned,) = loss.parameters()
    optimizer = torch.optim.Adam(loss.parameter_groups(), lr=0.1)
    loss(predictions, drawn.batch).backward()
    slopes = [0.6112389570599506, 0.9708220846240266, -17.85232377413505, -2.587466775604692]
    torch.testing.assert_close(
        learned.grad, torch.tensor(slopes, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    for _ in range(3):
        optimizer.zero_grad()
        loss(predictions, drawn.batch).backward()
        optimizer.step()
    after = [-0.29904598419581496, -1.9094059602945292, -1.8987426601381256, -0.8008992604422125]
    torch.testing.assert_close(
        learned.detach(), torch.tensor(after, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    total = torch.tensor(12.306671581537788, dtype=torch.float64)
    torch.testing.assert_close(loss(predictions, drawn.batch).detach(), total, rtol=1e-12, atol=1e-12)


def test_functions_alone_say_their_properties():
    config = {**LISTS, "loss_property": ["energy"]}
    assert said(node("tace", config)) == of_recipe("tace_normal")
    with pytest.raises(ValueError, match="loss_property 1, loss_function_name 3"):
        node("tace", {**config, "_target_": "tace.utils.loss.UncertaintyLoss"})


def test_deltas_by_function():
    config = {
        **LISTS,
        "loss_function_name": ["huber_energy_per_atom", "conditional_huber_forces", "mse_voigt_stress"],
        "loss_function_kwargs": [{"huber_delta": 0.2}, None, {}],
    }
    made = node("tace", config)
    assert made["huber_delta"] == {"energy": 0.2, "forces": 0.01}
    assert made["terms"]["forces"]["penalty"] == "conditional_huber"
    assert made["terms"]["stress"]["residual"] == "voigt"


def test_normalized_weights_add_up_to_one():
    config = {**LISTS, "normalize": True}
    assert sum(node("tace", config)["weights"].values()) == pytest.approx(1.0)


def test_denoising_and_curl_are_terms_of_their_own():
    config = {
        "loss_property": ["direct_forces", "direct_forces", "stress"],
        "loss_function_name": ["l2mae_dens_direct_forces", "mse_direct_forces_curl", "mae_dens_stress"],
        "loss_property_weights": [10, 0.1, 1],
        "loss_function_kwargs": [{"dens_loss_ratio": 0.2}, None, None],
    }
    loss = from_config("tace", config)
    assert isinstance(loss.by_name["direct_forces"], DenoisingTerm)
    assert loss.by_name["direct_forces"].ratio == 0.2
    assert isinstance(loss.by_name["mse_direct_forces_curl"], CurlPenalty)
    assert set(loss.required) == {"direct_forces", "noise_vec", "stress"}
    assert list(node("tace", config)["weights"].values()) == [10, 1, 0.1]


def test_clean_structures_are_those_without_noise():
    config = {
        "loss_property": ["stress"],
        "loss_function_name": ["mse_dens_stress"],
        "loss_property_weights": [1],
    }
    batch = make()
    num = batch["ptr"].shape[0] - 1
    noisy = torch.arange(num) % 2 == 0
    hidden = {**batch, "stress": batch["stress"].masked_fill(noisy[:, None, None], torch.nan)}
    predictions = leaves(batch)
    loss = from_config("tace", config)
    found = forward(loss, predictions, {**batch, "dens_batch_mask": noisy})
    assert_same(found, forward(loss, predictions, hidden))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss_propertys": []}, "did you mean 'loss_property'"),
        ({"_target_": "tace.utils.loss.NormalLos"}, "did you mean 'NormalLoss'"),
        ({"loss_property": "energy"}, "loss_property must be a list"),
        ({"loss_function_name": ["mse_energy_per_atom", "mse_forcs", "mse_stress"]}, "is of 'forcs'"),
        ({"loss_function_name": ["mze_energy_per_atom", "mse_forces", "mse_stress"]}, "did you mean 'mse'"),
        ({"loss_property_weights": [1, 2]}, "loss_property_weights 2"),
        ({"loss_function_kwargs": [{"huber_delta": 0.1}, None, None]}, "Unknown argument 'huber_delta'"),
        ({"loss_function_kwargs": [None, {"element_weights": [1, 2]}, None]}, "'atom_weight'"),
        (
            {"loss_function_kwargs": [None, {"dens_loss_ratio": 1}, None]},
            "Unknown argument 'dens_loss_ratio'",
        ),
    ],
)
def test_sections_that_do_not_fit(changed, message):
    with pytest.raises(ValueError, match=message):
        node("tace", {**LISTS, **changed})


def test_a_negative_share_of_the_noise_is_refused():
    config = {
        "loss_property": ["forces"],
        "loss_function_name": ["mse_dens_forces"],
        "loss_property_weights": [1],
        "loss_function_kwargs": [{"dens_loss_ratio": -1}],
    }
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        node("tace", config)
