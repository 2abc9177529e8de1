"""Weights from target errors: at their targets all terms contribute the same, whatever their penalties."""

import ase.units
import pytest
import torch
from hydra import compose, initialize_config_module

import pesloss
from pesloss import units
from pesloss.cli import _units_in_ascii
from pesloss.losses import (
    Huber,
    Mean,
    NormalLoss,
    PropertyTerm,
    RootMean,
    Scaled,
    Sum,
    TotalLoss,
    UncertaintyLoss,
)
from pesloss.losses.formulas import formulas, remarks
from pesloss.recipes import Recipe
from tests.parts import PENALTIES

TARGETS = {"energy": "1 meV/atom", "forces": "20 meV/Å"}


def prior(loss: TotalLoss) -> dict[str, float]:
    return dict(zip(loss.by_name, loss.weighting.prior.tolist(), strict=True))


def two(penalty="squared", targets=TARGETS, **options):
    terms = {"energy": {"residual": "per_atom", "penalty": penalty}, "forces": {"penalty": penalty}}
    return NormalLoss(terms, targets=targets, **options)


def at_target(errors: dict[str, float], atoms: int = 4) -> tuple[dict, dict]:
    """Predictions of which every component is off by the target, and labels of zero."""
    batch = {
        "ptr": torch.tensor([0, atoms]),
        "batch": torch.zeros(atoms, dtype=torch.long),
        "numbers": torch.full((atoms,), 6),
        "config_type": torch.zeros(1, dtype=torch.long),
        "energy": torch.zeros(1, dtype=torch.float64),
        "forces": torch.zeros(atoms, 3, dtype=torch.float64),
    }
    signs = torch.where(torch.rand(atoms, 3) < 0.5, -1.0, 1.0).double()
    predictions = {
        "energy": torch.full((1,), atoms * errors["energy"], dtype=torch.float64),
        "forces": signs.abs() * errors["forces"],
    }
    return predictions, batch


@pytest.mark.parametrize("name", PENALTIES)
def test_at_its_target_every_term_contributes_the_same(name):
    make = PENALTIES[name]
    terms = {
        "energy": PropertyTerm("energy", residual="per_atom", penalty=make()),
        "forces": PropertyTerm("forces", penalty=make()),
    }
    output = TotalLoss(terms, targets=TARGETS).evaluate(*at_target({"energy": 0.001, "forces": 0.02}))
    energy, forces = (output.weights[term] * output.values[term] for term in terms)
    torch.testing.assert_close(energy, forces, rtol=1e-12, atol=0)
    assert min(output.weights.values()) == 1


@pytest.mark.parametrize("reduction", ["mean", "per_structure", "per_element", "root_mean"])
def test_and_with_every_mean(reduction):
    terms = {"energy": {"residual": "per_atom"}, "forces": {"reduction": reduction}}
    output = TotalLoss(terms, targets=TARGETS).evaluate(*at_target({"energy": 0.001, "forces": 0.02}))
    energy, forces = (output.weights[term] * output.values[term] for term in terms)
    torch.testing.assert_close(energy, forces, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("penalty", "ratio"),
    [
        ("squared", 20**2),
        ("absolute", 20),
        ("l2_norm", 20 * 3**0.5),
        ("squared_norm", 20**2 * 3),
        # δ = 10 meV: the energy is in its square, the forces beyond
        (Huber(0.01), (0.01 * (0.02 - 0.005)) / (0.5 * 0.001**2)),
    ],
)
def test_the_weight_is_one_over_the_cost(penalty, ratio):
    weights = prior(two(penalty))
    assert weights["energy"] / weights["forces"] == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize(
    ("target", "same"),
    [
        ("1 meV/atom", "0.001 eV/atom"),
        ("1meV/atom", "1e-3 eV/atom"),
        ("1 kcal/mol/atom", f"{ase.units.kcal / ase.units.mol} eV/atom"),
        ("1 mHa / atom", f"{1e-3 * ase.units.Hartree} eV/atom"),
    ],
)
def test_a_target_in_any_unit(target, same):
    found, expected = (prior(two(targets={**TARGETS, "energy": one})) for one in (target, same))
    assert found == pytest.approx(expected, rel=1e-12)


def test_stress_in_gigapascal_and_a_residual_in_kilobar():
    kbar = Scaled(factor=1 / (0.1 * ase.units.GPa), name_of_unit="kbar")
    terms = {"stress": {}, "other": PropertyTerm("stress", residual=kbar)}
    weights = prior(TotalLoss(terms, targets={"stress": "1 GPa", "other": "1 GPa"}))
    assert weights["stress"] / weights["other"] == pytest.approx((0.1 * ase.units.GPa) ** -2, rel=1e-12)


def test_components_count_with_their_weights():
    terms = {"stress": {"components": "diagonal"}, "virial": {"components": {"xy": 4.0}}}
    weights = prior(TotalLoss(terms, targets={"stress": "1 eV/Å³", "virial": "1 eV"}))
    assert weights["stress"] / weights["virial"] == pytest.approx((8 + 4) / 9)


def test_a_residual_without_a_unit_takes_a_number():
    terms = {"forces": {"residual": "relative"}, "energy": {"residual": "relative"}}
    assert prior(TotalLoss(terms, targets={"forces": 0.1, "energy": "0.2"})) == pytest.approx(
        {"forces": 4, "energy": 1}
    )


