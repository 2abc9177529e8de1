"""A trained potential relaxes molecules and crystals and conserves energy in molecular dynamics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import pesloss
from pesloss.models.calculator import PotentialCalculator
from tests import trained as tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture
def calculator(path) -> PotentialCalculator:
    return pesloss.load(path).calculator()


def with_calculator(atoms: Atoms, calculator: PotentialCalculator) -> Atoms:
    atoms.calc = calculator
    return atoms


@pytest.mark.parametrize("make", [tiny.cluster, tiny.crystal])
def test_forces_are_slopes_of_the_energy(calculator, make):
    atoms = with_calculator(make(3), calculator)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)


def test_stress_is_the_slope_of_the_energy_with_strain(calculator):
    atoms = with_calculator(tiny.crystal(3), calculator)
    numerical = calculate_numerical_stress(atoms, eps=1e-5, voigt=True)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


def test_a_molecule_relaxes(calculator):
    atoms = with_calculator(tiny.cluster(7), calculator)
    before = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    assert atoms.get_potential_energy() < before - 0.1
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.01


def test_a_cell_relaxes(calculator):
    atoms = with_calculator(tiny.crystal(7), calculator)
    before = atoms.get_potential_energy()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=200)
    assert atoms.get_potential_energy() < before - 0.1
    assert np.abs(atoms.get_stress()).max() < 1e-3


def fluctuation(calculator: PotentialCalculator, step: float, time: float = 100.0) -> tuple[float, float]:
    """Standard deviations of total and of kinetic energy along molecular dynamics, in eV."""
    atoms = with_calculator(tiny.crystal(3), calculator)
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3)) * np.sqrt(units.kB * 300)
    atoms.set_momenta(momenta * np.sqrt(atoms.get_masses())[:, None])
    dynamics = VelocityVerlet(atoms, step * units.fs)
    energies = []
    for _ in range(round(time / step)):
        dynamics.run(1)
        energies.append((atoms.get_total_energy(), atoms.get_kinetic_energy()))
    total, kinetic = np.std(energies, axis=0)
    return float(total), float(kinetic)


def test_molecular_dynamics_conserves_energy_to_second_order_of_the_step(calculator):
    coarse, _ = fluctuation(calculator, 2.0)
    fine, kinetic = fluctuation(calculator, 1.0)
    assert fine < 1e-3 * kinetic
    assert coarse / fine == pytest.approx(4, rel=0.25)


def test_energy_and_results_are_those_of_the_model(path, calculator):
    atoms = with_calculator(tiny.crystal(), calculator)
    expected = pesloss.load(path).predict(atoms, ["energy", "charges", "dipole"])
    assert atoms.get_potential_energy() == pytest.approx(float(expected["energy"]), abs=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_charges(), expected["charges"], atol=1e-12)
    np.testing.assert_allclose(atoms.get_dipole_moment(), expected["dipole"], atol=1e-12)
    assert set(calculator.implemented_properties) == {
        *("energy", "free_energy", "forces", "stress", "charges", "dipole")
    }


def test_nothing_is_computed_twice(calculator):
    atoms = with_calculator(tiny.crystal(), calculator)
    atoms.get_forces(), atoms.get_stress()
    calls = []
    batch = calculator.trained.batch
    calculator.trained.batch = lambda atoms: (calls.append(atoms), batch(atoms))[1]
    atoms.rattle(0.01)
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    assert len(calls) == 1


def test_it_follows_from_structure_to_structure(calculator):
    atoms = with_calculator(tiny.crystal(), calculator)
    atoms.get_stress()
    alone = with_calculator(tiny.cluster(), calculator)
    assert alone.get_forces().shape == (5, 3)
    with pytest.raises(
        PropertyNotImplementedError, match=r"Cu5 has no stress, because its cell .* no volume"
    ):
        alone.get_stress()
    with pytest.raises(PropertyNotImplementedError, match="magmoms"):
        alone.get_magnetic_moments()
    with pytest.raises(ValueError, match="not trained on Au"):
        with_calculator(Atoms("Au"), calculator).get_potential_energy()


def test_single_precision_is_a_choice(path):
    atoms = with_calculator(tiny.crystal(), pesloss.load(path).calculator(dtype=torch.float32))
    exact = with_calculator(tiny.crystal(), pesloss.load(path).calculator())
    assert atoms.get_forces() == pytest.approx(exact.get_forces(), abs=1e-4)
    assert atoms.get_forces().dtype == np.float64
