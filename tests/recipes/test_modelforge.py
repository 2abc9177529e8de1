"""modelforge: its TOML tables as its documentation has them, and its errors by name."""

import pytest
import torch

import pesloss
from pesloss.losses import PROPERTIES, TotalLoss
from pesloss.recipes import from_config, load
from pesloss.recipes.modelforge import (
    EnergySquaredError,
    ForceSquaredError,
    PerSystemDipoleMomentError,
    TotalChargeError,
)
from tests.batches import make
from tests.laws import assert_same, forward, leaves

DEFAULT = """
[training]
number_of_epochs = 2
remove_self_energies = true
shift_center_of_mass_to_origin = false
batch_size = 128
lr = 5e-4
monitor = "val/per_system_energy/rmse"

[training.lr_scheduler]
scheduler_name = "ReduceLROnPlateau"
factor = 0.1

[training.loss_parameter]
loss_components = ['per_system_energy'] #, 'per_atom_force']

[training.loss_parameter.weight]
per_system_energy = 1.0

[training.early_stopping]
patience = 50
"""
GETTING_STARTED = """
[training.loss_parameter]
loss_components = ['per_system_energy', 'per_atom_force']  # Properties to include in the loss function

[training.loss_parameter.weight]
per_system_energy = 0.999
per_atom_force = 0.001
"""
DIPOLES = """
[training.loss_parameter]
loss_components = ['per_system_energy', 'per_system_dipole_moment', "per_atom_charge"]

[training.loss_parameter.weight]
per_system_energy = 0.00001
per_system_dipole_moment = 0.1
per_atom_charge = 1

[training.loss_parameter.target_weight]
per_system_dipole_moment = 1

[training.loss_parameter.mixing_steps]
per_system_dipole_moment= 0.01
"""
CHARGED = """
[training.loss_parameter]
loss_components = [
    "per_system_energy", "per_atom_force", "per_system_dipole_moment", "per_system_total_charge",
]
[training.loss_parameter.weight]
per_system_energy = 1
per_atom_force = 0.1
per_system_dipole_moment = 0.01
per_system_total_charge = 0.01
"""
SNIPPETS = {
    "modelforge_energy": DEFAULT,
    "modelforge_energy_force": GETTING_STARTED,
    "modelforge_dipole": CHARGED,
}


def weights(loss):
    return dict(zip(loss.weighting.names, loss.weighting.prior.tolist(), strict=True))


def molecules():
    """A batch that has positions and elements too."""
    batch = make()
    num = len(batch["batch"])
    source = torch.Generator().manual_seed(3)
    batch["positions"] = torch.rand(num, 3, generator=source, dtype=torch.float64)
    batch["numbers"] = torch.arange(num) % 8 + 1
    return batch


def table(**weight):
    return {"loss_components": list(weight), "weight": weight}


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_is_its_recipe(name):
    batch = molecules()
    loss, recipe = from_config("modelforge", SNIPPETS[name]), pesloss.build(load(name))
    assert weights(loss) == weights(recipe)
    assert_same(forward(loss, leaves(batch), batch), forward(recipe, leaves(batch), batch))


def test_errors_are_in_its_units():
    loss = from_config("modelforge", GETTING_STARTED)
    energy, forces = (loss.terms[name] for name in ("energy", "forces"))
    assert energy.residual.factor == pytest.approx(96.485332)  # kJ/mol
    assert forces.residual.factor == pytest.approx(964.85332)  # kJ/mol/nm


def test_a_weight_changes_by_its_step_until_it_is_there():
    loss = from_config("modelforge", DIPOLES)
    found = {}
    for epoch in (0, 1, 45, 89, 90, 200):
        loss.advance(epoch=epoch)
        found[epoch] = loss.weighting.current.tolist()
    assert found[0] == pytest.approx([0.00001, 0.1, 1])
    assert [values[1] for values in found.values()] == pytest.approx([0.1, 0.11, 0.55, 0.99, 1, 1])
    assert all(values[2] == 1 for values in found.values())


def test_the_weights_of_an_epoch_can_be_had():
    assert weights(from_config("modelforge", DIPOLES, epoch=5))["dipole"] == pytest.approx(0.15)
    assert weights(from_config("modelforge", DIPOLES, epoch=500))["dipole"] == 1


