"""Units in words become factors; what cannot be read, or is of another dimension, is refused."""

from __future__ import annotations

import math

import ase.units
import numpy as np
import pytest

from pesloss.data.reading.conversions import ASE_UNITS, Conversions
from pesloss.data.reading.units import Scale, scale
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.units import UNITS, as_unit

KCAL = ase.units.kcal / ase.units.mol


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("eV", 1.0),
        ("kcal/mol", KCAL),
        ("kcal/mol/Å", KCAL),
        ("kcal·mol⁻¹·Å⁻¹", KCAL),
        ("kcal mol^-1 Ang**-1", KCAL),
        ("kcal/(mol*Å)", KCAL),
        ("kJ/mol/nm", ase.units.kJ / ase.units.mol / 10),
        ("Hartree", ase.units.Hartree),
        ("hartree/bohr", ase.units.Hartree / ase.units.Bohr),
        ("Ha/a0", ase.units.Hartree / ase.units.Bohr),
        ("eV/Å³", 1.0),
        ("eV/Å^3", 1.0),
        ("GPa", ase.units.GPa),
        ("kbar", 0.1 * ase.units.GPa),
        ("10 kbar", ase.units.GPa),
        ("Debye", ase.units.Debye),
        ("e*Å", 1.0),
        ("elementary_charge*bohr^2", ase.units.Bohr**2),
        ("e²·Å²/eV", 1.0),
        ("e·Å²/V", 1.0),
        ("meV/atom", 1e-3),
        ("a0 a0 a0", ase.units.Bohr**3),
        ("Å", 1.0),  # the sign of the unit, not the letter
        ("", 1.0),
    ],
)
def test_a_unit_in_words(text, factor):
    assert as_unit(text).factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("name", UNITS)
def test_a_name_is_its_own_inverse_squared(name):
    unit = as_unit(f"1/{name}^2") * UNITS[name] ** 2
    assert unit.factor == pytest.approx(1.0)
    assert unit.dimension == "a plain number"


def test_powers_of_a_product_are_products_of_powers():
    assert as_unit("eV/Å").powers == as_unit("kcal/mol/bohr").powers == as_unit("1/(Å/eV)").powers
    assert as_unit("GPa").powers == as_unit("eV/Å³").powers
    assert as_unit("V").powers == as_unit("eV/e").powers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kcl/mol", "Unknown unit 'kcl'; did you mean 'kcal'"),
        ("eV/", "ends with '/'"),
        ("(eV", "never closed"),
        ("eV)", "never opened"),
        ("eV # Å", "cannot be read from"),
        ("MEV", "Unknown unit 'MEV'"),
    ],
)
def test_what_is_no_unit(text, message):
    with pytest.raises(ValueError, match=message):
        as_unit(text)


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_property_has_a_unit_that_is_read(name):
    prop = PROPERTIES[name]
    assert Conversions({}, {}, ASE_UNITS).of(prop).is_one
    assert scale(prop.unit, as_unit(prop.unit)).is_one


@pytest.mark.parametrize("name", [name for name, prop in PROPERTIES.items() if "μB" not in prop.unit])
def test_atomic_units_are_hartree_bohr_and_e(name):
    prop = PROPERTIES[name]
    base = Conversions({"energy": "Hartree", "length": "bohr", "charge": "e"}, {}, {}).of(prop)
    assert base.agrees(Conversions({name: "a.u."}, {}, {}).of(prop))


def test_atomic_units_of_a_moment_have_to_be_told():
    with pytest.raises(ValueError, match="2 μB, but many files mean μB"):
        Conversions({"magnetic_moments": "a.u."}, {}, {}).of(PROPERTIES["magnetic_moments"])


def test_units_of_energy_and_length_carry_over():
    conversions = Conversions({"energy": "kcal/mol", "length": "bohr"}, {}, ASE_UNITS)
    factors = {
        name: conversions.of(PROPERTIES[name]).factor for name in ("energy", "forces", "stress", "virial")
    }
    bohr = ase.units.Bohr
    assert factors == pytest.approx(
        {"energy": KCAL, "forces": KCAL / bohr, "stress": KCAL / bohr**3, "virial": KCAL}
    )
    assert conversions.length().factor == pytest.approx(bohr)
    assert conversions.of(PROPERTIES["forces"]).text == "kcal/mol/bohr"
    assert conversions.of(PROPERTIES["dipole"]).factor == pytest.approx(bohr)


def test_a_property_s_own_unit_goes_first():
    conversions = Conversions({"energy": "kcal/mol", "stress": "GPa", "dipole": "Debye"}, {}, ASE_UNITS)
    assert conversions.of(PROPERTIES["stress"]).factor == pytest.approx(ase.units.GPa)
    assert conversions.of(PROPERTIES["dipole"]).factor == pytest.approx(ase.units.Debye)
    assert conversions.of(PROPERTIES["virial"]).factor == pytest.approx(KCAL)


