"""Stress and virial of one structure say the same, or reading refuses and says why they do not."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from pesloss.data import read
from pesloss.losses.properties import as_properties

STRESS = np.array([[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]]) * 0.01
SIX = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))  # xx yy zz yz xz xy
VASP = ((0, 1, 2, 0, 1, 0), (0, 1, 2, 1, 2, 2))  # xx yy zz xy yz xz
LAMMPS = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))  # xx yy zz xy xz yz
KBAR = 1602.1766


def copper(stress=STRESS, virial=STRESS, **info) -> Atoms:
    """With a stress, and a virial that follows from another one, both in any form."""
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.info |= {"REF_stress": stress, "REF_virial": -atoms.get_volume() * np.array(virial), **info}
    return atoms


def labels(tmp_path, *atoms, names=("stress",), **options):
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    structures = read(tmp_path / "a.xyz", as_properties(list(names)), **options)
    return [structure.labels for structure in structures]


@pytest.mark.parametrize("asked", [("stress",), ("virial",), ("stress", "virial")])
def test_agreement_is_silent(tmp_path, asked):
    found = labels(tmp_path, copper(), copper(STRESS[SIX], STRESS.reshape(-1)), names=asked)
    assert all(set(asked) == set(one) for one in found)


@pytest.mark.parametrize("digits", [4, 5, 8])
def test_digits_of_a_file_are_no_contradiction(tmp_path, digits):
    assert labels(tmp_path, copper(np.round(STRESS, digits), np.round(STRESS + 1e-7, 8)))


@pytest.mark.parametrize(
    ("stress", "virial", "sentence"),
    [
        (STRESS, -STRESS, r"other sign \(\+data.signs.stress=-1 or \+data.signs.virial=-1\)"),
        (KBAR * STRESS, STRESS, r"the stress is in kbar \(\+data.units.stress=kbar\)"),
        (KBAR / 10 * STRESS, STRESS, r"the stress is in GPa"),
        (-KBAR * STRESS, STRESS, r"other sign .* and the stress is in kbar"),
        (STRESS, STRESS / 27.2113862, r"the virial is in hartree"),
        (STRESS, STRESS / 2, r"the virial is per atom \(\+data.units.virial=eV/atom\)"),
        (STRESS * bulk("Cu").get_volume() * 2, STRESS, r"the stress is not divided by the volume"),
        (STRESS, 3 * STRESS, r"the stress is 0.333333 times what the virial makes it"),
        (STRESS, STRESS[VASP], r"of the virial agree in the order xx yy zz xy yz xz \(data.voigt=vasp\)"),
        (STRESS, STRESS[LAMMPS], r"the virial agree in the order xx yy zz xy xz yz"),
        (STRESS[VASP], STRESS, r"six numbers of the stress agree in the order xx yy zz xy yz xz"),
        (-KBAR * STRESS[VASP], STRESS, r"stress agree in the order .*vasp.*, and .*sign.*, and .* kbar"),
        (STRESS[VASP], STRESS[SIX], r"data.voigt=.*, an option for both\)"),
        (STRESS, np.diag(np.diag(STRESS)), r"they differ by 20% of the larger one"),
        (STRESS, np.zeros((3, 3)), r"they differ by 100% of the larger one"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_and_explained(tmp_path, stress, virial, sentence):
    where = (
        r"a.xyz, structure 1: 'stress' from info 'REF_stress' and 'virial' from info 'REF_virial' contradict "
    )
    with pytest.raises(ValueError, match=where + ".*" + sentence):
        labels(tmp_path, copper(), copper(stress, virial))


@pytest.mark.parametrize(
    ("stress", "virial", "options"),
    [
        (STRESS, -STRESS, {"signs": {"virial": -1}}),
        (-KBAR * STRESS, STRESS, {"signs": {"stress": -1}, "units": {"stress": "kbar"}}),
        (STRESS, STRESS[VASP], {"voigt": "vasp"}),
        (STRESS, STRESS[LAMMPS], {"voigt": "xx yy zz xy xz yz"}),
        (STRESS[LAMMPS], STRESS, {"voigt": "xx yy zz xy xz yz"}),
        (STRESS, STRESS / 2, {"units": {"virial": "eV/atom"}}),
    ],
)
def test_the_option_that_is_named_puts_it_right(tmp_path, stress, virial, options):
    (found,) = labels(tmp_path, copper(stress, virial), **options)
    np.testing.assert_allclose(found["stress"], STRESS, atol=1e-8)


@pytest.mark.parametrize("item", ["stress", "virial"])
def test_a_key_for_one_says_which_is_meant(tmp_path, item):
    (found,) = labels(tmp_path, copper(STRESS, 2 * STRESS), keys={item: f"REF_{item}"})
    np.testing.assert_allclose(found["stress"], STRESS if item == "stress" else 2 * STRESS, atol=1e-8)


def test_keys_for_both_are_compared(tmp_path):
    keys = {"stress": "S", "virial": "W"}
    volume = copper().get_volume()
    with pytest.raises(ValueError, match="'stress' from info 'S' and 'virial' from info 'W' contradict"):
        labels(tmp_path, copper(S=STRESS, W=volume * STRESS), keys=keys)
    assert labels(tmp_path, copper(0 * STRESS, STRESS, S=STRESS, W=-volume * STRESS), keys=keys)


def test_what_is_missing_contradicts_nothing(tmp_path):
    partly = np.where(np.eye(3, dtype=bool), STRESS, np.nan)
    (first, second) = labels(tmp_path, copper(partly), copper(STRESS, np.full((3, 3), np.nan)))
    np.testing.assert_allclose(np.diag(first["stress"]), np.diag(STRESS))
    np.testing.assert_allclose(second["stress"], STRESS)


def test_without_a_volume_there_is_nothing_to_compare(tmp_path):
    atoms = molecule("H2O")
    atoms.info |= {"virial": np.eye(3), "REF_stress": np.full(9, np.nan)}
    assert labels(tmp_path, atoms, names=["virial"], keys={"virial": "virial"})


def test_a_virial_that_is_compared_is_not_unused(tmp_path):
    ase.io.write(tmp_path / "a.xyz", copper(), format="extxyz")
    (report,) = read(tmp_path / "a.xyz", as_properties(["stress"])).report.files
    assert not [one for one in report.unused if "virial" in str(one)]
