"""Numbers of a wrong unit or sign are found by what physics says of them, and right ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Bohr, GPa, Hartree, kcal, mol

from pesloss.checks import Subject
from pesloss.checks.findings import Finding
from pesloss.checks.units import bond_ratios, units
from pesloss.checks.work import Works, force_slope, works
from pesloss.data import Bundled
from tests.checks.subjects import loss, of, subject

KCAL = kcal / mol


@pytest.fixture(scope="module")
def bundled() -> Subject:
    return of(Bundled(cache=None), loss())


def spoilt(one: Subject, *, length: float = 1.0, **factors: float) -> Subject:
    """The same numbers, as they would be had their units or signs been mistaken."""
    structures, atoms = dict(one.store.structures), dict(one.store.atoms)
    structures["cell"], atoms["positions"] = structures["cell"] * length, atoms["positions"] * length
    for name, factor in factors.items():
        (atoms if name == "forces" else structures)[name] = one.column(name) * factor
    return Subject(one.loss, replace(one.data, store=replace(one.store, structures=structures, atoms=atoms)))


def said(one: Subject) -> dict[str, Finding]:
    """The last finding of each dataset."""
    return {found.message.split("'")[1]: found for found in units(one)}


def copper(num: int, seed: int = 0, strain: float = 0.03, moved: float = 0.1) -> list[Atoms]:
    """Crystals by effective-medium theory, strained and rattled."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(num):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(moved, rng=rng)
        atoms.calc = EMT()
        labels = {name: getattr(atoms, f"get_{name}")() for name in ("potential_energy", "forces", "stress")}
        labels["energy"] = labels.pop("potential_energy")
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    return made


def test_right_units_say_nothing(bundled):
    assert list(units(bundled)) == []


def test_the_work_of_forces_and_stress_is_the_rise_of_the_energy(tmp_path):
    """What is missing is of the third order in what they differ by."""
    missing = []
    for size in (0.01, 0.005):
        (tmp_path / f"{size}").mkdir()
        done = works(subject(tmp_path / f"{size}", copper(40, strain=size, moved=2 * size)), np.arange(40))
        missing.append(np.abs(done.rise - done.by_forces - done.by_stress).max())
        assert len(done.rise) == 240
        assert missing[-1] < 0.2 * np.abs(done.rise).max()
    assert missing[1] == pytest.approx(missing[0] / 8, rel=0.1)


@pytest.mark.parametrize(
    "unit, factors, ratio",
    [
        ("energy=kcal/mol", {"energy": 1 / KCAL}, 23),
        ("energy=Hartree", {"energy": 1 / Hartree}, 0.037),
        ("forces=kcal/mol/Å", {"forces": 1 / KCAL}, 0.043),
        ("forces=Hartree/bohr", {"forces": Bohr / Hartree}, 51),
        ("forces=eV/bohr", {"forces": Bohr}, 1.9),
    ],
)
def test_energies_and_forces_of_different_units(bundled, unit, factors, ratio):
    found = said(spoilt(bundled, **factors))["molecules"]
    assert found.level == "error"
    assert f"+data.units.{unit}" in found.message
    number = float(found.message.split("rise by ")[1].split()[0])
    assert number == pytest.approx(ratio, rel=0.15)


def test_gradients_in_place_of_forces(bundled):
    found = said(spoilt(bundled, forces=-1.0))["molecules"]
    assert found.level == "error"
    assert found.message.endswith("+data.signs.forces=-1?")


def test_forces_that_no_unit_explains(bundled):
    found = said(spoilt(bundled, forces=1 / 170))["molecules"]
    assert found.level == "warning"
    assert "No unit explains it" in found.message


def test_energies_per_atom(bundled):
    num_atoms = bundled.store.structures["num_atoms"]
    found = said(spoilt(bundled, energy=1 / num_atoms))["molecules"]
    assert "energies per atom: +data.units.energy=eV/atom" in found.message


@pytest.mark.parametrize("unit, factor", [("GPa", 1 / GPa), ("kbar", 10 / GPa), ("kbar", -10 / GPa)])
def test_stress_of_another_unit(bundled, unit, factor):
    found = said(spoilt(bundled, stress=factor))["crystals"]
    assert found.level == "error"
    assert f"+data.units.stress={unit}" in found.message
    assert ("+data.signs.stress=-1" in found.message) == (factor < 0)


def test_the_sign_of_a_stress_is_for_another_check(bundled):
    assert said(spoilt(bundled, stress=-1.0)) == {}


def test_stress_of_another_unit_without_energies(tmp_path):
    one = subject(tmp_path, copper(20, strain=0.1), loss=loss("forces", "stress"))
    assert list(units(one)) == []
    (found,) = units(spoilt(one, stress=10 / GPa))
    assert found.level == "warning"
    assert "If it is in GPa or kbar" in found.message


def test_lengths_in_bohr(bundled):
    assert "data.units.length=bohr" in said(spoilt(bundled, length=1 / Bohr))["crystals"].message
    found = list(units(spoilt(bundled, length=Bohr)))
    assert "converted from bohr without being in bohr" in found[0].message


def test_lengths_in_nanometres():
    molecules = of(Bundled(["molecules"], cache=None))  # crystals would have neighbours without number
    found = list(units(spoilt(molecules, length=0.1)))
    assert "+data.units.length=nm?" in found[0].message


