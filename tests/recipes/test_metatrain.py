"""metatrain: every loss section of its documentation, with the targets that it is of."""

import pytest
import torch

from pesloss.losses.terms.dos import DOSTerm
from pesloss.losses.terms.ensemble import EnsembleTerm
from pesloss.recipes import from_config, load, node
from tests.batches import make
from tests.laws import assert_same, forward, leaves

SQUARED = {"type": "mse", "weight": 1.0, "reduction": "mean"}
FULL = """
loss:
  energy:
    type: mse
    weight: 1.0
    reduction: mean
    forces: {type: mse, weight: 1.0, reduction: mean}
    stress: {type: mse, weight: 1.0, reduction: mean}
"""
SHORT = "loss: {energy: {type: mse, forces: mae, stress: huber}}"
LONG = """
loss:
  energy:
    type: mse
    weight: 1.0
    reduction: mean
    forces: {type: mae, weight: 1.0, reduction: mean}
    stress: {type: huber, weight: 1.0, reduction: mean, delta: 1.0}
"""
INTERNAL = {"energy": {**SQUARED, "gradients": {"positions": SQUARED, "strain": SQUARED}}}
CUSTOM = """
loss:
  mtt::etot: {type: mse, weight: 1.0, reduction: mean, forces: mse, stress: {type: mse}}
training_set:
  systems: any.xyz
  targets:
    mtt::etot: {quantity: energy, forces: true, stress: true}
"""
PARTS = ("residual", "penalty", "reduction")


def parts(made):
    """Weight, parts and delta of each term."""
    deltas = made["huber_delta"]
    deltas = deltas if isinstance(deltas, dict) else dict.fromkeys(made["terms"], deltas)
    defaults = {"residual": "difference", "reduction": "mean"}
    return {
        name: (
            made["weights"][name],
            *({**defaults, **term}[key] for key in PARTS),
            *([deltas[name]] if term["penalty"] == "huber" else []),
        )
        for name, term in made["terms"].items()
    }


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        ("loss: mse", "metatrain_mse"),
        ("mse", "metatrain_mse"),
        ("mae", "metatrain_mae"),
        ("huber", "metatrain_huber"),
        (FULL, "metatrain_mse"),
        (INTERNAL, "metatrain_mse"),
        (SHORT, "metatrain_mixed"),
        (LONG, "metatrain_mixed"),
        ({"architecture": {"name": "pet", "training": {}}, "training_set": "any.xyz"}, "metatrain_mse"),
    ],
    ids=str,
)
def test_sections_of_its_documentation_are_its_recipes(config, recipe):
    assert parts(node("metatrain", config)) == parts({"huber_delta": None, **load(recipe)})
    assert list(from_config("metatrain", config).required) == ["energy", "forces", "virial"]


def test_a_custom_name_is_an_energy_by_its_quantity():
    made = node("metatrain", CUSTOM)
    assert parts(made) == {
        "mtt::etot": (1.0, "per_atom", "squared", "mean"),
        "forces": (1.0, "difference", "squared", "mean"),
        "virial": (1.0, "per_atom", "squared", "mean"),
    }
    assert list(from_config("metatrain", CUSTOM).required) == ["mtt::etot", "forces", "virial"]
    with pytest.raises(
        ValueError, match="'forces' is of an energy; say quantity: energy in the target 'mtt::etot'"
    ):
        node("metatrain", {"mtt::etot": {"forces": "mse"}}, targets={"mtt::etot": {"quantity": "dipole"}})


def test_two_energies_have_forces_of_their_own():
    targets = {"energy": {"stress": False}, "energy/pbe0": {"quantity": "energy", "virial": "any.xyz"}}
    loss = from_config("metatrain", "mae", targets=targets)
    expected = ["energy", "energy_forces", "energy/pbe0", "energy/pbe0_forces", "energy/pbe0_virial"]
    assert list(loss.required) == expected
    assert loss.required["energy/pbe0_virial"].extensive


def test_what_the_training_set_does_not_have_is_not_asked_for():
    options = {
        "architecture": {
            "name": "pet",
            "training": {"batch_size": 4, "loss": {"energy": {**SQUARED, "gradients": {}}}},
        },
        "training_set": {
            "systems": {"read_from": "any.xyz"},
            "targets": {"energy": {"forces": {}, "stress": False}},
        },
        "validation_set": 0.1,
    }
    assert list(from_config("metatrain", options).required) == ["energy", "forces"]
    several = {**options, "training_set": [options["training_set"], {"targets": {"mtt::gap": {}}}]}
    assert list(from_config("metatrain", several).required) == ["energy", "forces", "mtt::gap"]


def test_gradients_keep_their_default_where_only_the_target_has_a_type():
    made = parts(node("metatrain", {"energy": "mae"}))
    assert {name: term[2] for name, term in made.items()} == {
        "energy": "absolute",
        "forces": "squared",
        "virial": "squared",
    }


def test_masked_types_read_the_mask_of_the_batch():
    masked = """
    loss:
      energy:
        type: masked_mse
        weight: 1.0
        reduction: sum
        forces: {type: masked_mae, weight: 0.1, reduction: sum}
    """
    made = node("metatrain", masked, targets={"energy": {"stress": False}})
    keys = {name: term["mask"]["key"] for name, term in made["terms"].items()}
    assert keys == {"energy": "energy_mask", "forces": "forces_mask"}
    assert parts(made)["forces"] == (0.1, "difference", "absolute", "sum")
    assert node("metatrain", {"energy": "masked_huber"})["huber_delta"]["energy"] == 1.0