def test_weights_may_fall_whatever_the_sign_of_the_step():
    falling = table(per_system_energy=2.0) | {"target_weight": {"per_system_energy": 1.0}}
    for step in (0.5, -0.5):
        config = falling | {"mixing_steps": {"per_system_energy": step}}
        found = [weights(from_config("modelforge", config, epoch=epoch))["energy"] for epoch in range(4)]
        assert found == [2.0, 1.5, 1.0, 1.0]


def test_a_weight_may_rise_from_nothing():
    rising = table(per_system_energy=1.0, per_atom_force=0.0) | {"target_weight": {"per_atom_force": 0.2}}
    loss = from_config("modelforge", rising | {"mixing_steps": {"per_atom_force": 0.1}})
    loss.advance(epoch=0)
    assert loss.weighting.current.tolist() == [1.0, 0.0]
    loss.advance(epoch=1)
    assert loss.weighting.current.tolist() == pytest.approx([1.0, 0.1])


def test_dipoles_follow_from_charges_or_are_predicted():
    assert set(from_config("modelforge", CHARGED).required) == {"energy", "forces", "charges"}
    direct = from_config("modelforge", CHARGED, derived=False)
    assert set(direct.required) == {"energy", "forces", "dipole", "total_charge"}


def test_what_is_of_atoms_is_averaged_by_structure():
    config = table(per_atom_charge=1.0, per_atom_spin_multiplicity=2.0, per_system_quadrupole_moment=3.0)
    loss = from_config("modelforge", config)
    assert loss.required["spin_multiplicities"].rows == "atom"
    assert "mean over labelled structures" in loss.terms["charges"].formula()
    assert loss.terms["quadrupole"].residual.unit("e·Å²") == "e·nm²"


@pytest.mark.parametrize("scaled", [False, True])
def test_errors_by_name(scaled):
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    atoms = batch["ptr"].diff() if scaled else torch.ones(8)
    energy = (96.48533212331001 * (predictions["energy"] - batch["energy"])).square() / atoms
    loss = TotalLoss({"energy": EnergySquaredError(scaled)})
    torch.testing.assert_close(loss(predictions, batch), energy.mean())
    dipole = (0.1 * (predictions["dipole"] - batch["dipole"])).square().sum(1) / atoms
    loss = TotalLoss({"dipole": PerSystemDipoleMomentError(scaled, derived=False)})
    torch.testing.assert_close(loss(predictions, batch), dipole.mean())
    charge = (predictions["total_charge"] - batch["total_charge"]).square() / atoms
    loss = TotalLoss({"total_charge": TotalChargeError(scaled, derived=False, weight=3.0)})
    torch.testing.assert_close(loss(predictions, batch), 3 * charge.mean())


def test_force_errors_by_name():
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    squares = (964.8533212331001 * (predictions["forces"] - batch["forces"])).square().mean(1)
    means = torch.stack([squares[batch["batch"] == i].mean() for i in range(8)])
    torch.testing.assert_close(TotalLoss({"forces": ForceSquaredError()})(predictions, batch), means.mean())


def test_the_dipole_of_charges_needs_the_center_of_mass():
    (term,) = TotalLoss({"dipole": PerSystemDipoleMomentError()}).terms.values()
    assert term.prediction.center == "mass" and set(term.required) == {"charges"}
    assert PROPERTIES["dipole"].unit == "e·Å" and term.residual.unit("e·Å") == "e·nm"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (table(per_system_enrgy=1.0), "Unknown key 'per_system_enrgy'; did you mean 'per_system_energy'"),
        (GETTING_STARTED.replace("loss_components", "loss_component"), "did you mean 'loss_components'"),
        ({"loss_components": ["per_system_energy"]}, "modelforge config needs 'weight'"),
        ({"loss_components": ["per_system_energy"], "weight": {}}, "weight has no 'per_system_energy'"),
        (
            table(per_system_energy=1.0) | {"weight": {"per_atom_force": 1.0}},
            "weight: Unknown key 'per_atom_force'",
        ),
        (
            table(per_system_energy=1.0) | {"target_weight": {"per_system_energy": 2.0}},
            "mixing_steps.per_system_energy must say by how much",
        ),
        (table(per_system_energy=1.0) | {"mixing": {}}, "Unknown key 'mixing'; did you mean 'mixing_steps'"),
        ("training: 3", "training must be a mapping"),
        (table(per_system_energy=-1.0), "not negative"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        from_config("modelforge", config)
