"""The two front ends, with terms and with the flat lists of TACE."""

import pytest
import torch

from pesloss.losses import PROPERTIES, Huber, NormalLoss, PropertyTerm, TotalLoss, UncertaintyLoss
from pesloss.losses.flat import PENALTIES as FLAT_PENALTIES
from tests.batches import make
from tests.laws import assert_same, forward, leaves

FLAT = {
    "loss_property": ["energy", "forces", "stress"],
    "loss_function_name": ["huber_energy_per_atom", "huber_forces", "huber_voigt_stress"],
    "loss_property_weights": [1, 5.0, 0.3],
}
FRONTS = [NormalLoss, UncertaintyLoss]


def spelt_out(deltas):
    return {
        "energy": PropertyTerm("energy", residual="per_atom", penalty=Huber(deltas[0]), weight=1),
        "forces": PropertyTerm("forces", penalty=Huber(deltas[1]), weight=5.0),
        "stress": PropertyTerm("stress", residual="voigt", penalty=Huber(deltas[2]), weight=0.3),
    }


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("delta", [0.3, 1, [0.1, 0.2, 3]], ids=str)
def test_flat_lists_are_the_parts_spelt_out(front, delta):
    batch = make()
    predictions = leaves(batch)
    renamed = {("entropy" if key == "weight" else key): value for key, value in batch.items()}
    deltas = delta if isinstance(delta, list) else [delta] * 3
    found = forward(front(**FLAT, loss_huber_delta=delta), predictions, renamed)
    assert_same(found, forward(front(spelt_out(deltas)), predictions, batch))


def test_the_delta_that_is_not_given_is_a_hundredth():
    assert float(NormalLoss(**FLAT).by_name["forces"].penalty.delta) == 0.01


@pytest.mark.parametrize("penalty", FLAT_PENALTIES)
@pytest.mark.parametrize("prop", PROPERTIES)
def test_every_penalty_of_every_property_has_a_flat_name(penalty, prop):
    flat = NormalLoss(loss_property=[prop], loss_function_name=[f"{penalty}_{prop}"])
    assert flat.required == {prop: PROPERTIES[prop]}
    assert isinstance(flat.by_name[prop].penalty, FLAT_PENALTIES[penalty])


@pytest.mark.parametrize("key", ["virials", "direct_forces", "conservative_dipole"])
def test_properties_keep_the_keys_of_their_code(key):
    assert set(NormalLoss(loss_property=[key], loss_function_name=[f"mse_{key}"]).required) == {key}


def test_the_front_ends_take_terms():
    batch = make()
    predictions = leaves(batch)
    expected = forward(TotalLoss(spelt_out([0.1] * 3)), predictions, batch)
    assert_same(forward(NormalLoss(spelt_out([0.1] * 3)), predictions, batch), expected)


def test_normalized_weights_add_up_to_one():
    batch = make()
    output = NormalLoss(**FLAT, normalize=True).evaluate(leaves(batch), batch)
    torch.testing.assert_close(sum(output.weights.values()), torch.tensor(1.0).double())
    torch.testing.assert_close(
        output.weights["forces"] / output.weights["stress"], torch.tensor(5 / 0.3).double()
    )


def test_a_property_named_twice_has_two_terms():
    loss = NormalLoss(
        loss_property=["energy", "energy"], loss_function_name=["mse_energy", "mae_energy_per_atom"]
    )
    assert set(loss.by_name) == {"mse_energy", "mae_energy_per_atom"}


def test_a_term_of_weight_zero_is_left_out():
    assert set(UncertaintyLoss(**{**FLAT, "loss_property_weights": [1, 0, 1]}).by_name) == {
        "energy",
        "stress",
    }


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"loss_property": ["energy", "forces"]}, ValueError, "loss_property 2, loss_function_name 3"),
        ({"loss_property_weights": [1, 2]}, ValueError, "loss_property_weights 2"),
        ({"loss_huber_delta": [0.1]}, ValueError, "loss_huber_delta 1"),
        ({"loss_huber_delta": 0.0}, ValueError, "finite delta > 0"),
        ({"loss_huber_delta": [0.1, None, 0.1]}, ValueError, "without a delta"),
        (
            {"loss_property": ["forces", "energy", "stress"]},
            ValueError,
            "is of 'energy', but stands at .* 'forces'",
        ),
        (
            {"loss_function_name": ["hubr_energy", "mse_forces", "mse_stress"]},
            ValueError,
            "did you mean 'huber'",
        ),
        (
            {"loss_function_name": ["mse_energy_per_atm", "mse_forces", "mse_stress"]},
            ValueError,
            "energy_per_atm",
        ),
        (
            {"loss_function_name": ["mse_energy", "mse_forces", "mse_voigt_stress_per_atom"]},
            ValueError,
            "both voigt",
        ),
        ({"loss_property": None}, TypeError, "need both"),
        ({"loss_property_weights": [1, -1, 1]}, ValueError, "not negative"),
        ({"terms": {"energy": {}}}, TypeError, "not both"),
        ({"huber_delt": 1}, TypeError, "did you mean 'huber_delta'"),
    ],
)
def test_flat_lists_that_do_not_fit(front, changed, error, message):
    with pytest.raises(error, match=message):
        front(**{**FLAT, **changed})


def test_the_same_function_twice_is_refused():
    with pytest.raises(ValueError, match="'mse_energy' is there twice"):
        NormalLoss(loss_property=["energy"] * 2, loss_function_name=["mse_energy"] * 2)


def test_an_unknown_property_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'energy'"):
        NormalLoss(loss_property=["enrgy"], loss_function_name=["mse_enrgy"])


@pytest.mark.parametrize("front", FRONTS)
def test_a_loss_needs_terms(front):
    with pytest.raises(TypeError, match="Give 'terms', or the flat lists"):
        front()


def test_learned_weights_are_a_weighting_already():
    with pytest.raises(TypeError, match="is a weighting already"):
        UncertaintyLoss({"energy": {}}, weighting="fixed")


@pytest.mark.parametrize("front", FRONTS)
def test_the_weight_of_a_structure_is_its_entropy_times_its_weight(front):
    batch = make()
    predictions = leaves(batch)
    both = {**batch, "entropy": batch["weight"].roll(1)}
    found = forward(front(**FLAT), predictions, both)
    expected = front(**FLAT, structure_weight="weight")
    product = {**batch, "weight": both["entropy"] * both["weight"]}
    assert_same(found, forward(expected, predictions, product))


def test_deltas_in_the_newer_spelling_of_tace():
    deltas = [{"huber_delta": 0.1}, None, {"huber_delta": 0.3}]
    loss = NormalLoss(**FLAT, loss_function_kwargs=deltas)
    expected = NormalLoss(**FLAT, loss_huber_delta=[0.1, 0.01, 0.3])
    assert str(loss) == str(expected)
    with pytest.raises(ValueError, match="Unknown argument 'delta'; did you mean 'huber_delta'"):
        NormalLoss(**FLAT, loss_function_kwargs=[{"delta": 0.1}, None, None])
    with pytest.raises(TypeError, match="not both"):
        NormalLoss(**FLAT, loss_huber_delta=0.1, loss_function_kwargs=deltas)


def test_a_flat_delta_without_flat_lists_is_an_error():
    with pytest.raises(TypeError, match="go with flat lists"):
        NormalLoss({"forces": {"penalty": "huber"}}, loss_huber_delta=0.1)
