"""Sign, order and unit of a stress are found from the data, and what they do not tell is left open."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pesloss.checks.stress import stress
from pesloss.data import Files
from tests.checks.crystals import KBAR, LAMMPS, VASP, hot, scanned, spoilt, strained, without
from tests.checks.subjects import findings, loss, of, subject, tables
from tests.test_shared_data import shared

ORDERS = {"data.voigt=vasp": VASP, "data.voigt='xx yy zz xy xz yz'": LAMMPS}


def said(tmp_path, crystals, **options):
    return findings(stress(subject(tmp_path, crystals, **options)))


def verdicts(tmp_path, crystals):
    (table,) = tables(stress(subject(tmp_path, crystals)))
    return {row[0]: row[-1] for row in table.rows}


@pytest.mark.parametrize(("make", "symbol"), [(strained, "Cu"), (strained, "Au"), (hot, "Cu"), (hot, "Au")])
def test_right_stresses_are_silent(tmp_path, make, symbol):
    crystals = make(symbol=symbol)
    assert said(tmp_path, crystals) == []
    assert verdicts(tmp_path, crystals) == {"all structures": "sign and order right"}


@pytest.mark.parametrize("make", [strained, hot])
def test_the_other_sign_is_found(tmp_path, make):
    (found,) = said(tmp_path, spoilt(make(), -1.0))
    assert found.level == "error"
    assert found.count == len(make())
    assert "The stress has the other sign in all structures" in found.message
    assert "+data.signs.stress=-1 puts it right" in found.message


@pytest.mark.parametrize("make", [strained, hot])
@pytest.mark.parametrize("option", ORDERS)
def test_another_order_is_found(tmp_path, make, option):
    (found,) = said(tmp_path, spoilt(make(), order=ORDERS[option]))
    assert found.level == "error"
    assert option in found.message
    assert "data.signs" not in found.message


@pytest.mark.parametrize("option", ORDERS)
def test_sign_and_order_together(tmp_path, option):
    (found,) = said(tmp_path, spoilt(strained(), -1.0, ORDERS[option]))
    assert f"+data.signs.stress=-1 {option} would" in found.message or f"-1 {option} puts" in found.message


def test_the_option_that_is_named_puts_it_right(tmp_path):
    crystals = spoilt(strained(), -1.0, LAMMPS)
    six = [six_numbers(atoms) for atoms in crystals]
    ase.io.write(tmp_path / "a.xyz", six, format="extxyz")
    options = {"cache": None, "val_fraction": 0.0, "test_fraction": 0.0, "references": "none"}
    wrong = of(Files(tmp_path / "a.xyz", **options))
    assert len(findings(stress(wrong))) == 1
    right = of(Files(tmp_path / "a.xyz", voigt="xx yy zz xy xz yz", signs={"stress": -1}, **options))
    assert findings(stress(right)) == []
    again = of(Files(tmp_path / "a.xyz", voigt="vasp", signs={"stress": -1}, **options))
    (found,) = findings(stress(again))
    assert "data.voigt='xx yy zz xy xz yz'" in found.message


def six_numbers(atoms: Atoms) -> Atoms:
    """The stress in ``info``, where ASE leaves its numbers alone."""
    atoms.info["REF_stress"] = atoms.calc.results.pop("stress")
    return atoms


def test_kbar_are_found_by_the_forces(tmp_path):
    (found,) = said(tmp_path, without(spoilt(hot(), KBAR), "energy"))
    assert found.level == "error"
    assert "+data.units.stress=kbar" in found.message


def test_vasp_has_kbar_and_the_other_sign(tmp_path):
    first, second = said(tmp_path, spoilt(hot(), -KBAR))
    assert "+data.signs.stress=-1" in first.message
    assert "+data.units.stress=kbar" in second.message


def test_a_mixture_of_orders_is_told_apart_by_config_type(tmp_path):
    crystals = [
        *spoilt(strained(), config_type="elastic"),
        *spoilt(hot(), order=LAMMPS, config_type="hot"),
    ]
    (found,) = said(tmp_path, crystals)
    assert found.level == "error"
    assert found.count == 16
    assert "in config type 'hot' (16 structures)" in found.message
    assert "it would be wrong in config type 'elastic' (24 structures), so that no one" in found.message
    assert all("train.xyz, structure" in name for name in found.structures)
    assert verdicts(tmp_path, crystals)["config type 'elastic'"] == "sign and order right"


def test_a_mixture_of_orders_without_a_config_type_is_a_contradiction(tmp_path):
    (found,) = said(tmp_path, [*strained(), *spoilt(hot(), order=LAMMPS)])
    assert found.level == "warning"
    assert "data.keys.config_type" in found.message


def test_a_dataset_and_a_file_of_its_own_are_judged_alone(tmp_path):
    parts = {"good": strained(), "bad": spoilt(strained(seed=1), -1.0)}
    (found,) = said(tmp_path, parts)
    assert "in dataset 'bad' (24 structures)" in found.message
    assert "it would be wrong in dataset 'good'" in found.message


def test_volumes_tell_the_sign_and_no_order(tmp_path):
    assert verdicts(tmp_path, scanned()) == {"all structures": "sign right"}
    assert said(tmp_path, scanned()) == []  # there is no shear that could stand in another order
    (found,) = said(tmp_path, spoilt(scanned(), -1.0))
    assert "other sign" in found.message


def test_volumes_tell_the_sign_without_energies_and_forces(tmp_path):
    crystals = without(spoilt(scanned(), -1.0), "energy", "forces")
    (found,) = said(tmp_path, crystals, loss=loss("stress"))
    assert "correlates -0.99 with the volume" in found.message


def test_shear_tells_the_order_without_energies_and_forces(tmp_path):
    crystals = without(spoilt(strained(), order=VASP), "energy", "forces")
    (found,) = said(tmp_path, crystals, loss=loss("stress"))
    assert "data.voigt=vasp" in found.message


def test_forces_with_the_other_sign_are_not_taken_for_a_wrong_stress(tmp_path):
    crystals = [*strained(), *hot()]
    for atoms in crystals:
        atoms.calc.results["forces"] *= -1
    (found,) = said(tmp_path, without(crystals, "energy"))
    assert "Strain says that the stress is right: +data.signs.forces=-1" in found.message


def test_noise_at_equilibrium_tells_nothing(tmp_path):
    random = np.random.default_rng(0)
    crystals = strained(40, size=1e-5)
    for atoms in crystals:
        atoms.calc.results["stress"] = 1e-4 * random.normal(size=6)
    (found,) = said(tmp_path, crystals)
    assert found.level == "note"
    assert found.message == (
        "Neither strain nor forces tell the order of the shear components of the stress in all structures "
        "(40 structures), nor its sign in all structures (40 structures)."
    )


@pytest.mark.parametrize("seed", range(5))
def test_stresses_by_chance_are_not_accused(tmp_path, seed):
    """Random numbers agree with no order; a finding would be a false one."""
    random, crystals = np.random.default_rng(seed), [*strained(seed=seed), *hot(seed=seed)]
    for atoms in crystals:
        atoms.calc.results["stress"] = 0.01 * random.normal(size=6)
    assert [one.level for one in said(tmp_path, crystals)] in ([], ["note"])


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_few_structures_are_not_accused(tmp_path, num):
    assert all(one.level == "note" for one in said(tmp_path, spoilt(strained(num), order=VASP)))


def test_copies_are_no_further_evidence(tmp_path):
    """Five crystals do not become enough by being written down often, nor by a digit that differs."""
    random, copies = np.random.default_rng(0), []
    for atoms in spoilt(strained(5), order=VASP) * 20:
        copies.append(atoms.copy())
        results = {
            **atoms.calc.results,
            "stress": atoms.calc.results["stress"] * (1 + 1e-6 * random.normal()),
        }
        copies[-1].calc = SinglePointCalculator(copies[-1], **results)
    assert all(one.level == "note" for one in said(tmp_path, copies))


def test_missing_stresses_do_not_count(tmp_path):
    crystals = spoilt(strained(), -1.0)
    (found,) = said(tmp_path, [*crystals, *without(strained(10, seed=1), "stress")])
    assert found.count == len(crystals)
    assert said(tmp_path, without(strained(), "stress"), loss=loss("energy", "forces")) == []


def test_molecules_have_no_stress_to_judge(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-14.0, forces=np.zeros((3, 3)))
    assert list(stress(subject(tmp_path, [atoms] * 3, loss=loss("energy", "forces")))) == []
    mixed = subject(tmp_path, [atoms, *strained()])
    assert findings(stress(mixed)) == []


def test_a_virial_is_judged_by_its_own_sign(tmp_path):
    crystals = [with_virial(atoms, 1.0) for atoms in strained()]
    (found,) = said(tmp_path, crystals, loss=loss("energy", "forces", "virial"))
    assert "The virial has the other sign" in found.message
    assert "+data.signs.virial=-1" in found.message
    right = [with_virial(atoms, -1.0) for atoms in strained()]
    assert said(tmp_path, right, loss=loss("energy", "forces", "virial")) == []
    (found,) = said(tmp_path, crystals)
    assert "+data.signs.virial=-1" in found.message  # the loss wants a stress, the file has a virial


def with_virial(atoms: Atoms, sign: float) -> Atoms:
    atoms.info["virial"] = sign * atoms.get_volume() * atoms.get_stress(voigt=False)
    del atoms.calc.results["stress"]
    return atoms


def test_a_virial_named_stress_is_recognized(tmp_path):
    crystals = strained(shear=0.5)
    for atoms in crystals:
        atoms.calc.results["stress"] *= -atoms.get_volume()
    messages = [one.message for one in said(tmp_path, crystals)]
    assert any("a virial in eV, which has the other sign: +data.keys.virial" in one for one in messages)


def test_order_of_structures_changes_nothing(tmp_path):
    crystals = [*spoilt(strained(), config_type="a"), *spoilt(hot(), order=VASP, config_type="b")]
    mixed = [crystals[i] for i in np.random.default_rng(0).permutation(len(crystals))]
    assert verdicts(tmp_path, crystals) == verdicts(tmp_path, mixed)


GROUP = {"keys": {"config_type": "group"}}
LEFT_OPEN = {
    "mlearn/Si_train.xyz.gz": set(),
    # shear of 0.5 % and of 1 % has stresses of opposite sign there, noise of its Brillouin zone
    "mlearn/Li_train.xyz.gz": {"config type 'Elastic'"},
    "MoNbTaW/train_subset.xyz.gz": set(),
    "BaTiO3_pol/BaTiO3.xyz.gz": set(),
    # three dimers in boxes
    "carbon_gap17/carbon_subset.xyz.gz": {"config type 'cluster'"},
    # 4 atoms, sheared in one way only
    "metatrain_small/carbon_reduced_100.xyz.gz": {"all structures"},
}


@pytest.mark.parametrize("name", LEFT_OPEN)
def test_data_of_others_are_right_or_left_open(name):
    options = GROUP if name.startswith("mlearn") else {}
    said = list(stress(of(Files(shared(name), cache=None, references="none", **options))))
    assert all(finding.level == "note" for finding in findings(said))
    (table,) = tables(said)
    assert {row[0] for row in table.rows if row[-1] != "sign and order right"} == LEFT_OPEN[name]


def test_the_mixed_order_of_a_public_set_is_found(tmp_path):
    """As the silicon of mlearn was published: the order of VASP in Elastic, another one in all else."""
    crystals = ase.io.read(shared("mlearn/Si_train.xyz.gz"), ":")
    for atoms in crystals:
        if "stress" in atoms.calc.results and atoms.info["group"] != "Elastic":
            six = atoms.calc.results["stress"]  # put down as xx yy zz xy xz yz, read as xx yy zz xy yz xz
            atoms.calc.results["stress"] = six[[0, 1, 2, 4, 3, 5]]
    (found,) = findings(stress(subject(tmp_path, crystals, **GROUP)))
    assert found.level == "error"
    assert found.count == 147
    assert "'AIMD-NVT' (90 structures), config type 'Vacancy' (57 structures)" in found.message
    assert "data.voigt='xx yy zz xz yz xy'" in found.message
    assert "it would be wrong in config type 'Elastic' (55 structures)" in found.message