def test_learned_weights_start_there():
    terms = {"energy": {"residual": "per_atom"}, "forces": {}}
    loss = UncertaintyLoss(terms, targets=TARGETS)
    start = 0.5 * torch.exp(-loss.weighting.log_variance.detach())
    torch.testing.assert_close(start, torch.tensor([400.0, 1.0], dtype=torch.float64))


def test_a_recipe_takes_targets():
    terms = {"energy": {"residual": "per_atom"}, "forces": {}}
    assert prior(Recipe(terms, project="x", targets=TARGETS))["energy"] == pytest.approx(400)


def test_a_config_takes_targets():
    given = ["loss=normal", "loss.targets.energy='1 meV/atom'", "loss.targets.forces='20 meV/Å'"]
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        node = compose("train", [*given, "loss.weights.stress=0"]).loss
    assert prior(pesloss.build(node)) == pytest.approx({"energy": 400, "forces": 1})


@pytest.mark.parametrize(
    ("argument", "read"),
    [
        ("loss.targets.forces=20 meV/Å", "loss.targets.forces=20 meV/A"),
        ("+loss.targets.dipole=0.1 e·Å", "+loss.targets.dipole=0.1 e*A"),
        ("loss.targets.stress=1 meV/Å³,2 meV/Å³", "loss.targets.stress=1 meV/A3,2 meV/A3"),
        ("data.units.forces=kcal/mol/Å", "data.units.forces=kcal/mol/A"),
        ("loss.targets.forces='20 meV/Å'", "loss.targets.forces='20 meV/Å'"),
        ("data.train=Å.xyz", "data.train=Å.xyz"),
    ],
)
def test_the_command_line_takes_an_ångström(argument, read):
    assert _units_in_ascii(argument) == read


def test_targets_are_shown_back():
    loss = two(weight=2.0)
    assert [line.weight for line in formulas(loss)] == [
        "400; from the target 1 meV/atom",
        "1; from the target 20 meV/Å",
    ]
    assert next(remarks(loss)) == "With its errors at their target, a term contributes 0.0008 to the loss."


def test_null_is_no_target():
    assert prior(two(targets={"energy": None, "forces": None, "stress": None})) == {"energy": 1, "forces": 1}


def test_a_term_that_has_no_target_may_have_a_weight():
    loss = TotalLoss({"energy": {}, "stress": {}}, weights={"stress": 3.0}, targets={"energy": "1 eV"})
    assert prior(loss) == {"energy": 1, "stress": 3}


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({"energy": "1 meV"}, "'1 meV' is of the dimension energy, .* eV/atom .* '1 meV/atom'"),
        ({"energy": "1 meV/Å"}, "of the dimension energy / length"),
        ({"energy": 0.001}, "targets.energy needs an error with its unit, such as '0.01 eV/atom'; got 0.001"),
        ({"energy": "0.001"}, "an error with its unit"),
        ({"energy": "meV/atom"}, "begins with a number"),
        ({"energy": "-1 meV/atom"}, "begins with a number"),
        ({"energy": "0 meV/atom"}, "a finite error above 0"),
        ({"energy": "1 mev/atom"}, "targets.energy: Unknown unit 'mev'; did you mean 'ev'"),
        ({"enrgy": "1 meV/atom"}, "targets: Unknown term 'enrgy'; did you mean 'energy'"),
    ],
)
def test_a_target_that_cannot_be_meant_is_refused(targets, said):
    with pytest.raises(ValueError, match=said):
        two(targets={**TARGETS, **targets})


def test_per_atom_where_the_residual_is_total_is_refused():
    with pytest.raises(ValueError, match=r"is in eV \(energy\); give for example '1 meV'"):
        TotalLoss({"energy": {}}, targets={"energy": "1 meV/atom"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": {"forces": 5.0}}, "has a target and a weight of 5, .*weights.forces=1"),
        ({"weights": {"forces": 0.0}}, "targets.forces: the term is removed by its weight of 0"),
        ({"targets": {"energy": "1 meV/atom"}}, r"\['energy'\] have targets, but 'forces' has none"),
    ],
)
def test_weights_that_contradict_targets_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        two(**options)


def test_terms_without_a_residual_have_no_target():
    with pytest.raises(ValueError, match=r"targets.weights: a WeightPenalty has no residual"):
        TotalLoss({"weights": pesloss.losses.WeightPenalty()}, targets={"weights": "1 eV"})


@pytest.mark.parametrize("reduction", [Sum(), Mean(denominator="atoms")])
def test_a_value_that_is_no_mean_has_no_target(reduction):
    term = PropertyTerm("energy", reduction=reduction)
    with pytest.raises(ValueError, match="depends on how many labels or atoms"):
        TotalLoss({"energy": term}, targets={"energy": "1 eV"})


def test_a_root_of_a_mean_is_linear_in_its_target():
    terms = {"energy": {"reduction": RootMean()}, "forces": {"reduction": RootMean()}}
    weights = prior(TotalLoss(terms, targets={"energy": "1 eV", "forces": "20 meV/Å"}))
    assert weights["forces"] / weights["energy"] == pytest.approx(50)


def test_constants_are_those_of_ase():
    ours = [units.HARTREE, units.BOHR, units.DEBYE, units.JOULE, units.COULOMB, units.PASCAL, units.MOLE]
    names = ("Hartree", "Bohr", "Debye", "J", "C", "Pascal", "mol")
    assert ours == [getattr(ase.units, name) for name in names]
    assert units.UNITS["kcal"].factor == ase.units.kcal