@pytest.mark.parametrize("score", ["gaussian_nll", "gaussian_crps", "empirical_crps"])
def test_scores_of_ensembles(score):
    section = {"mtt::target_name": {"type": f"{score}_ensemble"}}
    (term,) = from_config("metatrain", {"loss": section}).by_name.values()
    assert isinstance(term, EnsembleTerm)
    assert term.kind == score
    assert list(term.required) == ["mtt::target_name_ensemble"]
    assert node("metatrain", {"energy": f"{score}_ensemble"})["terms"]["energy"]["score"] == score
    assert load(f"metatrain_{score}_ensemble")["terms"]["energy"]["score"] == score


SHIFT = {"type": "shift_agnostic_mse", "grad_penalty_weight": 1e-4, "int_weight": 2.0, "reduction": "mean"}
MASKED = {"type": "masked_dos", "grad_weight": 1e-4, "int_weight": 2.0, "extra_targets": 200}


@pytest.mark.parametrize(("spec", "points"), [(SHIFT, 3630), (MASKED, 3830)], ids=["shift", "masked"])
def test_densities_of_states(spec, points):
    options = {
        "architecture": {"training": {"scale_targets": False, "loss": {"mtt::dos": spec}}},
        "training_set": {"targets": {"mtt::dos": {"sample_kind": "system", "num_subtargets": points}}},
    }
    (term,) = from_config("metatrain", options).by_name.values()
    assert isinstance(term, DOSTerm)
    (made,) = node("metatrain", options)["terms"].values()
    recipe = load(f"metatrain_{spec['type']}")["terms"]["dos"]
    name = made.pop("property")
    assert name["shape"] == recipe.pop("property")["shape"]
    assert made == recipe


def test_targets_that_are_no_energy():
    targets = {
        "mtt::dipole": {"type": {"cartesian": {"rank": 1}}},
        "mtt::polarizability": {"type": {"spherical": {"irreps": [{"o3_lambda": 0}, {"o3_lambda": 2}]}}},
        "charge": {"sample_kind": "atom"},
    }
    loss = from_config("metatrain", "mse", targets=targets, per_structure_targets=["mtt::dipole"])
    assert {name: (prop.rows, prop.shape) for name, prop in loss.required.items()} == {
        "mtt::dipole": ("structure", (3,)),
        "mtt::polarizability": ("structure", (6,)),
        "charge": ("atom", ()),
    }
    residuals = [term.residual.__class__.__name__ for term in loss.by_name.values()]
    assert residuals == ["Difference", "PerAtom", "Difference"]


def test_scaled_targets_are_divided_by_what_metatrain_found():
    batch = make()
    predictions = leaves(batch)
    options = {"architecture": {"training": {"scale_targets": True}}}
    with pytest.raises(ValueError, match=r"scale_targets: .* Give what it found"):
        node("metatrain", options)
    scaled = from_config("metatrain", options, scales={"energy": 2.0})
    plain = from_config("metatrain", "mse")
    found = [4 * part for part in forward(scaled, predictions, batch)]
    assert_same(found, forward(plain, predictions, batch))
    by_element = {"H": 0.5, "C": 2.0, "O": 1.0}
    atoms = from_config(
        "metatrain", "mse", targets={"charge": {"sample_kind": "atom"}}, scales={"charge": by_element}
    )
    assert float(atoms.by_name["charge"].residual.sigma[1]) == 0.5


def test_nothing_is_said_of_a_step_without_labels():
    batch = make()
    predictions = leaves(batch)
    empty = {
        key: torch.full_like(value, torch.nan) if key in predictions else value
        for key, value in batch.items()
    }
    total = forward(from_config("metatrain", "huber"), predictions, empty)[0]
    assert float(total) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("msee", "did you mean 'mse'"),
        ({"energy": {"typ": "mse"}}, "Unknown key 'typ'; did you mean 'type'"),
        ({"energy": {"type": "mse", "delta": 1.0}}, "Unknown key 'delta'"),
        ({"energy": {"reduction": "none"}}, "Unknown reduction 'none'"),
        ({"energy": {"stress": "mse", "virial": "mse"}}, "one gradient; give one of them"),
        ({"energy": {"gradients": {"position": "mse"}}}, "did you mean 'positions'"),
        ({"energy": {"forces": "gaussian_nll_ensemble"}}, "is of values, not of gradients"),
        ({"energy": 1}, "must be a mapping, got 1"),
        ({"loss": 3}, "must be a type or a mapping"),
        (
            {"mtt::dos": {"type": "shift_agnostic_mse", "int_weight": 1}},
            "no default for 'grad_penalty_weight'",
        ),
        ({"loss": {"enrgy": "mse"}, "training_set": {"targets": {"energy": {}}}}, "did you mean 'energy'"),
        (
            {"loss": "mse", "training_set": {"targets": {"energy": {"stress": True, "virial": True}}}},
            "both stress and virial",
        ),
    ],
    ids=str,
)
def test_sections_that_do_not_fit(config, message):
    with pytest.raises(ValueError, match=message):
        node("metatrain", config)
