"""The stress of a model is the derivative of its energy by strain, and judges that of labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from pesloss.checks.stress import finite_strain, stress_by_model
from pesloss.models.trained import load
from tests.checks.crystals import VASP, spoilt, with_labels
from tests.checks.subjects import subject
from tests.trained import checkpoint, crystal


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return load(checkpoint(tmp_path_factory.mktemp("run")))


def crystals(num=24):
    return [with_labels(crystal(100 + seed)) for seed in range(num)]


def test_finite_strain_is_the_stress_of_a_calculator():
    atoms = crystal(1)
    found = finite_strain(EMT(), atoms)
    atoms.calc = EMT()
    np.testing.assert_allclose(found, atoms.get_stress(voigt=False), atol=1e-5)
    np.testing.assert_array_equal(found, found.T)


def test_a_stretched_crystal_pulls():
    atoms = bulk("Cu", a=3.8)
    assert np.diag(finite_strain(EMT(), atoms)).min() > 0


def test_atoms_and_their_calculator_are_left_alone():
    atoms = with_labels(crystal(2))
    before, calculator = atoms.copy(), atoms.calc
    finite_strain(EMT(), atoms)
    assert atoms == before
    assert atoms.calc is calculator


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_finite_strain_is_the_stress_of_a_trained_potential(trained, dtype):
    atoms = crystal(3)
    stress = trained.predict(atoms, ["stress"])["stress"]
    np.testing.assert_allclose(finite_strain(trained.to(dtype), atoms), stress, atol=1e-4)


@pytest.mark.parametrize(
    ("atoms", "step", "match"), [(molecule("H2O"), 1e-3, "volume"), (crystal(), 0.0, "step")]
)
def test_what_cannot_be_strained_is_refused(atoms, step, match):
    with pytest.raises(ValueError, match=match):
        finite_strain(EMT(), atoms, step)


def test_right_labels_are_silent(tmp_path, trained):
    assert list(stress_by_model(subject(tmp_path, crystals()), trained)) == []


@pytest.mark.parametrize(
    ("options", "cure"), [({"factor": -1.0}, "+data.signs.stress=-1"), ({"order": VASP}, "data.voigt=vasp")]
)
def test_wrong_labels_are_contradicted(tmp_path, trained, options, cure):
    (found,) = stress_by_model(subject(tmp_path, spoilt(crystals(), **options)), trained)
    assert found.level == "warning"
    assert cure in found.message


def test_what_a_model_cannot_tell_is_said(tmp_path, trained):
    (note,) = stress_by_model(subject(tmp_path, crystals(2)), trained)
    assert note.level == "note" and "does not tell sign and order of the stress" in note.message


def test_a_stress_that_is_not_the_derivative_is_found(tmp_path, trained, monkeypatch):
    predict = trained.predict
    turned = lambda atoms, names: [{"stress": -one["stress"]} for one in predict(atoms, names)]  # noqa: E731
    monkeypatch.setattr(
        trained,
        "predict",
        lambda atoms, names: (
            turned(atoms, names) if names == ["stress"] and isinstance(atoms, list) else predict(atoms, names)
        ),
    )
    found = list(stress_by_model(subject(tmp_path, crystals()), trained))
    assert [one.level for one in found] == ["error"]
    assert "it is -1 times that" in found[0].message


def test_elements_that_the_potential_does_not_know_are_left_out(tmp_path, trained):
    silver = [with_labels(bulk("Ag", cubic=True)) for _ in range(3)]
    assert list(stress_by_model(subject(tmp_path, silver), trained)) == []
