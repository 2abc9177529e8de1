"""Every property of atoms and structures has a head that turns with the atoms, or a reason why not."""

from __future__ import annotations

import pytest
import torch

from pesloss.losses import PROPERTIES, DipoleFromCharges, Property, PropertyTerm, TotalLoss
from pesloss.models import PaiNN, Potential
from pesloss.models.contract import check_potential
from pesloss.models.derived import compared_by, derived_by
from pesloss.models.heads import REFUSED, head_properties
from pesloss.models.potential import SECOND
from tests.structures import CUTOFF, structures, to_batch

PREDICTED = [name for name, prop in PROPERTIES.items() if name not in REFUSED and prop.rows != "pair"]
OWN = [
    Property("dos", shape=(7,), extensive=True),
    Property("mean", shape=(3, 3)),
    Property("mtt::levels", rows="atom", shape=(2,)),
]


def network(*heads, **options):
    torch.manual_seed(0)
    options = {"channels": 4, "layers": 2, "cutoff": CUTOFF, "radial": 6, **options}
    return PaiNN(**options, heads=heads).double()


def test_tables_agree():
    assert {*PREDICTED} >= {
        "atomic_energies",
        "spins",
        "populations",
        "polarization",
        "gap",
        "atomic_dipoles",
    }
    assert {*head_properties(PREDICTED)} == {*PREDICTED}


def test_every_head_keeps_the_contract():
    """Finite, extensive, of one structure each, and turning with the atoms."""
    potential = Potential(network(*PREDICTED))
    names = [name for name in potential.properties if name not in SECOND]
    check_potential(potential, structures(), to_batch, names, parameters=potential.parameters())


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("head", [*PREDICTED, *OWN], ids=str)
def test_every_parameter_serves_a_head(head, layers):
    model = network(head, layers=layers)
    (values,) = model(to_batch(structures())).values()
    values.square().sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_vectors_are_mirrored_and_tensors_are_not():
    batch = to_batch(structures())
    mirrored = {**batch, "positions": -batch["positions"], "cell": -batch["cell"]}
    model = network(*PREDICTED)
    before, after = model(batch), model(mirrored)
    for name in PREDICTED:
        sign = -1 if PROPERTIES[name].shape == (3,) else 1
        torch.testing.assert_close(after[name], sign * before[name])


def test_tensors_of_atoms_have_no_symmetry_of_their_own():
    charges = network("born_effective_charges")(to_batch(structures()))["born_effective_charges"]
    assert (charges - charges.mT).abs().max() > 1e-6


def test_energy_is_the_sum_of_atomic_energies():
    batch, model = to_batch(structures()), network("energy", "atomic_energies")
    model.set_scale(2.5)
    found = model(batch)
    sums = torch.zeros(4, dtype=torch.float64).index_add(0, batch["batch"], found["atomic_energies"])
    torch.testing.assert_close(sums, found["energy"])


@pytest.mark.parametrize("prop", OWN, ids=str)
def test_a_property_of_one_s_own_has_the_head_of_its_shape(prop):
    batch, arguments = to_batch(structures()), {**vars(prop), "shape": list(prop.shape)}
    found = network(arguments)(batch)[prop.name]
    rows = len(batch["numbers"]) if prop.rows == "atom" else 4
    assert found.shape == (rows, *prop.shape)
    torch.testing.assert_close(found, network(prop)(batch)[prop.name])


@pytest.mark.parametrize("extensive", [True, False])
def test_twice_the_matter_has_twice_what_is_extensive(extensive):
    once = structures()[1]
    model = network(Property("own", shape=(2,), extensive=extensive))
    alone, double = (model(to_batch([atoms]))["own"] for atoms in (once, once * (2, 1, 1)))
    torch.testing.assert_close(double, (2 if extensive else 1) * alone)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("forces", "No head predicts 'forces': it is a derivative of the energy"),
        ("quadrupole", "'quadrupole': it depends on the origin"),
        ("noncollinear_magnetic_moments", "it is an axial vector"),
        ("hessian", "No head predicts 'hessian'"),
        (Property("pairs", rows="pair"), "it is of pairs of atoms. Heads predict energy, "),
        (Property("cube", shape=(3, 3, 3)), r"entries of shape \(3, 3, 3\)"),
        ("spin", "Unknown head 'spin'; did you mean 'spins'"),
    ],
    ids=str,
)
def test_what_has_no_head_is_told(head, message):
    with pytest.raises(ValueError, match=message):
        network("energy", head)


def dipole_loss(**options):
    return TotalLoss({"dipole": PropertyTerm("dipole", prediction=DipoleFromCharges(**options))})


def test_a_potential_tells_what_the_loss_derives():
    """The dipole of charges is predicted where only charges have a head."""
    loss, model, batch = dipole_loss(center="mass"), network("energy", "charges"), to_batch(structures())
    potential = Potential(model, derived_by(loss, model))
    assert [*loss.compared] == [] and [*compared_by(loss, potential)] == ["dipole"]
    found = potential(batch, ["dipole", "forces"])
    assert [*found] == ["dipole", "forces"]
    charges = potential(batch, ["charges"])["charges"]
    expected = torch.zeros(4, 3, dtype=torch.float64)
    expected = expected.index_add(0, batch["batch"], charges[:, None] * batch["positions"])
    torch.testing.assert_close(found["dipole"], expected)
    label = {**batch, "dipole": expected.detach()}
    assert loss({"charges": charges}, label) < 1e-20
    detached = potential(batch, ["dipole"], training=False)["dipole"]
    assert not detached.requires_grad


def test_what_the_model_predicts_itself_is_not_derived():
    assert not derived_by(dipole_loss(), network("energy", "charges", "dipole"))
    assert not derived_by(TotalLoss({"dipole": {}}), network("energy", "dipole"))
    other = TotalLoss({"dipole": PropertyTerm("dipole", label="mu", prediction="dipole_from_charges")})
    assert not derived_by(other, network("energy", "charges"))
