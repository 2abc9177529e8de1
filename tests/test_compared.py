"""Whatever a loss compares, a run tells errors of it, or says that it cannot."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest

import pesloss
from tests import files
from tests.trainings import said, trained

DATA = ["data=files", "data.cache=null", "data.val_fraction=0.4", "trainer.epochs=2"]
ONLY = ["loss=energy", "~loss.weights.energy", "~loss/term@loss.terms.energy"]
POLARIZATION = [
    *ONLY,
    "+loss.terms.p={_target_: pesloss.PropertyTerm, property: polarization, residual: modulo_quantum}",
]
OWN = "{name: levels, rows: atom, shape: [2], unit: eV}"


def written(folder: Path) -> list[str]:
    """Cells with a polarization on some branch, the dipole of charges, and two numbers of each atom."""
    random = np.random.default_rng(0)
    atoms = files.structures(24)
    for one in atoms:
        charges = random.normal(size=len(one))
        one.calc.results["dipole"] = (charges - charges.mean()) @ one.positions
        one.arrays["levels"] = random.normal(size=(len(one), 2))
        if one.cell.rank == 3:
            one.info["polarization"] = 0.1 + random.integers(-2, 3, size=3) @ one.cell.array
    ase.io.write(folder / "some.xyz", atoms, format="extxyz")
    return [*DATA, f"data.train={folder / 'some.xyz'}"]


def test_a_polarization_is_learned_on_any_branch_and_told_by_the_nearest(tmp_path):
    fit, fitted = trained(tmp_path / "run", *written(tmp_path), *POLARIZATION)
    assert fit.score == "polarization/mae_component" and fitted.best_score == pytest.approx(0.1, abs=0.05)


def test_derived_quantities_have_errors_and_are_in_the_checkpoint(tmp_path):
    term = "+loss.terms.d={_target_: pesloss.PropertyTerm, property: dipole, prediction: dipole_from_charges}"
    fit, fitted = trained(tmp_path / "run", *written(tmp_path), *ONLY, term)
    assert [*fit.required] == ["charges"] and [*fit.compared] == ["dipole"]
    assert fit.score == "dipole/mae_component" and fitted.best_score > 0
    cells = ase.io.read(tmp_path / "some.xyz", ":4")
    trained_one = pesloss.load(tmp_path / "run")
    for atoms, found in zip(cells, trained_one.predict(cells, ["dipole", "charges"]), strict=True):
        assert found["dipole"] == pytest.approx(found["charges"] @ atoms.positions, abs=1e-9)
    assert [*trained_one.predict(cells[0])] == ["dipole"]
    cells[0].calc = trained_one.calculator()
    assert cells[0].get_dipole_moment() == pytest.approx(trained_one.predict(cells[0])["dipole"])


def test_a_property_of_one_s_own_is_trained_told_and_loaded(tmp_path):
    term = f"+loss.terms.own={{_target_: pesloss.PropertyTerm, property: {OWN}}}"
    fit, _ = trained(tmp_path / "run", *written(tmp_path), *ONLY, term)
    assert fit.score == "levels/mae_component"
    assert pesloss.load(tmp_path / "run").predict(files.structures(2))[1]["levels"].shape == (4, 2)


def test_where_nothing_can_be_compared_the_last_epoch_is_kept_and_a_sentence_says_so(tmp_path):
    other = ["loss=energy", "+loss.terms.energy.label=total", "+data.keys.total=energy"]
    fit, fitted = trained(tmp_path / "run", *written(tmp_path), *other)
    assert not fit.compared and (fitted.best_epoch, fitted.best_score) == (2, None)
    assert "No label has the name of a prediction: no error is told" in said(fit)


def test_the_table_of_terms_has_each_part_under_its_name(tmp_path):
    fit, _ = trained(tmp_path / "run", *written(tmp_path), *POLARIZATION, "trainer.epochs=1")
    row = next(line for line in said(fit).splitlines() if line.startswith("│ p "))
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["p", "1", "e·Å", "ModuloQuantum(charge_quantum=1)", "Squared", "Labelled", "Mean"]