def test_an_energy_per_atom_is_of_the_energy_alone():
    conversions = Conversions({"energy": "meV/atom"}, {}, ASE_UNITS)
    assert conversions.of(PROPERTIES["energy"]) == Scale(1e-3, per_atom=True, text="meV/atom")
    forces = conversions.of(PROPERTIES["forces"])
    assert forces.factor == pytest.approx(1e-3)
    assert not forces.per_atom
    with pytest.raises(ValueError, match="'eV/Å/atom' is a unit of energy / length / atom, expected"):
        Conversions({"forces": "eV/Å/atom"}, {}, ASE_UNITS).of(PROPERTIES["forces"])


def test_a_polarizability_may_be_a_volume():
    prop = PROPERTIES["polarizability"]
    of = lambda text: Conversions({"polarizability": text}, {}, {}).of(prop).factor  # noqa: E731
    assert of("bohr^3") == pytest.approx(of("a.u.")) == pytest.approx(of("e²·bohr²/Hartree"))
    assert of("Å³") == pytest.approx(1 / 14.3996, rel=1e-5)


def test_properties_of_the_users_own():
    gap = Property("gap", unit="eV")
    per_atom = Property("cohesion", unit="eV/atom")
    moments = Property("moments", rows="atom", unit="barn")
    plain = Property("order")
    conversions = Conversions({"energy": "Hartree"}, {}, ASE_UNITS)
    assert conversions.of(gap).factor == conversions.of(per_atom).factor == pytest.approx(ase.units.Hartree)
    assert conversions.of(plain).is_one
    assert conversions.of(moments).is_one
    with pytest.raises(ValueError, match="'moments' is in 'T', and nothing is known of its unit 'barn'"):
        Conversions({"moments": "T"}, {}, {}).of(moments)
    assert Conversions({}, {}, {}).of(plain).is_one


@pytest.mark.parametrize(
    ("given", "name", "message"),
    [
        ({"forces": "eV"}, "forces", r"'forces': 'eV' is a unit of energy, expected one of energy / length"),
        ({"stress": "kcal/mol"}, "stress", "expected one of energy / length\\^3 such as 'eV/Å³'"),
        ({"dipole": "e"}, "dipole", "'dipole': 'e' is a unit of charge, expected one of length · charge"),
        ({}, "energy", r"'energy' has no unit.*\+data.units.energy=kcal/mol \+data.units.length=angstrom"),
        (
            {"energy": "eV"},
            "forces",
            r"'forces' has no unit.*\+data.units.length=angstrom, or for ",
        ),
        ({"energy": "eV", "length": "Å"}, "dipole", "'dipole' has no unit.*data.units.charge=e, or"),
    ],
)
def test_a_wrong_or_a_missing_unit(given, name, message):
    with pytest.raises(ValueError, match=message):
        Conversions(given, {}, {}).of(PROPERTIES[name])


@pytest.mark.parametrize("given", [{"energy": "Å"}, {"length": "eV"}, {"charge": "Debye"}])
def test_a_base_unit_of_another_dimension(given):
    with pytest.raises(ValueError, match="is a unit of"):
        Conversions(given, {}, ASE_UNITS)


def test_user_and_file_agree_or_one_is_wrong():
    energy, forces = PROPERTIES["energy"], PROPERTIES["forces"]
    assert Conversions({"energy": "kcal/mol"}, {"energy": "kcal mol^-1"}, {}).of(
        energy
    ).factor == pytest.approx(KCAL)
    with pytest.raises(ValueError, match="'energy' is given in eV, but the file itself states kcal/mol"):
        Conversions({"energy": "eV"}, {"energy": "kcal/mol"}, {})
    with pytest.raises(ValueError, match="'energy' is given in eV, but the file itself states hartree"):
        Conversions({"energy": "eV"}, {}, {}).of(energy, "hartree")
    with pytest.raises(ValueError, match="'forces' is given in eV/Å, but the file itself states h"):
        Conversions({"energy": "eV", "length": "Å"}, {}, {}).of(forces, "hartree/bohr")
    with pytest.raises(ValueError, match="'positions' is given in Å, but the file itself states bohr"):
        Conversions({"length": "Å"}, {}, {}).length("bohr")
    assert math.isclose(Conversions({}, {}, {}).of(forces, "hartree/bohr").factor, 51.4221, rel_tol=1e-5)


def test_a_factor_is_one_number_for_scalars_and_tensors():
    factor = scale("GPa", as_unit("eV/Å³")).factor
    np.testing.assert_allclose(np.eye(3) * factor, np.eye(3) * 0.00624150913, rtol=1e-6)