def test_bonds_are_about_as_long_as_covalent_radii(bundled):
    ratios = bond_ratios(bundled, np.arange(len(bundled.store)))
    assert np.median(ratios) == pytest.approx(1.0, abs=0.05)


def test_noble_gases_and_lone_atoms_have_no_bonds(tmp_path):
    one = subject(tmp_path, [bulk("Ar", cubic=True), Atoms("H")], loss=loss("energy"))
    assert len(bond_ratios(one, np.arange(2))) == 0


def test_forces_and_energies_both_in_kcal_per_mol(bundled):
    found = said(spoilt(bundled, energy=1 / KCAL, forces=1 / KCAL))
    assert "half of its forces are larger than 25.9 eV/Å" in found["molecules"].message
    assert "+data.units.energy=kcal/mol" in found["crystals"].message


@pytest.mark.parametrize("name, unit", [("Hartree", Hartree), ("kcal/mol", KCAL), ("Ry", Hartree / 2)])
def test_totals_of_all_electrons_tell_their_unit(tmp_path, name, unit):
    totals = {"H2O": -76.4, "CH4": -40.5, "CH3OH": -115.7, "C6H6": -232.2, "NH3": -56.5}
    made = []
    for i in range(15):
        species = list(totals)[i % 5]
        atoms = molecule(species)
        atoms.calc = SinglePointCalculator(atoms, energy=(totals[species] + 0.01 * i) * Hartree / unit)
        made.append(atoms)
    one = subject(tmp_path, made, loss=loss("energy"))
    (found,) = units(one)
    assert found.level == "warning"
    assert f"+data.units.energy={name}?" in found.message
    assert list(units(spoilt(one, energy=unit))) == []


def test_molecules_are_turned_upon_each_other(bundled):
    """Rotating each frame with its forces changes nothing."""
    rng, store = np.random.default_rng(0), bundled.store
    (rows,) = (np.flatnonzero(inside) for name, inside in bundled.datasets() if name == "molecules")
    atoms = dict(store.atoms) | {name: store.atoms[name].copy() for name in ("positions", "forces")}
    for row in rows.tolist():
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        turn *= np.linalg.det(turn)
        for name in ("positions", "forces"):
            atoms[name][bundled.atoms(row)] = atoms[name][bundled.atoms(row)] @ turn
    turned = Subject(bundled.loss, replace(bundled.data, store=replace(store, atoms=atoms)))
    for mine, theirs in zip(works(bundled, rows), works(turned, rows), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-8)


def test_atoms_that_cross_the_border_of_the_cell_have_not_moved(tmp_path):
    wrapped = copper(12, strain=0.0)
    for i, atoms in enumerate(wrapped):
        atoms.positions += i * atoms.cell[0]
        atoms.positions[i % 4] -= atoms.cell[1]
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    ones = [
        subject(folder, some) for folder, some in zip(folders, (copper(12, strain=0.0), wrapped), strict=True)
    ]
    first, second = (works(one, np.arange(12)) for one in ones)
    np.testing.assert_allclose(first.by_forces, second.by_forces, atol=1e-6)


def test_cells_that_have_nothing_in_common_make_no_pair(tmp_path):
    structures = copper(12, strain=0.0)
    for atoms in structures[::2]:
        atoms.set_cell(atoms.cell[[1, 0, 2]] * [-1, 1, 1], scale_atoms=False)
    done = works(subject(tmp_path, structures), np.arange(12))
    assert len(done.rise) == 12 * 5
    assert done.strain.max() == 0


def test_noise_in_the_energies_says_nothing(tmp_path):
    structures = copper(30, strain=0.0)
    rng = np.random.default_rng(1)
    for atoms in structures:
        atoms.calc.results["energy"] += 100 * rng.normal()
    assert list(units(subject(tmp_path, structures))) == []


def test_few_pairs_or_a_method_with_a_smaller_error_say_nothing():
    rng = np.random.default_rng(0)
    work = rng.normal(size=40)
    zero, one = np.zeros(40), np.ones(40)
    assert not force_slope(Works(1.3 * work, work, zero, zero, one)).wrong
    assert force_slope(Works(2.0 * work, work, zero, zero, one)).wrong
    few = Works(*(part[:12] for part in (2.0 * work, work, zero, zero, one)))
    assert not force_slope(few).wrong


def test_missing_labels_and_single_structures(tmp_path):
    structures = copper(12, strain=0.0)
    for atoms in structures[:4]:
        atoms.calc.results.pop("energy")
    structures[5].calc.results["forces"][1] = np.nan
    one = subject(tmp_path, [*structures, Atoms("Cu")])
    assert len(works(one, np.arange(13)).rise) == 7 * 6
    assert list(units(one)) == []
    assert list(units(subject(tmp_path, structures[:1]))) == []


def test_a_mixture_is_told_by_dataset(tmp_path):
    wrong = copper(40, seed=1, strain=0.0)
    for atoms in wrong:
        atoms.calc.results["forces"] = -atoms.calc.results["forces"]
    assert set(said(subject(tmp_path, {"right": copper(40, strain=0.0), "wrong": wrong}))) == {"wrong"}
