"""A label that stands out is found by file and row; heavy tails and relaxed structures are not alarms."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pesloss.checks import Subject
from pesloss.checks.outliers import outliers
from tests.checks.subjects import findings, loss, subject, tables


def frames(num: int, scale: float = 1.0, tail: float = 0.0, seed: int = 0) -> list[Atoms]:
    """Molecules with forces of some size, which differ by a factor exp(tail) from one to the next."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(num):
        atoms = molecule("CH3OH")
        forces = scale * np.exp(tail * rng.normal()) * rng.normal(size=(6, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=forces - forces.mean(axis=0))
        made.append(atoms)
    return made


def of(folder, structures, **options) -> Subject:
    return subject(folder, structures, loss=loss("energy", "forces"), **options)


def spoilt(structures: list[Atoms], row: int, factor: float) -> list[Atoms]:
    structures[row].calc.results["forces"] *= factor
    return structures


def test_usual_forces_are_no_outliers_and_the_largest_are_in_the_table(tmp_path):
    one = of(tmp_path, spoilt(frames(40), 7, 3.0))
    said = list(outliers(one))
    assert findings(said) == []
    (table,) = tables(said)
    assert table.rows[0][:2] == ("forces", one.name(7))
    assert len(table.rows) == 5


def test_heavy_tails_are_no_outliers(tmp_path):
    assert findings(outliers(of(tmp_path, frames(300, scale=0.5, tail=1.0)))) == []


def test_one_structure_far_out(tmp_path):
    one = of(tmp_path, spoilt(frames(60), 11, 300.0))
    (found,) = findings(outliers(one))
    assert found.level == "warning"
    assert found.structures == (one.name(11),)
    assert "'forces' is far out in 1 structure of 60" in found.message
    assert "100% of the sum of squares" in found.message


def test_so_many_that_they_are_no_longer_rare(tmp_path):
    structures = frames(50)
    for row in range(0, 50, 5):
        spoilt(structures, row, 1e5)
    (found,) = findings(outliers(of(tmp_path, structures)))
    assert found.count == 10


def test_a_hot_structure_among_relaxed_ones_is_no_outlier(tmp_path):
    assert findings(outliers(of(tmp_path, [*frames(60, scale=1e-3), *frames(1, scale=1.0)]))) == []


def test_each_dataset_has_a_usual_size_of_its_own(tmp_path):
    assert findings(outliers(of(tmp_path, {"cold": frames(50, 1e-3), "hot": frames(3, 8.0)}))) == []


def test_large_forces_in_a_tail_are_worth_a_note(tmp_path):
    (found,) = findings(outliers(of(tmp_path, spoilt(frames(60, scale=4.0), 3, 8.0))))
    assert found.level == "note"
    assert "exceeds 50 eV/Å in 1 structure" in found.message
    assert "Huber" in found.message


def test_forces_of_another_unit_are_left_to_the_check_of_units(tmp_path):
    assert findings(outliers(of(tmp_path, frames(60, scale=40.0)))) == []


def test_few_structures_and_missing_labels_say_nothing(tmp_path):
    structures = spoilt(frames(6), 0, 1e6)
    structures[1].calc.results.pop("forces")
    structures[2].calc.results["forces"][2] = np.nan
    said = list(outliers(of(tmp_path, structures)))
    assert [found.level for found in findings(said)] == ["note"]
    assert {row[3] for row in tables(said)[0].rows} == {None}
    bare = [molecule("H2O")]
    assert list(outliers(of(tmp_path, bare))) == []


def test_other_labels_than_forces(tmp_path):
    structures = frames(40)
    for i, atoms in enumerate(structures):
        atoms.calc.results["dipole"] = np.array([0.1, 0.2, 0.3 + 0.01 * i]) * (1 if i != 5 else 50)
    one = subject(tmp_path, structures, loss=loss("energy", "dipole"))
    (found,) = findings(outliers(one))
    assert "'dipole' is far out in 1 structure of 40" in found.message
    assert found.structures == (one.name(5),)
