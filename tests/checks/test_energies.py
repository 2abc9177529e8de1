"""References, outliers and totals: what is wrong is named, what matter does is silent."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pesloss.checks.compositions import fitted, medians, robust
from pesloss.checks.energies import energy_outliers, energy_per_atom, references
from tests import files
from tests.checks.subjects import findings, loss, subject, tables

ATOMS = {"H": -13.6, "C": -1027.0, "O": -2041.8, "N": -1485.3}  # eV, of an all-electron method
BOUND = {"H": -2.5, "C": -7.0, "O": -4.5, "N": -4.8}  # eV, what an atom gains in a molecule
NAMES = ("H2O", "CH4", "CH3CH2OH", "CO2", "NH3", "C6H6", "CH3CONH2", "HCN", "C2H4", "H2CO", "CH3COOH", "N2O")


def energy(atoms: Atoms, elements: dict[str, float] = ATOMS) -> float:
    return sum(elements[symbol] + BOUND[symbol] for symbol in atoms.symbols)


def labelled(atoms: Atoms, value: float) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, energy=value, forces=np.zeros((len(atoms), 3)))
    return atoms


def molecules(num: int = 48, seed: int = 0, names=NAMES) -> list[Atoms]:
    random = np.random.default_rng(seed)
    made = []
    for i in range(num):
        atoms = molecule(names[i % len(names)])
        atoms.rattle(0.03, rng=random)
        made.append(labelled(atoms, energy(atoms) + 0.05 * len(atoms) * random.normal()))
    return made


def shifted(structures: list[Atoms], change) -> list[Atoms]:
    """The same with ``change(energy, atoms)`` as their energies."""
    return [labelled(atoms, change(atoms.get_potential_energy(), atoms)) for atoms in structures]


def found(check, folder, train, **options):
    options = {"loss": loss("energy"), **options}
    return findings(check(subject(folder, train, **options)))


class TestReferences:
    def test_right_ones_are_silent(self, tmp_path):
        assert found(references, tmp_path, molecules(), references=ATOMS) == []
        assert found(references, tmp_path, molecules(), test=molecules(12, 1)) == []

    def test_no_matter_is_bound_so_differently(self, tmp_path):
        spread = np.random.default_rng(0).normal(size=48)
        atoms = iter(spread)
        wide = shifted(molecules(), lambda value, one: value + 23.06 * len(one) * next(atoms))
        (warning,) = found(references, tmp_path, wide)
        assert "more than the bonds of any matter are worth" in warning.message

    def test_what_every_element_has(self, tmp_path):
        (table,) = tables(references(subject(tmp_path, molecules(), loss=loss("energy"), references=ATOMS)))
        assert "12 distinct compositions" in table.title
        rows = {row[0]: row[1:] for row in table.rows}
        assert list(rows) == ["H", "C", "N", "O"]
        assert rows["O"][:2] == (-2041.8, 28)
        for symbol, (_, _, share, error) in rows.items():
            assert share == pytest.approx(BOUND[symbol], abs=5 * error) and error < 0.1

    def test_pseudopotentials_need_none(self, tmp_path):
        metals = [labelled(bulk("W", a=3.1 + 0.01 * i) * (1, 1, 1 + i), -12.9 * (1 + i)) for i in range(12)]
        assert found(references, tmp_path, metals, references="none") == []

    @pytest.mark.parametrize("given", ["none", {symbol: e + 60 for symbol, e in ATOMS.items()}])
    def test_wrong_ones_are_told_by_what_they_leave(self, given, tmp_path):
        (finding,) = found(references, tmp_path, molecules(), references=given)
        assert finding.level == "warning"
        assert "composition alone explains 100 %" in finding.message
        assert "These reference energies look wrong; data.references=fit" in finding.message

    def test_the_wrong_element_is_named(self, tmp_path):
        """Most structures have none of it, so that the middle of all is what it should be."""
        (finding,) = found(references, tmp_path, molecules(240), references={**ATOMS, "N": ATOMS["N"] - 40})
        assert "(per atom N +35" in finding.message and " H " not in finding.message.partition("rms")[0]

    def test_energies_above_those_of_free_atoms(self, tmp_path):
        unbound = shifted(molecules(), lambda value, atoms: value + 12 * len(atoms))
        (finding,) = found(references, tmp_path, unbound, references=ATOMS)
        assert "eV an atom in the middle, where -15 to 2 are usual" in finding.message

    def test_one_composition_leaves_them_open(self, tmp_path):
        same = molecules(12, names=("CH3CH2OH",))
        (finding,) = found(references, tmp_path, same, test=molecules(3, 1, ("CH3CH2OH",)))
        assert finding.level == "note" and "H and O always occur as 6:1" in finding.message
        note, warning = found(references, tmp_path, same, test=molecules(2, 1, ("CH3CH2OH", "H2O")))
        assert (note.level, warning.level) == ("note", "warning")
        assert warning.count == 1 and "H2O" in warning.structures[0]

    def test_given_ones_are_never_open(self, tmp_path):
        assert found(references, tmp_path, molecules(12, names=("H2O",)), references=ATOMS) == []

    def test_as_many_compositions_as_elements(self, tmp_path):
        (finding,) = found(references, tmp_path, molecules(12, names=("H2O", "H2")))
        assert finding.level == "note" and "as many compositions as there are elements (2)" in finding.message

    def test_an_element_that_training_lacks(self, tmp_path):
        train, test = molecules(12, names=("H2O", "CH4", "C2H4")), molecules(2, 1, ("NH3", "H2O"))
        (finding,) = found(references, tmp_path, train, test=test, references=ATOMS)
        assert (finding.level, finding.count) == ("warning", 1)
        assert "1 of 2 test structures have elements that no training structure has (N)" in finding.message

    def test_it_is_found_without_energies_too(self, tmp_path):
        train, test = molecules(3, names=("H2O",)), molecules(2, 1, ("NH3", "H2O"))
        assert len(found(references, tmp_path, train, test=test, loss=loss("forces"))) == 1

    def test_datasets_of_different_methods(self, tmp_path):
        other = shifted(molecules(24, 1), lambda value, atoms: value - 3.2 * len(atoms))
        (finding,) = found(references, tmp_path, {"pbe": molecules(), "hybrid": other}, references=ATOMS)
        assert (finding.level, finding.count) == ("warning", 24)
        assert "dataset 'hybrid' are -3.2" in finding.message and "dataset 'pbe'" in finding.message

    def test_a_test_set_of_another_method(self, tmp_path):
        other = shifted(molecules(24, 1), lambda value, atoms: value - 9.0 * atoms.symbols.count("C"))
        (finding,) = found(references, tmp_path, molecules(), test=other)
        assert "Energies of the test set are" in finding.message and "the train set" in finding.message

    def test_datasets_of_one_method_are_silent(self, tmp_path):
        """Molecules and crystals, small and large: what they differ by is chemistry."""
        water = molecules(24, 1, ("H2O",))
        crystals = [labelled(atoms, energy(atoms) - 3 * len(atoms)) for atoms in self._diamonds(24)]
        parts = {"all": molecules(), "water": water, "diamond": crystals}
        assert found(references, tmp_path, parts, references=ATOMS) == []

    def test_energies_are_not_needed(self, tmp_path):
        assert list(references(subject(tmp_path, files.structures(6), loss=loss("forces")))) == []

    @staticmethod
    def _diamonds(num: int) -> list[Atoms]:
        return [bulk("C", a=3.5 + 0.01 * i) for i in range(num)]


class TestOutliers:
    def test_noise_is_silent(self, tmp_path):
        assert found(energy_outliers, tmp_path, molecules(120), references=ATOMS) == []
        assert list(energy_outliers(subject(tmp_path, files.structures(40), loss=loss()))) == []

    @pytest.mark.parametrize("given", ["fit", "none", ATOMS], ids=["fit", "none", "given"])
    def test_they_are_named_the_worst_first(self, given, tmp_path):
        structures = molecules(120)
        for i, change in ((7, -60.0), (50, 90.0)):
            shifted([structures[i]], lambda value, atoms, change=change: value + change)
        said = list(energy_outliers(subject(tmp_path, structures, loss=loss("energy"), references=given)))
        (finding,), (table,) = findings(said), tables(said)
        assert (finding.level, finding.count) == ("warning", 2)
        assert (
            "structure 7 (CHN)" in finding.structures[0] and "structure 50 (C2H6O)" in finding.structures[1]
        )
        assert table.rows[0][2] == pytest.approx(-20, abs=0.5)
        assert table.rows[1][2] == pytest.approx(10, abs=0.5)

    def test_one_of_a_few_alike_needs_a_greater_distance(self, tmp_path):
        """Of ozone composition knows little: oxygen is in other bonds elsewhere."""
        ozone = labelled(molecule("O3"), 3 * (ATOMS["O"] - 1.5))
        assert found(energy_outliers, tmp_path, [*molecules(120), ozone], references=ATOMS) == []
        labelled(ozone, 3 * (ATOMS["O"] + 40))
        assert len(found(energy_outliers, tmp_path, [*molecules(120), ozone], references=ATOMS)) == 1

    def test_what_close_atoms_explain_is_a_note(self, tmp_path):
        structures = molecules(120)
        structures[0].positions[1] = structures[0].positions[0] + [0, 0, 0.55]
        labelled(structures[0], energy(structures[0]) + 40)
        (finding,) = found(energy_outliers, tmp_path, structures)
        assert finding.level == "note" and "closer than in any bond" in finding.message

    def test_free_atoms_are_no_outliers(self, tmp_path):
        alone = [labelled(Atoms(symbol), value) for symbol, value in ATOMS.items()]
        boxed = [labelled(Atoms(symbol, cell=np.eye(3) * 12, pbc=True), e) for symbol, e in ATOMS.items()]
        assert found(energy_outliers, tmp_path, [*molecules(120), *alone, *boxed]) == []


class TestTotals:
    @pytest.mark.parametrize("elements", [ATOMS, dict.fromkeys(ATOMS, 0.0)], ids=["totals", "bound"])
    def test_totals_are_silent(self, elements, tmp_path):
        structures = [labelled(atoms, energy(atoms, elements)) for atoms in molecules()]
        assert found(energy_per_atom, tmp_path, structures, loss=per_atom_loss()) == []

    def test_energies_per_atom_are_found_in_their_dataset(self, tmp_path):
        divided = shifted(molecules(48, 1), lambda value, atoms: value / len(atoms))
        parts = {"right": molecules(), "divided": divided}
        (finding,) = found(energy_per_atom, tmp_path, parts, loss=per_atom_loss(), references=ATOMS)
        assert (finding.level, finding.count) == ("warning", 48)
        assert "Energies of dataset 'divided' look as if they are energies per atom" in finding.message
        assert "data.units.energy=eV/atom" in finding.message

    def test_the_unit_mends_it(self, tmp_path):
        divided = shifted(molecules(), lambda value, atoms: value / len(atoms))
        options = {"loss": per_atom_loss(), "units": {"energy": "eV/atom"}}
        assert found(energy_per_atom, tmp_path, divided, **options) == []

    def test_a_unit_per_atom_of_totals_is_found(self, tmp_path):
        options = {"loss": per_atom_loss(), "units": {"energy": "eV/atom"}}
        (finding,) = found(energy_per_atom, tmp_path, molecules(), **options)
        assert "multiplied by the number of atoms once too often" in finding.message

    def test_sizes_that_do_not_vary_tell_nothing(self, tmp_path):
        divided = shifted(molecules(24, names=("NH3", "H2CO")), lambda value, atoms: value / 4)
        assert found(energy_per_atom, tmp_path, divided, loss=per_atom_loss()) == []

    def test_few_compositions_tell_nothing(self, tmp_path):
        """Two of three elements, whose energies any reading explains."""
        few = molecules(24, names=("CH3CH2OH", "CH4"))
        assert found(energy_per_atom, tmp_path, few, loss=per_atom_loss()) == []

    def test_relative_energies_are_neither(self, tmp_path):
        random = np.random.default_rng(0)
        centred = shifted(molecules(), lambda value, atoms: random.normal())
        assert found(energy_per_atom, tmp_path, centred, loss=per_atom_loss()) == []

    def test_a_pure_element_is_enough(self, tmp_path):
        metals = [labelled(bulk("Cu") * (1, 1, 1 + i), -3.5 - 0.01 * (i % 3)) for i in range(12)]
        assert len(found(energy_per_atom, tmp_path, metals, loss=per_atom_loss())) == 1

    def test_totals_of_uneven_sizes(self, tmp_path):
        sizes = [labelled(bulk("Cu") * (1, 1, n), -3.5 * n) for n in (2, 2, 4, 8, 8)]
        (finding,) = found(energy_per_atom, tmp_path, sizes)
        assert finding.level == "note"
        assert "2 to 8 atoms" in finding.message and "costs 16 times as much" in finding.message
        assert "a weight of 1 on totals of 4 atoms is one of 16" in finding.message
        assert found(energy_per_atom, tmp_path, sizes, loss=per_atom_loss()) == []
        sizes[0].info["weight"] = 2.0
        assert found(energy_per_atom, tmp_path, sizes) == []


def per_atom_loss():
    from pesloss import NormalLoss

    return NormalLoss({"energy": {"penalty": "squared", "residual": "per_atom"}})


class TestLeastSquares:
    def test_they_are_those_of_numpy(self):
        random = np.random.default_rng(0)
        x, y = random.random((50, 4)), random.normal(size=50)
        fit = fitted(x, y)
        np.testing.assert_allclose(fit.energies, np.linalg.lstsq(x, y, rcond=None)[0], rtol=1e-10)
        variance = (fit.left**2).sum() / 46
        np.testing.assert_allclose(
            fit.errors, np.sqrt(variance * np.diag(np.linalg.inv(x.T @ x))), rtol=1e-10
        )
        assert fit.unusual(x).mean() == pytest.approx(1.0)
        assert fit.reaches(random.random((5, 4))).all()

    def test_what_is_open_has_no_error(self):
        x = np.random.default_rng(0).integers(1, 5, (30, 2)).astype(float)
        x = np.column_stack([x, 3 * x[:, 0], np.zeros(30)])
        fit = fitted(x, x[:, 1])
        np.testing.assert_array_equal(np.isfinite(fit.errors), [False, True, False, False])
        assert fit.rank == 2 and fit.energies[1] == pytest.approx(1.0)
        np.testing.assert_array_equal(
            fit.reaches(np.array([[1, 0, 3, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)),
            [True, False, True, False],
        )

    def test_outliers_do_not_move_robust_ones(self):
        random = np.random.default_rng(0)
        x = random.random((100, 3))
        y = x @ [1.0, 2.0, 3.0] + 0.01 * random.normal(size=100)
        y[::10] += 1e4
        left = robust(x, y)
        assert np.abs(np.delete(left, np.s_[::10])).max() < 0.1

    def test_medians_of_groups(self):
        values, group = np.array([5.0, 1.0, 3.0, 2.0, 9.0]), np.array([7, 2, 7, 2, 7])
        np.testing.assert_array_equal(medians(values, group), [5, 1, 5, 1, 5])
